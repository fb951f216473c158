"""The helper's decoder and validators for BANGER_FUZZ_SECONDS: mutated requests are checked calls, or BadRequest, or UnknownMethod; nothing else comes out."""

from __future__ import annotations

import json
import os
import random
import resource
import time
from typing import Any

import pytest

from banger.helper.verbs import Call, decode_call, decode_request
from banger.helper.wire import MAX_REQUEST_BYTES, Message
from banger.model.errors import BadRequest, UnknownMethod
from tests.fakes.privileged import PLAN, VM, RecordingOps, scope
from tests.fakes.requests import BAD, GOOD, MALFORMED, request

SECONDS = int(os.environ.get("BANGER_FUZZ_SECONDS", "120"))
SEEDS = [request(verb, arguments) for verb, arguments in GOOD.items()] * 8 + [request(verb, GOOD[verb] | wrong) for verb, wrong in BAD] + MALFORMED
TOKENS = [
    b'"',
    b"{",
    b"}",
    b"[",
    b"]",
    b",",
    b":",
    b"\\",
    b"\\u0000",
    b"\\ud800",
    b"-",
    b"1e999",
    b"NaN",
    b"true",
    b"null",
    b"\0",
    b"\xff",
    b"99999999999999999999",
]
VALUES: list[Any] = [None, True, False, 0, -1, 1, 2, 254, 2**31, 2**63, 2**64, 0.5, 1e300, "", "qemu", "TERM", VM, VM + "\n", "../" * 11, "10.213.0.2", [], {}]

pytestmark = pytest.mark.timeout(SECONDS + 120)


def mutate(chance: random.Random) -> bytes:
    payload = chance.choice(SEEDS)
    if chance.random() < 0.5:
        try:
            return json.dumps(mutate_value(json.loads(payload), chance)).encode()[: MAX_REQUEST_BYTES + 1]
        except (ValueError, RecursionError):
            pass
    raw = bytearray(payload)
    for _ in range(chance.randrange(1, 6)):
        at = chance.randrange(len(raw) + 1)
        match chance.randrange(4):
            case 0:
                raw[at : at + 1] = bytes([chance.randrange(256)])
            case 1:
                raw[at : at + chance.randrange(1, 20)] = b""
            case 2:
                raw[at:at] = chance.choice(TOKENS) * chance.choice((1, 1, 1, 2000))
            case _:
                other = chance.choice(SEEDS)
                raw[at:at] = other[chance.randrange(len(other) + 1) :]
    return bytes(raw[:MAX_REQUEST_BYTES])


def mutate_value(value: Any, chance: random.Random) -> Any:
    if chance.random() < 0.12:
        return chance.choice(VALUES)
    if isinstance(value, dict):
        table = {key: mutate_value(one, chance) for key, one in value.items()}
        if table and chance.random() < 0.05:
            table[chance.choice(list(table)) + chance.choice(("", "x"))] = chance.choice(VALUES)
        return table
    if isinstance(value, list):
        return [mutate_value(one, chance) if chance.random() < 0.2 else one for one in value] * chance.choice((1, 1, 1, 1, 2))
    return value


def attempt(payload: bytes, descriptors: tuple[int, ...]) -> Call | None:
    try:
        return decode_call(decode_request(Message(payload, descriptors)), scope(RecordingOps()))
    except (BadRequest, UnknownMethod) as error:
        assert len(error.message) < 1000
        return None


def test_mutated_requests() -> None:
    """The number of the failing input is all that is needed to see it again."""
    until = time.monotonic() + SECONDS
    number = taken = 0
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    while time.monotonic() < until:
        number += 1
        chance = random.Random(number)
        payload, descriptors = mutate(chance), tuple(range(10, 10 + chance.choice((0, 0, 3, 3, 32))))
        try:
            call = attempt(payload, descriptors)
        except BaseException as error:
            raise AssertionError(f"input {number}: {payload[:300]!r}: {error!r}") from error
        if call is not None:
            taken += 1
            check_taken(payload)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory
    print(f"{number} requests, {taken} taken, {grown} KiB more")
    assert taken > number // 50
    assert grown < 32 * 1024


def check_taken(payload: bytes) -> None:
    """What passed says nothing beyond the plan, seen with other eyes than the validators'."""
    arguments = json.loads(payload)["arguments"]
    text = json.dumps({key: value for key, value in arguments.items() if key != "arguments"})
    assert ".." not in text
    assert "/" not in text
    for slot in [*arguments.get("slots", []), *([arguments["slot"]] if "slot" in arguments else [])]:
        assert PLAN.address(slot) in list(PLAN.subnet.hosts())[1:]
    assert all(word == "" or word.isascii() for word in arguments.get("arguments", []))
