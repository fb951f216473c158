"""Whatever comes through the helper's socket: it is a checked call, or BadRequest or UnknownMethod, and never anything else."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from banger.helper.validate import decode_json
from banger.helper.verbs import VERBS, Call, decode_call, decode_request
from banger.helper.wire import Message
from banger.model.errors import BadRequest, UnknownMethod
from tests.fakes.privileged import VM, RecordingOps, scope
from tests.fakes.requests import BAD, GOOD, MALFORMED, descriptors_of, request


def decode(payload: bytes, descriptors: tuple[int, ...] = ()) -> Call:
    return decode_call(decode_request(Message(payload, descriptors)), scope(RecordingOps()))


def test_there_are_at_most_20_verbs() -> None:
    assert set(GOOD) == set(VERBS)
    assert len(VERBS) <= 20


@pytest.mark.parametrize("verb", GOOD)
def test_good_ones_pass(verb: str) -> None:
    assert decode(request(verb, GOOD[verb]), descriptors_of(verb)).vm_id == GOOD[verb].get("vm_id", "")
    decode(request(verb, GOOD[verb], ""), descriptors_of(verb))


@pytest.mark.parametrize("verb", GOOD)
def test_a_missing_or_another_key_is_refused(verb: str) -> None:
    for key in GOOD[verb]:
        with pytest.raises(BadRequest, match=f"{key} is missing"):
            decode(request(verb, {k: v for k, v in GOOD[verb].items() if k != key}), descriptors_of(verb))
    with pytest.raises(BadRequest, match="not known here"):
        decode(request(verb, {**GOOD[verb], "path": "/etc/passwd"}), descriptors_of(verb))


@pytest.mark.parametrize("verb", [verb for verb in GOOD if verb != "launch_vmm"])
def test_descriptors_are_for_launches_alone(verb: str) -> None:
    with pytest.raises(BadRequest, match="takes no descriptors"):
        decode(request(verb, GOOD[verb]), (10,))


@pytest.mark.parametrize(("verb", "wrong"), BAD, ids=lambda value: str(value)[:60] if isinstance(value, dict) else value)
def test_wrong_arguments_are_refused(verb: str, wrong: dict[str, Any]) -> None:
    with pytest.raises(BadRequest):
        decode(request(verb, GOOD[verb] | wrong), descriptors_of(verb))


def test_a_launch_without_descriptors_is_refused() -> None:
    with pytest.raises(BadRequest, match="descriptor"):
        decode(request("launch_vmm", GOOD["launch_vmm"]))


def test_an_unknown_verb_has_an_error_of_its_own() -> None:
    with pytest.raises(UnknownMethod):
        decode(request("format_disk", {}))


@pytest.mark.parametrize("op_id", ["op-123", "op-0123456789AB", "op-0123456789ab\n", 5, None, "\ud800"])
def test_an_op_id_is_an_op_id(op_id: object) -> None:
    with pytest.raises(BadRequest, match="op_id"):
        decode(request("info", {}, op_id))


@pytest.mark.parametrize(
    "payload",
    MALFORMED,
    ids=lambda payload: payload[:40].decode(errors="replace") or "nothing",
)
def test_malformed_texts_are_refused(payload: bytes) -> None:
    with pytest.raises(BadRequest) as caught:
        decode(payload)
    assert len(caught.value.message) < 400
    assert caught.value.message.isascii()


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from([VM, "TERM", "qemu", "10.213.0.2"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


def takes_or_refuses(payload: bytes, descriptors: tuple[int, ...] = ()) -> None:
    try:
        assert isinstance(decode(payload, descriptors), Call)
    except (BadRequest, UnknownMethod) as error:
        assert len(error.message) < 1000


@given(st.binary(max_size=300))
def test_random_bytes(payload: bytes) -> None:
    takes_or_refuses(payload)


@given(json_values)
def test_random_values(value: object) -> None:
    takes_or_refuses(json.dumps(value).encode())


@given(st.sampled_from(sorted(VERBS)), st.data())
def test_random_arguments_under_the_right_names(verb: str, data: st.DataObject) -> None:
    arguments = {key: data.draw(st.just(value) | json_values) for key, value in GOOD[verb].items()}
    takes_or_refuses(request(verb, arguments), descriptors_of(verb))


@given(st.recursive(st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)))
def test_json_is_what_it_was(value: object) -> None:
    assert decode_json(json.dumps(value).encode()) == value
