"""How the values of the privileged verbs look as JSON, for both ends of the socket."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, Final

from ..model.machine import Limits
from ..model.network import NetworkState, Traffic, network_plan
from ..model.records import ProcessIdentity
from .protocol import HelperInfo, Launch
from .validate import Fields

_MOST: Final = 2**50
"""Bytes, or anything per second, that a limit may say."""
_MOST_CPUS: Final = 4096
_LARGEST_PID: Final = 2**22
"""proc(5), pid_max on 64 bits."""


def limits_to_json(limits: Limits) -> dict[str, Any]:
    """As ``read_limits`` takes it."""
    return asdict(limits)


def read_limits(fields: Fields) -> Limits:
    """Limits from a stranger."""
    return Limits(
        memory_max_bytes=fields.integer("memory_max_bytes", 0, _MOST),
        cpu_quota=fields.number("cpu_quota", 0, _MOST_CPUS),
        pids_max=fields.integer("pids_max", 0, _LARGEST_PID),
        io_weight=fields.integer("io_weight", 0, 10000),
        disk_bytes_per_second=fields.integer("disk_bytes_per_second", 0, _MOST),
        disk_operations_per_second=fields.integer("disk_operations_per_second", 0, _MOST),
        network_bytes_per_second=fields.integer("network_bytes_per_second", 0, _MOST),
    )


def process_to_json(process: ProcessIdentity) -> dict[str, Any]:
    """As ``read_process`` takes it."""
    return asdict(process)


def read_process(fields: Fields) -> ProcessIdentity:
    """A process that a stranger names."""
    return ProcessIdentity(pid=fields.integer("pid", 2, _LARGEST_PID), start_time=fields.integer("start_time", 1, 2**63))


def launch_to_json(launch: Launch) -> dict[str, Any]:
    """Arguments of the verb ``launch_vmm``."""
    return asdict(launch)


def state_to_json(state: NetworkState) -> dict[str, Any]:
    """As ``state_from_json`` takes it."""
    nat = {address: [one.sent_packets, one.sent_bytes, one.received_packets, one.received_bytes] for address, one in state.nat.items()}
    return {"taps": state.taps, "nat": nat, "repaired": state.repaired, "warnings": state.warnings}


def state_from_json(value: Mapping[str, Any]) -> NetworkState:
    """The helper's word. Raises KeyError, TypeError or ValueError for another version's."""
    nat = {address: _traffic(*numbers) for address, numbers in value["nat"].items()}
    return NetworkState(taps=tuple(value["taps"]), nat=nat, repaired=tuple(value["repaired"]), warnings=tuple(value["warnings"]))


def _traffic(sent_packets: int, sent_bytes: int, received_packets: int, received_bytes: int) -> Traffic:
    return Traffic(sent_packets=sent_packets, sent_bytes=sent_bytes, received_packets=received_packets, received_bytes=received_bytes)


def info_to_json(info: HelperInfo) -> dict[str, Any]:
    """As ``info_from_json`` takes it."""
    return {"version": info.version, "bridge": info.network.bridge, "subnet": str(info.network.subnet), "pid": info.pid, "uid": info.uid}


def info_from_json(value: Mapping[str, Any]) -> HelperInfo:
    """The helper's word. Raises KeyError, TypeError, ValueError or BadRequest for another version's."""
    return HelperInfo(version=value["version"], network=network_plan(value["bridge"], value["subnet"]), pid=value["pid"], uid=value["uid"])
