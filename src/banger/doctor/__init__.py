"""Looks at this host for what banger needs, in the caller's own process: also when no daemon can start. Changes nothing but by ``fixes``."""
