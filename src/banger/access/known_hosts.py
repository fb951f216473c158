"""The known_hosts file of an instance: exactly the host keys that were given to its machines, so that nothing is ever trusted blindly."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ..host.files import write_atomically
from ..model.names import check_vm_name

DOMAIN = "vm"


class HostPins:
    """Machine id -> name and public host key; the file follows every change."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._pins: dict[str, tuple[str, str]] = {}
        self._written = b""

    def load(self, pins: Mapping[str, tuple[str, str]]) -> None:
        """Replace all pins: machine id -> (name, public key)."""
        self._pins = dict(pins)
        self.write()

    def pin(self, vm_id: str, name: str, public: str) -> None:
        """This machine has this host key."""
        self._pins[vm_id] = (name, public)
        self.write()

    def forget(self, vm_id: str) -> None:
        """The machine is gone; nothing when it had no pin."""
        if self._pins.pop(vm_id, None) is not None:
            self.write()

    def write(self) -> None:
        """Have the file as it should be."""
        lines = sorted(f"{host_name(name)} {public}\n" for name, public in self._pins.values())
        content = "".join(lines).encode()
        if content != self._written or not self._path.exists():
            write_atomically(self._path, content, durable=False)
            self._written = content


def host_name(name: str) -> str:
    """What a machine is called on ssh's command line."""
    return f"{check_vm_name(name)}.{DOMAIN}"
