"""What ``doctor`` says of names: who answers at our ports, and whether this host's own lookups reach us."""

from __future__ import annotations

import asyncio
import secrets
import socket
from typing import Final, Literal

from ..helper.names import recipe
from ..helper.names.resolved import is_running
from ..host.run import run
from ..model.errors import BangerError
from ..model.network import NetworkPlan
from ..net.dns.face import Face
from ..net.dns.message import IN, Code, Type, write_name
from .capabilities import Finding

PROBE: Final = ("doctor-probe-not-a-real-vm", "vm")
_PROBE_SECONDS: Final = 0.5
_LOOKUP_SECONDS: Final = 3.0
_AUTHORITATIVE: Final = 0x0400


async def check_names(host: Face, guests: Face, plan: NetworkPlan, port: int, machines: int, routing_failed: str) -> tuple[Finding, ...]:
    """``machines``: how many have a name now; ``routing_failed``: why the resolver could not be told, when it could not."""
    return (
        await _face("names", host, "127.0.0.1", port, machines),
        await _face("names for guests", guests, str(plan.gateway), 53, machines),
        await _lookups(host, plan, port, machines, routing_failed),
    )


async def _face(name: str, face: Face, address: str, port: int, machines: int) -> Finding:
    if not face.is_open:
        problem = face.problem or BangerError("not open yet", hint="banger doctor again in a moment")
        return Finding(name=name, status="warn", detail=problem.message, remedy=problem.hint)
    if machines == 0 and address != "127.0.0.1":  # there may be no bridge yet, and so no way to ask
        return Finding(name=name, status="pass", detail=f"{face.name} listens")
    said = await asyncio.to_thread(ask_probe, address, port)
    if said == "ours":
        return Finding(name=name, status="pass", detail=f"{face.name} answers for {machines} {'machine' if machines == 1 else 'machines'}")
    return Finding(name=name, status="warn", detail=f"{face.name} is ours, but the probe was answered: {said}", remedy="a firewall may be in between")


def ask_probe(address: str, port: int) -> str:
    """Ask for a machine that cannot be: ``ours`` when that is denied with authority, else what happened, in words."""
    ident = secrets.randbelow(65536)
    question = write_name(*(label.encode() for label in PROBE)) + Type.A.to_bytes(2, "big") + IN.to_bytes(2, "big")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
        sock.settimeout(_PROBE_SECONDS)
        try:
            sock.connect((address, port))
            sock.send(ident.to_bytes(2, "big") + b"\0\0\0\1\0\0\0\0\0\0" + question)
            untrusted = sock.recv(4096)
        except OSError as error:
            return "no answer" if isinstance(error, TimeoutError) else error.strerror or "no answer"
    flags = int.from_bytes(untrusted[2:4], "big")
    if untrusted[:2] != ident.to_bytes(2, "big"):
        return "an answer to something else"
    return "ours" if flags & 0xF == Code.NXDOMAIN and flags & _AUTHORITATIVE else "an answer that is not ours"


async def _lookups(host: Face, plan: NetworkPlan, port: int, machines: int, routing_failed: str) -> Finding:
    """A lookup as any program of this host makes one; it has reached us or not, whatever comes of it."""
    name = "names on this host"
    if host.is_open and await lookup_arrives(host):
        return Finding(name=name, status="pass", detail="lookups of NAME.vm reach banger")
    if routing_failed:
        return Finding(name=name, status="warn", detail=routing_failed, remedy="journalctl -u systemd-resolved; it is told again every minute")
    if not is_running():
        return Finding(name=name, status="warn", detail="lookups of NAME.vm do not reach banger (no systemd-resolved)", remedy=recipe(plan.bridge, port))
    status: Literal["pass", "warn"] = "warn" if machines else "pass"
    detail = "lookups of NAME.vm do not reach banger" if machines else "systemd-resolved is told when the first machine runs"
    return Finding(
        name=name, status=status, detail=detail, remedy=f"resolvectl status {plan.bridge}; /etc/nsswitch.conf and /etc/resolv.conf" if machines else ""
    )


async def lookup_arrives(host: Face) -> bool:
    """Look up a name that nobody has asked for, by the C library's ways (getent(1)), and see whether somebody asks us for it."""
    label = f"doctor-{secrets.token_hex(8)}"
    with host.responder.expecting(label) as arrived:
        looking = asyncio.create_task(run(["getent", "ahostsv4", f"{label}.vm"], deadline=_LOOKUP_SECONDS, allowed=range(256)))
        waiting = asyncio.create_task(arrived.wait())
        await asyncio.wait({looking, waiting}, return_when=asyncio.FIRST_COMPLETED)
        for task in (looking, waiting):
            task.cancel()
        await asyncio.gather(looking, waiting, return_exceptions=True)
        return arrived.is_set()
