"""What an installation put outside of its own directory, written down before it is put there: so that it is known as ours, and can be taken away again."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ..host.files import write_atomically
from ..model.errors import BangerError


@dataclass(frozen=True, slots=True)
class Inventory:
    """Absolute paths on the installed system (without the root of a staged one)."""

    files: frozenset[str] = frozenset()
    directories: frozenset[str] = frozenset()
    """That were made, and are removed again once they are empty."""

    def with_more(self, files: Iterable[str], directories: Iterable[str]) -> Inventory:
        """This and those."""
        return Inventory(self.files | set(files), self.directories | set(directories))


def read_inventory(path: Path) -> Inventory:
    """What is written down; an empty inventory when nothing is. Raises BangerError when it cannot be read."""
    try:
        document = json.loads(path.read_bytes())
        return Inventory(frozenset(map(str, document["files"])), frozenset(map(str, document["directories"])))
    except FileNotFoundError:
        return Inventory()
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise BangerError(
            f"{path} cannot be read: {error}", hint=f"remove {path}, and what of banger lies in /usr/local/bin and /etc/systemd/system"
        ) from error


def write_inventory(path: Path, inventory: Inventory) -> None:
    """Write it down durably."""
    document = {"files": sorted(inventory.files), "directories": sorted(inventory.directories)}
    write_atomically(path, json.dumps(document, indent=1).encode() + b"\n", mode=0o644)
