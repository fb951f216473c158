"""Asking what listens in a guest whether it speaks HTTP. What answers is untrusted: little of it is read, and not for long."""

from __future__ import annotations

import asyncio
import re
from typing import Final

from ..guest.agent import Agent
from ..model.errors import BangerError

SECONDS: Final = 1.0
"""For one port, whatever it does."""
ANSWER_LIMIT: Final = 4096
MAX_PROBES: Final = 64
"""At once: each is a stream of the guest, which has 256."""

_OTHER_PORTS: Final = frozenset({21, 22, 25, 53, 110, 111, 139, 143, 445, 465, 587, 993, 995, 2049, 3306, 5432, 5672, 5900, 6379, 11211, 27017, 33060})
_OTHER_PROCESSES: Final = frozenset(
    """dnsmasq dovecot dropbear exim4 mariadbd master memcached mongod mysqld named postgres redis-server rpcbind smbd sshd
    systemd-resolve tailscaled valkey-server vsftpd""".split()
)
_STATUS_LINE: Final = re.compile(rb"HTTP/\d(?:\.\d)? ([1-5]\d\d)[ \r\n]")
_NOT_FOR_THIS_METHOD: Final = (405, 501)


def may_ask(port: int, process: str) -> bool:
    """Whether a question in HTTP disturbs nobody: servers known to speak something else log it, or count it against the client."""
    return port not in _OTHER_PORTS and process not in _OTHER_PROCESSES


async def http_status(agent: Agent, addresses: tuple[str, ...], port: int) -> int | None:
    """Status with which ``/`` is answered; None for what does not answer so within a second, for whatever reason."""
    status = None
    try:
        async with asyncio.timeout(SECONDS):
            status = await _ask(agent, _reachable(addresses), port, "HEAD")
            if status in _NOT_FOR_THIS_METHOD:
                status = await _ask(agent, _reachable(addresses), port, "GET")
    except (TimeoutError, BangerError):
        pass
    return status


def _reachable(addresses: tuple[str, ...]) -> str:
    """Where to connect to what listens on these."""
    if "0.0.0.0" in addresses:
        return "127.0.0.1"
    return "::1" if "::" in addresses else addresses[0]


async def _ask(agent: Agent, address: str, port: int, method: str) -> int | None:
    async with await agent.connect(address, port) as connection:
        await connection.send(f"{method} / HTTP/1.1\r\nHost: localhost:{port}\r\nUser-Agent: banger\r\nAccept: */*\r\nConnection: close\r\n\r\n".encode())
        untrusted = b""
        while b"\n" not in untrusted and len(untrusted) < ANSWER_LIMIT:
            piece = await connection.receive(ANSWER_LIMIT - len(untrusted))
            if not piece:
                break
            untrusted += piece
    found = _STATUS_LINE.match(untrusted)
    return int(found[1]) if found else None
