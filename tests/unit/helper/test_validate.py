"""Whatever comes through the helper's socket: it is a checked call, or BadRequest or UnknownMethod, and never anything else."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from banger.helper.shapes import limits_to_json
from banger.helper.validate import decode_json
from banger.helper.verbs import VERBS, Call, decode_call, decode_request
from banger.helper.wire import Message
from banger.model.errors import BadRequest, UnknownMethod
from banger.model.limits import FIRST_VMM_UID, LAST_VMM_UID
from banger.model.machine import Limits
from tests.fakes.privileged import QEMU_ARGUMENTS, VM, RecordingOps, scope

LIMITS = limits_to_json(Limits(memory_max_bytes=2**31, cpu_quota=1.5, pids_max=64, io_weight=100))
PROCESS = {"pid": 4711, "start_time": 5}
GOOD: dict[str, dict[str, Any]] = {
    "info": {},
    "ensure_network": {},
    "inspect_network": {},
    "warm_taps": {"slots": [2, 3]},
    "attach_tap": {"vm_id": VM, "slot": 254, "nat": True},
    "release_taps": {"slots": [], "keep": False},
    "set_nat": {"addresses": {"10.213.0.2": True, "10.213.0.254": False}},
    "remove_network": {},
    "bind_dns": {},
    "route_resolver": {"port": 42069},
    "clear_resolver": {},
    "launch_vmm": {"vm_id": VM, "program": "qemu", "arguments": list(QEMU_ARGUMENTS), "uid": FIRST_VMM_UID, "limits": LIMITS, "kvm": True},
    "signal_vmm": {"vm_id": VM, "process": PROCESS, "signal": "TERM"},
    "list_vmms": {},
    "limit_vmm": {"vm_id": VM, "limits": LIMITS},
    "release_vmm": {"vm_id": VM},
}


def decode(payload: bytes, descriptors: tuple[int, ...] = ()) -> Call:
    return decode_call(decode_request(Message(payload, descriptors)), scope(RecordingOps()))


def request(verb: str, arguments: Any, op_id: Any = "op-0123456789ab") -> bytes:
    return json.dumps({"verb": verb, "op_id": op_id, "arguments": arguments}).encode()


def descriptors_of(verb: str) -> tuple[int, ...]:
    return (10, 11, 12) if verb == "launch_vmm" else ()


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


BAD: list[tuple[str, dict[str, Any]]] = [
    ("warm_taps", {"slots": [1]}),
    ("warm_taps", {"slots": [255]}),
    ("warm_taps", {"slots": [-2]}),
    ("warm_taps", {"slots": [True]}),
    ("warm_taps", {"slots": [2.0]}),
    ("warm_taps", {"slots": ["2"]}),
    ("warm_taps", {"slots": [2, 2]}),
    ("warm_taps", {"slots": list(range(2, 67))}),
    ("warm_taps", {"slots": {"2": 2}}),
    ("warm_taps", {"slots": [[2]]}),
    ("attach_tap", {"vm_id": VM.upper()}),
    ("attach_tap", {"vm_id": VM + "\n"}),
    ("attach_tap", {"vm_id": "../" + VM[3:]}),
    ("attach_tap", {"vm_id": VM[1:]}),
    ("attach_tap", {"vm_id": 5}),
    ("attach_tap", {"slot": 1}),
    ("attach_tap", {"slot": 2**62}),
    ("attach_tap", {"slot": True}),
    ("attach_tap", {"nat": 1}),
    ("attach_tap", {"nat": "true"}),
    ("attach_tap", {"nat": None}),
    ("release_taps", {"slots": list(range(2, 2000))}),
    ("set_nat", {"addresses": {"10.213.0.1": True}}),
    ("set_nat", {"addresses": {"10.213.0.0": True}}),
    ("set_nat", {"addresses": {"10.213.0.255": True}}),
    ("set_nat", {"addresses": {"8.8.8.8": True}}),
    ("set_nat", {"addresses": {"10.213.0.02": True}}),
    ("set_nat", {"addresses": {"10.213.0.2 ": True}}),
    ("set_nat", {"addresses": {"181469186": True}}),
    ("set_nat", {"addresses": {"::1": True}}),
    ("set_nat", {"addresses": {"10.213.0.2": 1}}),
    ("set_nat", {"addresses": ["10.213.0.2"]}),
    ("route_resolver", {"port": 53}),
    ("route_resolver", {"port": 65536}),
    ("route_resolver", {"port": "42069; reboot"}),
    ("launch_vmm", {"program": "/bin/sh"}),
    ("launch_vmm", {"program": "qemu\n"}),
    ("launch_vmm", {"uid": 0}),
    ("launch_vmm", {"uid": FIRST_VMM_UID - 1}),
    ("launch_vmm", {"uid": LAST_VMM_UID + 1}),
    ("launch_vmm", {"uid": True}),
    ("launch_vmm", {"arguments": [*QEMU_ARGUMENTS, "-daemonize"]}),
    ("launch_vmm", {"arguments": [*QEMU_ARGUMENTS, "-drive", "file=/etc/shadow"]}),
    ("launch_vmm", {"arguments": [*QEMU_ARGUMENTS[:-1], "console=\0"]}),
    ("launch_vmm", {"arguments": ["-name"] * 1000}),
    ("launch_vmm", {"arguments": " ".join(QEMU_ARGUMENTS)}),
    ("launch_vmm", {"arguments": []}),
    ("launch_vmm", {"vm_id": VM[::-1]}),
    ("launch_vmm", {"limits": {**LIMITS, "cpu_quota": -1}}),
    ("launch_vmm", {"limits": {**LIMITS, "cpu_quota": True}}),
    ("launch_vmm", {"limits": {**LIMITS, "io_weight": 10001}}),
    ("launch_vmm", {"limits": {**LIMITS, "pids_max": 1.0}}),
    ("launch_vmm", {"limits": {**LIMITS, "cgroup": "/"}}),
    ("launch_vmm", {"limits": []}),
    ("launch_vmm", {"kvm": 0}),
    ("signal_vmm", {"process": {"pid": 1, "start_time": 5}}),
    ("signal_vmm", {"process": {"pid": 0, "start_time": 5}}),
    ("signal_vmm", {"process": {"pid": -1, "start_time": 5}}),
    ("signal_vmm", {"process": {"pid": 2**31, "start_time": 5}}),
    ("signal_vmm", {"process": {"pid": 4711, "start_time": 0}}),
    ("signal_vmm", {"process": {"pid": 4711}}),
    ("signal_vmm", {"process": 4711}),
    ("signal_vmm", {"signal": "STOP"}),
    ("signal_vmm", {"signal": "SIGTERM"}),
    ("signal_vmm", {"signal": "9"}),
    ("signal_vmm", {"signal": 9}),
    ("signal_vmm", {"signal": "TERM\n"}),
]


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
    [
        b"",
        b"\xff\xfe",
        b"null",
        b"[]",
        b'"info"',
        b"{}",
        b'{"verb":"info","op_id":"","arguments":{},"uid":0}',
        b'{"verb":"info","op_id":"","arguments":[]}',
        b'{"verb":"info","op_id":"","arguments":null}',
        b'{"verb":"info","verb":"info","op_id":"","arguments":{}}',
        b'{"verb":["info"],"op_id":"","arguments":{}}',
        b'{"verb":"info","op_id":"","arguments":{}} {}',
        b'{"verb":"info","op_id":"","arguments":{}}\0',
        b"[" * 65536,
        b'{"a":' * 13000,
        b"[" * 700 + b"]" * 700,
        b'{"verb":' + b"[" * 900 + b"]" * 900 + b',"op_id":"","arguments":{}}',
        b'{"verb":"route_resolver","op_id":"","arguments":{"port":' + b"9" * 60000 + b"}}",
        b'{"verb":"route_resolver","op_id":"","arguments":{"port":1e999}}',
        b'{"verb":"route_resolver","op_id":"","arguments":{"port":NaN}}',
        b'{"verb":"route_resolver","op_id":"","arguments":{"port":-Infinity}}',
        b'{"verb":"attach_tap","op_id":"","arguments":{"vm_id":"a","vm_id":"b"}}',
    ],
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
