"""Questions made and answers read by another's code (dnslib), and by dig."""

from __future__ import annotations

import asyncio
import subprocess
from typing import Any

import dnslib  # type: ignore[import-untyped]


def question(name: str, kind: str = "A", *, edns: int | None = None, **header: Any) -> bytes:
    """A query with a header of this and that; ``edns`` is the size it says."""
    record = dnslib.DNSRecord.question(name, kind)
    for field, value in header.items():
        setattr(record.header, field, value)
    if edns is not None:
        record.add_ar(dnslib.EDNS0(udp_len=edns))
    return bytes(record.pack())


def parsed(answer: object) -> Any:
    """The answer as dnslib reads it; it reads to the end."""
    assert isinstance(answer, bytes)
    return dnslib.DNSRecord.parse(answer)


def code(answer: object) -> str:
    return str(dnslib.RCODE[parsed(answer).header.rcode])


def data(answer: object) -> list[str]:
    """What the records of the answer section say."""
    return [str(record.rdata) for record in parsed(answer).rr]


async def dig(*words: str) -> str:
    """What dig prints; it must not complain."""
    argv = ["dig", "+tries=1", "+timeout=5", "+nocookie", *words]
    done = await asyncio.to_thread(subprocess.run, argv, capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stdout + done.stderr
    assert ";; Warning" not in done.stdout
    assert "malformed" not in done.stdout.lower()
    return done.stdout
