"""Network modes of a machine."""
