"""The capability of being reached by ssh: a host key per machine, pinned in a known_hosts file of ours, one key of the user for all of them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from contextlib import suppress

from ..access.keys import KeyPair, ensure_key, remove_half_made
from ..access.known_hosts import HostPins
from ..access.ssh_config import render
from ..access.sshd import sshd_files
from ..host.files import write_atomically
from ..host.paths import Layout, private_directory
from ..host.run import find_tool
from ..model.errors import BadRequest, MissingTool
from ..model.records import VMRecord
from .capabilities import Finding, GuestPart

log = logging.getLogger(__name__)


class SshAccess:
    """Makes keys while the machine boots; a host without ssh-keygen has machines all the same."""

    name = "ssh"

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._pins = HostPins(layout.ssh_known_hosts)
        self._making: dict[str, asyncio.Task[tuple[KeyPair, KeyPair]]] = {}
        self._one_maker = asyncio.Lock()

    async def prepare_host(self, record: VMRecord) -> None:
        """Begin to make the keys; nobody waits for them here."""
        self._making[record.id] = asyncio.create_task(self._make_keys(record), name=f"ssh keys of {record.id}")

    async def contribute_guest(self, record: VMRecord) -> GuestPart:
        making = self._making.pop(record.id, None)
        try:
            host_key, user_key = await (making if making is not None else self._make_keys(record))
        except MissingTool as error:
            log.warning("the machine cannot be reached by ssh", extra={"vm_id": record.id, "error": error.message})
            return GuestPart()
        return GuestPart(files=sshd_files(host_key, user_key.public))

    async def clean_up(self, vm_id: str) -> None:
        """End the making of keys; those that are made stay with the machine."""
        making = self._making.pop(vm_id, None)
        if making is not None:
            making.cancel()
            await asyncio.gather(making, return_exceptions=True)
        with suppress(NotADirectoryError):
            remove_half_made(self._layout.vm(vm_id).ssh_host_key)

    async def forget(self, vm_id: str) -> None:
        self._pins.forget(vm_id)

    async def resume(self, records: Sequence[VMRecord]) -> None:
        """Write the pins of all machines, and the configuration, whose paths may be others than those of the last daemon."""
        if not self._layout.ssh_identity.exists():
            return
        self._pins.load({record.id: (record.name, public) for record in records if (public := self._public_of(record.id))})
        try:
            await self.ensure_configuration()
        except (BadRequest, MissingTool) as error:
            log.warning("ssh's configuration could not be written", extra={"error": error.message})

    async def check_host(self) -> tuple[Finding, ...]:
        try:
            find_tool("ssh-keygen")
            return (Finding(name="ssh client", status="pass", detail=str(find_tool("ssh"))),)
        except MissingTool as error:
            detail = f"{error.message}: no `vm ssh`, scp, rsync or git over ssh; `vm shell` and `vm exec` work without"
            return (Finding(name="ssh client", status="warn", detail=detail, remedy=error.hint),)

    async def ensure_configuration(self) -> KeyPair:
        """Have the user's key, the pins and the configuration that names them. Raises MissingTool, CommandFailed, BadRequest, OSError."""
        async with self._one_maker:
            content = render(self._layout).encode()
            private_directory(self._layout.ssh)
            key = await ensure_key(self._layout.ssh_identity, "banger")
            self._pins.write()
            if not self._layout.ssh_config.exists() or self._layout.ssh_config.read_bytes() != content:
                write_atomically(self._layout.ssh_config, content)
        return key

    async def _make_keys(self, record: VMRecord) -> tuple[KeyPair, KeyPair]:
        user_key = await self.ensure_configuration()
        host_key = await ensure_key(self._layout.vm(record.id).ssh_host_key, record.name)
        self._pins.pin(record.id, record.name, host_key.public)
        return host_key, user_key

    def _public_of(self, vm_id: str) -> str:
        path = self._layout.vm(vm_id).ssh_host_key
        try:
            return " ".join(path.with_name(f"{path.name}.pub").read_text().split()[:2])
        except OSError:
            return ""
