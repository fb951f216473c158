"""Programs of the host, and the packages that they are in."""

from __future__ import annotations

from collections.abc import Sequence

from ..host.run import PACKAGES, find_tool
from ..model.checks import Status
from ..model.errors import MissingTool
from .outcome import Command, Fix, Result


def no_tool(name: str) -> bool:
    """Whether that program is missing."""
    try:
        find_tool(name)
    except MissingTool:
        return True
    return False


def missing_tools(names: Sequence[str], consequence: str, status: Status = "fail") -> Result:
    """That these are not installed, and the one command that installs them where there is apt; elsewhere the packages as Debian calls them."""
    packages = list(dict.fromkeys(package for name in names for package in PACKAGES.get(name, name).split()))
    detail = f"not installed: {', '.join(names)}; {consequence}"
    if no_tool("apt-get"):
        return Result(status, detail, f"install what Debian calls {', '.join(packages)}")
    fix = Fix((Command(("apt-get", "install", "--yes", *packages)),))
    return Result(status, detail, f"sudo apt-get install {' '.join(packages)}", fix)
