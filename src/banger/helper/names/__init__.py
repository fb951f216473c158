"""Names on the host this runs on, as root: port 53 of the bridge, and the host's resolver."""

from .host import HostNames
from .recipes import recipe

__all__ = ["HostNames", "recipe"]
