"""Switches below /proc/sys/net of this network namespace."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from ...model.errors import CommandFailed

_ROOT: Final = Path("/proc/sys/net")
_FORWARD: Final = _ROOT / "ipv4/ip_forward"


def forwards() -> bool:
    """The host forwards IPv4."""
    return _FORWARD.read_text().strip() != "0"


def set_forwarding(*, on: bool) -> None:
    """Have the host forward IPv4, or not. Raises CommandFailed."""
    _write(_FORWARD, "1" if on else "0")


def has_ipv6(link: str) -> bool:
    """IPv6 is not switched off on this link."""
    try:
        return _no_ipv6(link).read_text().strip() != "1"
    except FileNotFoundError:  # a kernel without IPv6
        return False


def switch_off_ipv6(link: str) -> None:
    """No IPv6 on this link, not even an address of its own. Raises CommandFailed."""
    if has_ipv6(link):
        _write(_no_ipv6(link), "1")


def _no_ipv6(link: str) -> Path:
    return _ROOT / "ipv6/conf" / link / "disable_ipv6"


def _write(path: Path, value: str) -> None:
    try:
        path.write_text(value)
    except OSError as error:
        raise CommandFailed(f"{path} cannot be written: {error.strerror}", hint="in a container, /proc/sys/net must be writable") from error
