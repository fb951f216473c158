"""The user-mode network: no card, or a card behind passt, or behind QEMU's built-in stack where passt is missing. Needs no privileges."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from ..host.paths import VMLayout
from ..host.run import find_tool
from ..model.errors import MissingTool
from ..model.machine import NetworkCard
from ..model.records import ProcessIdentity
from . import passt
from .protocol import Attachment, NetworkPlace

log = logging.getLogger(__name__)

_ADDRESS: Final = "10.0.2.15"
_PREFIX: Final = 24
_GATEWAY: Final = "10.0.2.2"
_BUILTIN_NAMESERVER: Final = "10.0.2.3"


class UserNetwork:
    """Network without privileges. Every machine has the same addresses; none can reach another, or be reached."""

    def __init__(self) -> None:
        self._children: dict[str, ProcessIdentity] = {}

    async def attach(self, vm_id: str, files: VMLayout, place: NetworkPlace, *, nat: bool, uid: int) -> Attachment:
        """No card without ``nat``. Raises CommandFailed when passt is there and cannot run."""
        if not nat:
            return Attachment(mode="none", card=None, helper=None)
        try:
            binary = find_tool("passt")
        except MissingTool as missing:
            return _builtin(vm_id, missing)
        card = _card(vm_id, passt.nameservers(), files.network_socket)
        self._children[vm_id] = relay = await passt.start(binary, vm_id, files, card, uid)
        warning = "" if card.nameservers else "this host's /etc/resolv.conf names no IPv4 resolver: the guest cannot resolve names"
        return Attachment(mode="passt", card=card, helper=relay, warning=warning)

    async def detach(self, vm_id: str, files: VMLayout, place: NetworkPlace) -> None:
        """End passt and its relay if they are still there, which they are not when the VMM has ended."""
        await passt.end(vm_id, files, self._children.pop(vm_id, None))

    async def list_helpers(self, vms: Path) -> Mapping[str, tuple[ProcessIdentity, ...]]:
        """Relays, and instances of passt, that write to a log below ``vms``."""
        return await asyncio.to_thread(passt.list_helpers, vms)


def _builtin(vm_id: str, missing: MissingTool) -> Attachment:
    warning = f"{missing.message}: with QEMU's built-in network the guest can reach services on this host's 127.0.0.1 (at {_GATEWAY}); {missing.hint}"
    return Attachment(mode="builtin", card=_card(vm_id, (_BUILTIN_NAMESERVER,), None), helper=None, warning=warning)


def _card(vm_id: str, nameservers: tuple[str, ...], socket: Path | None) -> NetworkCard:
    return NetworkCard(mac=mac_of(vm_id), address=_ADDRESS, prefix=_PREFIX, gateway=_GATEWAY, nameservers=nameservers, socket=socket)


def mac_of(vm_id: str) -> str:
    """The machine's MAC address: QEMU's prefix for locally administered ones, and 24 bits that stay the same for its life."""
    digest = hashlib.sha256(vm_id.encode()).hexdigest()
    return f"52:54:00:{digest[:2]}:{digest[2:4]}:{digest[4:6]}"
