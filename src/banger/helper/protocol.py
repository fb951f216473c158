"""What needs privileges, as typed verbs in three groups. Each group has two implementations: one that acts, in a process that is root
(``network/``, ``names/``, ``vmms/``), and one that asks the helper (``client``), where the first runs behind ``server``.

Verbs take ids, numbers and shapes, never free paths. Each is idempotent: "already so" is success, and what is undone needs nothing but what is named here.
All raise BangerError: BadRequest (refused), MissingTool, CommandFailed, and HelperUnreachable from the client.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from ..model.machine import Limits
from ..model.network import NetworkPlan, NetworkState
from ..model.records import ProcessIdentity


@dataclass(frozen=True, slots=True, kw_only=True)
class HelperInfo:
    """What a helper says of itself."""

    version: str
    network: NetworkPlan
    pid: int
    uid: int
    """The uid it serves."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """A VMM process to start in bounds of its own. Its files come as descriptors beside this."""

    vm_id: str
    program: str
    """Word for a program that the helper finds itself: ``qemu``."""
    arguments: tuple[str, ...]
    """Without the program. ``@fdN@`` stands for the number of the Nth descriptor that is handed over (from 0)."""
    uid: int
    """From the range reserved for VMMs (``model.limits``); no two machines have the same."""
    limits: Limits
    kvm: bool
    """It may open /dev/kvm."""


class NetworkOps(Protocol):
    """The bridge's network."""

    async def ensure_network(self) -> NetworkState:
        """Make bridge, address, forwarding and firewall tables, or repair what somebody removed of them, rules and sets of running machines included.

        ``nat`` elements that were lost with a table are restored by the caller (``set_nat``), who knows the machines; pins of taps by this verb.
        Raises BadRequest when the name is taken by something that is not ours, the subnet overlaps a route, or the address is used.
        """

    async def inspect_network(self) -> NetworkState:
        """What there is; changes nothing."""

    async def warm_taps(self, slots: Sequence[int]) -> None:
        """Make taps of these slots, complete with their pins, for later ``attach_tap``; at most 64 at once."""

    async def attach_tap(self, vm_id: str, slot: int, *, nat: bool) -> None:
        """Make the slot's tap ready for this machine: existing, on the bridge, isolated, its MAC and address pinned, up, and to be opened by the daemon's uid.

        ``nat`` lets its address out, or takes that away. A warm tap costs no process.
        """

    async def release_taps(self, slots: Sequence[int], *, keep: bool) -> None:
        """Nobody uses these slots any more: their NAT ends, their taps go, or stay as warm ones when ``keep``. Success when there is nothing."""

    async def set_nat(self, addresses: Mapping[str, bool]) -> None:
        """Let these addresses out, or not, in one atomic change; connections of those that lose it are cut."""

    async def remove_network(self) -> None:
        """Remove bridge, taps and tables; forwarding goes back to what it was when we turned it on."""


class NameOps(Protocol):
    """Names of machines, and the host's resolver."""

    async def bind_dns(self) -> tuple[socket.socket, socket.socket]:
        """A UDP and a listening TCP socket on port 53 of the bridge's address, non-blocking."""

    async def route_resolver(self, port: int) -> str:
        """Have the host's resolver ask 127.0.0.1:``port`` for ``.vm``; returns "" when done, else a recipe in words for the administrator."""

    async def clear_resolver(self) -> None:
        """Undo ``route_resolver``."""


class VmmOps(Protocol):
    """VMM processes in bounds of their own."""

    async def launch_vmm(self, launch: Launch, descriptors: Sequence[int]) -> ProcessIdentity:
        """Start the VMM as its own uid, without privileges, in its own cgroup or scope; the last descriptor gets its stdout and stderr.

        Raises VmmError; leaves neither a process nor a cgroup behind then.
        """

    async def signal_vmm(self, vm_id: str, process: ProcessIdentity, signal: str) -> bool:
        """Send TERM, KILL, INT, HUP, QUIT, USR1, USR2 or ABRT to this very process if it is in the machine's cgroup; False when it is gone."""

    async def list_vmms(self) -> Mapping[str, ProcessIdentity]:
        """VMM processes by VM id, as the cgroups show them."""

    async def limit_vmm(self, vm_id: str, limits: Limits) -> None:
        """Change the limits of a machine that runs."""

    async def release_vmm(self, vm_id: str) -> None:
        """Remove the machine's cgroup or scope, which must be empty of processes. Success when there is none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PrivilegedOps:
    """All of them, as a daemon has them."""

    network: NetworkOps
    names: NameOps
    vmms: VmmOps
