"""The bridge's network on the host it runs in: what acts behind ``NetworkOps``."""
