"""Requests to the privileged helper: one good one of each verb, and many that must be refused."""

from __future__ import annotations

import json
from typing import Any

from banger.helper.shapes import limits_to_json
from banger.model.limits import FIRST_VMM_UID, LAST_VMM_UID
from banger.model.machine import Limits
from tests.fakes.privileged import QEMU_ARGUMENTS, VM

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


def request(verb: str, arguments: Any, op_id: Any = "op-0123456789ab") -> bytes:
    return json.dumps({"verb": verb, "op_id": op_id, "arguments": arguments}).encode()


def descriptors_of(verb: str) -> tuple[int, ...]:
    """Numbers of three descriptors where the verb takes some."""
    return (10, 11, 12) if verb == "launch_vmm" else ()


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
"""Replaced in the good arguments of their verbs; for the subnet 10.213.0.0/24."""

MALFORMED: list[bytes] = [
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
]
