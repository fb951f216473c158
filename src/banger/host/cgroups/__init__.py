"""Cgroups of VMMs: one per machine, of an instance each, made by us (``raw``) or by systemd (``scopes``)."""
