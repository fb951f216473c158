"""banger: a clean Linux machine with its own kernel in one command."""

__version__ = "0.1.0"
