"""What can be done with the groups of an instance's machines, whoever makes them."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Final, Protocol

from ...model.machine import GroupUsage, Limits
from ...model.records import ProcessIdentity

SYSTEM_INSTANCE: Final = "system"
"""The instance that ``banger system install`` makes."""
_INSTANCE: Final = re.compile("[a-z0-9]{1,16}")
_VM_ID: Final = re.compile("[0-9a-f]{32}")


Spawn = Callable[[tuple[str, ...], tuple[int, ...]], ProcessIdentity]
"""Starts the program: with these words before it, and these descriptors inherited besides its own."""


class Groups(Protocol):
    """The groups of one instance. Reading needs no privileges; all is found again from the instance's word and the machine's id."""

    def enforced(self) -> frozenset[str]:
        """Which limits hold here: of ``cpu``, ``memory``, ``pids``, ``io``."""

    async def start(self, vm_id: str, limits: Limits, spawn: Spawn) -> ProcessIdentity:
        """Make the machine's group and start a process in it, which runs none of its program outside of it.

        ``spawn`` is called once, in a thread. Raises VmmError, CommandFailed or what ``spawn`` raises; leaves neither a process nor a group behind then.
        """

    async def limit(self, vm_id: str, limits: Limits) -> None:
        """Change the limits of a group that exists. Raises VmmError or CommandFailed."""

    async def remove(self, vm_id: str) -> None:
        """Remove the group; success when there is none. Raises VmmError while a process is in it."""

    def members(self, vm_id: str) -> frozenset[int]:
        """Pids of the processes in the machine's group."""

    def machines(self) -> frozenset[str]:
        """Ids of the machines that have a group, with processes in it or without."""

    def usage(self, vm_id: str) -> GroupUsage | None:
        """What the machine's group says; None when there is none."""


def noted(spawn: Spawn, started: list[ProcessIdentity]) -> Spawn:
    """The same, and what it has started is in the list: whoever is cancelled meanwhile still has to end it."""

    def spawn_and_note(wrapper: tuple[str, ...], descriptors: tuple[int, ...]) -> ProcessIdentity:
        started.append(process := spawn(wrapper, descriptors))
        return process

    return spawn_and_note


def joined(parts: Sequence[GroupUsage]) -> GroupUsage | None:
    """One answer from several hierarchies, each of which counts something else; None from none."""
    if not parts:
        return None
    known = [{name: value for name, value in asdict(part).items() if value is not None} for part in parts]
    return replace(parts[0], **{name: value for part in known for name, value in part.items()})


def check_instance(word: str) -> str:
    """The word itself, which becomes a part of names of groups. Raises ValueError."""
    if not _INSTANCE.fullmatch(word):
        raise ValueError(f"{word!r} names no instance")
    return word


def is_vm_id(word: str) -> bool:
    """Whether this may be the name of a machine's group."""
    return _VM_ID.fullmatch(word) is not None


def read_number(text: Mapping[str, str], name: str) -> int | None:
    """A number of a file of ``name value`` lines."""
    return int(text[name]) if text.get(name, "").isdigit() else None
