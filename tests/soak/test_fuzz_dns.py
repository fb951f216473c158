"""The server of names against hostile bytes for BANGER_FUZZ_SECONDS: it raises nothing, and what it says can be read."""

from __future__ import annotations

import os
import random
import time

import pytest

from banger.net.dns.message import Query, is_answer, pass_on, read_query
from tests.unit.net.dns.oracle import question
from tests.unit.net.dns.test_zone import check

SECONDS = int(os.environ.get("BANGER_FUZZ_SECONDS", "120"))
SEEDS = [
    question(name, kind, edns=edns)
    for name in ("box.vm", "a.b.BOX.vm", "nobody.vm", "2.86.30.172.in-addr.arpa", "vm", "example.com", ".")
    for kind, edns in (("A", None), ("PTR", 4096), ("ANY", 512))
]

pytestmark = pytest.mark.timeout(SECONDS + 120)


def test_mutated_messages() -> None:
    """The number of the failing input is all that is needed to see it again."""
    until = time.monotonic() + SECONDS
    number = 0
    while time.monotonic() < until:
        number += 1
        untrusted = mutate(random.Random(number))
        try:
            check(untrusted)
            check_upstream(untrusted)
        except Exception as error:
            raise AssertionError(f"input {number}: {untrusted!r}: {error!r}") from error
    print(f"{number} messages")


def mutate(rng: random.Random) -> bytes:
    message = bytearray(rng.choice(SEEDS))
    for _ in range(rng.randrange(6)):
        at = rng.randrange(len(message) + 1)
        match rng.randrange(4):
            case 0:
                message[at : at + 1] = rng.randbytes(1)
            case 1:
                message[at:at] = rng.randbytes(rng.randrange(80))
            case 2:
                del message[at : at + rng.randrange(1, 12)]
            case _:
                message[at : at + 1] = rng.choice([b"\xc0\x0c", b"\x3f", b"\x40", b"\0", b"\xff\xff"])
    return bytes(message)


def check_upstream(untrusted: bytes) -> None:
    """The same bytes as a resolver's answer."""
    query = read_query(SEEDS[0])
    assert isinstance(query, Query)
    answered = untrusted[:2] + b"\x80" + untrusted[3:]
    if is_answer(answered, query, int.from_bytes(untrusted[:2], "big")):
        passed = pass_on(answered, query, limit=512)
        assert passed[:2] == query.id.to_bytes(2, "big")
        assert len(passed) <= 512
