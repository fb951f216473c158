"""VMM processes that are started with privileges, run without any, and live in bounds of their own."""
