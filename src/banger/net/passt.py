"""passt for one machine: its command line, the nameservers that work behind it, starting and ending it with its relay."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from ..host import process, sockets
from ..host.files import tail
from ..host.paths import VMLayout
from ..host.run import spawn
from ..model.errors import CommandFailed
from ..model.machine import NetworkCard
from ..model.records import ProcessIdentity

DNS_FORWARDER: Final = "10.0.2.3"
_RESOLV_CONF: Final = Path("/etc/resolv.conf")
_RELAY: Final = Path(__file__).with_name("relay.py")
_READY_DEADLINE: Final = 10.0
_QUOTED: Final = 1000
_GRACE: Final = 2.0
_NOBODY: Final = 65534
_HELPER: Final = re.compile(rb"(?:passt-)?banger-network-(?P<vm_id>[0-9a-f]{32})")


def passt_command(binary: Path, card: NetworkCard) -> list[str]:
    """passt's argument vector, without the descriptor of its connection.

    IPv4 alone; nothing forwarded in; the gateway's address does not mean the host's loopback; queries to ``DNS_FORWARDER`` go to the
    host's resolver wherever that listens (UDP only).
    """
    return [
        *(str(binary), "--foreground", "--quiet", "--ipv4-only", "--no-map-gw", "--tcp-ports", "none", "--udp-ports", "none"),
        *("--address", card.address, "--netmask", str(card.prefix), "--gateway", card.gateway),
        *(("--dns-forward", DNS_FORWARDER) if DNS_FORWARDER in card.nameservers else ()),
    ]


def nameservers(resolv_conf: Path = _RESOLV_CONF) -> tuple[str, ...]:
    """What the guest's resolv.conf shall name: the host's own IPv4 resolvers, or passt's forwarder where the first listens on the loopback; none when
    the host names none of IPv4.

    Directly where possible, because the forwarder knows no TCP.
    """
    try:
        words = [line.split() for line in resolv_conf.read_text(errors="replace").splitlines()]
    except OSError:
        return ()
    found = [_ipv4(word[1]) for word in words if len(word) > 1 and word[0] == "nameserver"]
    addresses = [address for address in found if address]
    # A resolver on the loopback is not passed over for a later one: it may be what answers for private names.
    if addresses and (addresses[0].is_loopback or addresses[0].is_unspecified):
        return (DNS_FORWARDER,)
    return tuple(str(address) for address in addresses if not address.is_loopback)[:3]


def _ipv4(untrusted: str) -> ipaddress.IPv4Address | None:
    try:
        return ipaddress.IPv4Address(untrusted)
    except ValueError:
        return None


def helper_name(vm_id: str) -> str:
    """The argument by which a machine's relay is recognised in the process list; passt's own first argument is ``passt-`` and this."""
    return f"banger-network-{vm_id}"


async def start(binary: Path, vm_id: str, files: VMLayout, card: NetworkCard, uid: int) -> ProcessIdentity:
    """Start relay and passt, serving one connection on the VM's network socket; returns the relay when passt answers.

    Both run as ``uid``; -1 means ourselves, or nobody when we are root. Raises CommandFailed when passt cannot run here; nothing is left then.
    """
    if uid < 0 and os.geteuid() == 0:
        uid = _NOBODY
    await end(vm_id, files)
    files.network_log.unlink(missing_ok=True)
    ready, ready_end = os.pipe2(os.O_CLOEXEC)
    with os.fdopen(ready, "rb", buffering=0) as answer:
        try:
            relay = _spawn_relay(passt_command(binary, card), vm_id, files, card, uid, ready_end)
        finally:
            os.close(ready_end)
        try:
            if await _said_ready(answer):
                return relay
            raise CommandFailed(f"passt could not start:\n{_complaints(files)}", hint="start the machine without --nat")
        except BaseException:
            await end(vm_id, files, relay)
            raise


def _spawn_relay(passt: Sequence[str], vm_id: str, files: VMLayout, card: NetworkCard, uid: int, ready: int) -> ProcessIdentity:
    # Python and the script may lie where the VMM's uid cannot go, so the relay starts as we are and gives its privileges up itself.
    with sockets.listen(files.network_socket, backlog=1) as listener:
        fds = (listener.fileno(), ready)
        words = [helper_name(vm_id), *map(str, (*fds, uid)), card.mac.replace(":", ""), card.address, card.gateway, *passt]
        return spawn([sys.executable, "-I", "-S", _RELAY, *words], output=files.network_log, pass_fds=fds)


def _complaints(files: VMLayout) -> str:
    # Where no syslog runs, passt complains about that after every line of its own.
    lines = tail(files.network_log, 65536).splitlines()
    return "\n".join(line for line in lines if line.strip() and not line.startswith("Failed to send "))[:_QUOTED]


async def _said_ready(answer: object) -> bool:
    reader = asyncio.StreamReader(limit=64)
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), answer)
    try:
        async with asyncio.timeout(_READY_DEADLINE):
            return await reader.read(64) == b"ready\n"
    except TimeoutError:
        return False
    finally:
        transport.close()


async def end(vm_id: str, files: VMLayout, child: ProcessIdentity | None = None) -> None:
    """End relay (and with it passt) of this VM and remove what they left; success when there is nothing.

    ``child`` is the relay when this process started it: it is reaped, which the process list could not bring about for one that has ended.
    """
    if child is not None:
        await process.end(child, grace=_GRACE)
    if not files.network_socket.exists():  # made before the relay, removed after it
        return
    for helper in await asyncio.to_thread(_find, vm_id):
        with contextlib.suppress(PermissionError):  # somebody else's process that bears the same name
            await process.end(helper, grace=_GRACE)
    files.network_socket.unlink(missing_ok=True)
    files.network_log.unlink(missing_ok=True)


def _find(vm_id: str) -> list[ProcessIdentity]:
    relay = helper_name(vm_id).encode()
    found = [process.identify(pid) for pid, words in process.command_lines() if relay in words or words[0] == b"passt-" + relay]
    return [identity for identity in found if identity.start_time]


def list_helpers(vms: Path) -> dict[str, tuple[ProcessIdentity, ...]]:
    """Relays, and instances of passt that we may look at, of machines below ``vms``, by VM id. Ending a relay ends its passt."""
    found: dict[str, tuple[ProcessIdentity, ...]] = {}
    for pid, words in process.command_lines():
        match = next((match for word in words if (match := _HELPER.fullmatch(word))), None)
        if match is None or not process.holds_below(pid, vms / (vm_id := match["vm_id"].decode())):
            continue
        if (identity := process.identify(pid)).start_time:
            found[vm_id] = (*found.get(vm_id, ()), identity)
    return found
