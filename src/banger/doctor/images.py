"""What making images takes: tools, namespaces, subordinate ids; and whether the default image is here."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from typing import Final

from ..host.run import find_tool
from ..image import namespace
from ..image.catalog_files import CatalogFiles
from ..model.checks import Status
from ..model.errors import BangerError
from ..model.limits import DEFAULT_IMAGE
from ..store.inspection import look
from .ground import Ground
from .outcome import Command, Fix, Result, failed, passed, refused, skipped
from .packages import missing_tools, no_tool

IMAGE_TOOLS: Final = ("mmdebstrap", "apt-get", "dpkg-deb", "depmod", "lz4", "unshare", "setpriv")
"""What building the default image and kernel takes."""
_IDS_NEEDED: Final = 65536
_FIRST_ID: Final = 100000
"""login.defs(5), SUB_UID_MIN."""
_SWITCHES: Final = {
    "/proc/sys/kernel/unprivileged_userns_clone": ("0", "kernel.unprivileged_userns_clone=1", "Debian's switch is off"),
    "/proc/sys/user/max_user_namespaces": ("0", "user.max_user_namespaces=15000", "none may be made"),
    "/proc/sys/kernel/apparmor_restrict_unprivileged_userns": (
        "1",
        "kernel.apparmor_restrict_unprivileged_userns=0",
        "AppArmor restricts them (Ubuntu since 23.10)",
    ),
}
"""File, its value that forbids user namespaces, what allows them, and the reason in words."""


def tools(ground: Ground) -> Result:
    """Programs that build images from recipes; container images are taken apart without any."""
    absent = [tool for tool in IMAGE_TOOLS if no_tool(tool)]
    return missing_tools(absent, "images cannot be built from recipes", _severity(ground)) if absent else passed(", ".join(IMAGE_TOOLS))


def _severity(ground: Ground) -> Status:
    """Without any image nothing runs before one has been built."""
    return "warn" if _has_image(ground) else "fail"


def _has_image(ground: Ground) -> bool:
    try:
        found = look(ground.layout.database)
    except BangerError:
        return False
    return found is not None and bool(found.images)


def switches(ground: Ground) -> Result:
    """Settings of the kernel that forbid user namespaces to ordinary users."""
    if ground.uid == 0:
        return skipped("root builds without user namespaces")
    closed = [(setting, why) for file, (value, setting, why) in _SWITCHES.items() if ground.read(file).strip() == value]
    if not closed:
        return passed("allowed for ordinary users")
    fix = Fix(tuple(Command(("sysctl", "-w", setting)) for setting, _ in closed))
    return Result(_severity(ground), f"user namespaces: {'; '.join(why for _, why in closed)}", fix.text(), fix)


def namespaces(ground: Ground) -> Result:
    """That one can really be made, with the user's ids in it."""
    if not ground.is_owner:
        return skipped(f"only {ground.user} can try")
    try:
        asyncio.run(namespace.check())
    except BangerError as error:
        return refused(error, _severity(ground))
    return passed("root" if os.geteuid() == 0 else "user namespaces with subordinate ids work")


def subordinate_ids(ground: Ground) -> Result:
    """Files of other users than root in an image take a range of ids (subuid(5): name:first:count)."""
    if ground.uid == 0:
        return skipped("root needs none")
    if no_tool("newuidmap"):
        return missing_tools(["newuidmap"], "images cannot be built from recipes", _severity(ground))
    ranges = {file: _largest_range(ground, file) for file in ("/etc/subuid", "/etc/subgid")}
    if min(ranges.values()) >= _IDS_NEEDED:
        return passed(f"{min(ranges.values())} for {ground.user}")
    free = _free_range(ground)
    fix = Fix((Command(("usermod", "--add-subuids", free, "--add-subgids", free, ground.user)),))
    short = ", ".join(f"{file}: {count}" for file, count in ranges.items() if count < _IDS_NEEDED)
    return Result(_severity(ground), f"{ground.user} has too few ids ({short}; {_IDS_NEEDED} are needed)", fix.text(), fix)


def _largest_range(ground: Ground, file: str) -> int:
    lines = [line.split(":") for line in ground.read(file).splitlines()]
    counts = [int(line[2]) for line in lines if len(line) == 3 and line[0] in (ground.user, str(ground.uid)) and line[2].isdigit()]
    return max(counts, default=0)


def _free_range(ground: Ground) -> str:
    """Behind all ranges that somebody has: shared ids would let users at each other's files."""
    lines = [line.split(":") for file in ("/etc/subuid", "/etc/subgid") for line in ground.read(file).splitlines()]
    first = max((int(line[1]) + int(line[2]) for line in lines if len(line) == 3 and line[1].isdigit() and line[2].isdigit()), default=_FIRST_ID)
    return f"{max(first, _FIRST_ID)}-{max(first, _FIRST_ID) + _IDS_NEEDED - 1}"


def default_image(ground: Ground) -> Result:
    """Here, or known to a catalog."""
    name = DEFAULT_IMAGE if ground.config is None else ground.config.default_image_name
    try:
        found = look(ground.layout.database)
        if found is not None and name in found.images:
            return passed(f"{name} is here")
        known = any(entry.name == name for entry in CatalogFiles(ground.layout.catalogs).read().images())
    except BangerError as error:
        return refused(error)
    if known:
        return passed(f"{name} is built on first use (banger image pull {name} builds it now)")
    remedy = "install banger again" if name == DEFAULT_IMAGE else "change default_image_name in config.toml (banger config show); banger image list --available"
    return failed(f"{name} is neither here nor in the catalog", remedy)


def git(_: Ground) -> Result:
    """Workspaces are read by it, on the host alone."""
    return missing_tools(["git"], "vm workspace and vm run --workspace need it", "warn") if no_tool("git") else passed(str(find_tool("git")))


CHECKS: Final[tuple[tuple[str, str, Callable[[Ground], Result]], ...]] = (
    ("images.tools", "image building", tools),
    ("images.namespace-switches", "user namespaces", switches),
    ("images.subordinate-ids", "subordinate ids", subordinate_ids),
    ("images.namespaces", "namespaces", namespaces),
    ("images.default", "default image", default_image),
    ("images.git", "git", git),
)
