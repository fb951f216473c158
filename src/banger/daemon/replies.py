"""What the services found out about machines and settings, as replies of the contract."""

from __future__ import annotations

from typing import TypeVar

from ..api import stats_types as s
from ..api import types as t
from ..api.messages import Reply
from ..guest.agent import GuestStats
from ..host.paths import Layout
from ..model.config import Setting
from ..model.records import VMRecord
from ..vm.observe import Health, Port, ProcessUsage, Usage

ReplyType = TypeVar("ReplyType", bound=Reply)


def same_fields(kind: type[ReplyType], found: object) -> ReplyType:
    """The reply whose fields are those of what was found, by their names."""
    return kind(**{name: getattr(found, name) for name in kind.__struct_fields__})


def stats_reply(usage: Usage) -> s.VMStats:
    return s.VMStats(
        id=usage.record.id,
        name=usage.record.name,
        state=usage.record.state,
        collected_at=usage.collected_at,
        overlay_allocated_bytes=usage.overlay_allocated,
        work_allocated_bytes=usage.work_allocated,
        process=None if usage.process is None else _process(usage.process),
        guest=None if usage.guest is None else _guest(usage.guest),
        guest_error=usage.guest_error,
        network=None if usage.traffic is None else same_fields(s.NetworkStats, usage.traffic),
        bounds=usage.bounds,
    )


def _process(usage: ProcessUsage) -> s.ProcessStats:
    return s.ProcessStats(
        pid=usage.pid,
        cpu_percent=usage.cpu_percent,
        cpu_window=usage.cpu_window,
        cpu_seconds=usage.cpu_seconds,
        rss_bytes=usage.rss,
        pss_bytes=usage.pss,
    )


def _guest(stats: GuestStats) -> s.GuestStats:
    return s.GuestStats(
        uptime=stats.uptime_us / 1e6,
        memory_total_bytes=stats.memory_total,
        memory_available_bytes=stats.memory_available,
        load=stats.load,
        processes=stats.processes,
        file_systems=tuple(s.FileSystem(path=one.path, size_bytes=one.size, available_bytes=one.available) for one in stats.file_systems),
    )


def health_reply(health: Health) -> t.VMHealth:
    return t.VMHealth(name=health.name, alive=health.alive, healthy=health.healthy, guest_state=health.guest_state, round_trip=health.round_trip)


def ports_reply(record: VMRecord, ports: tuple[Port, ...]) -> t.VMPorts:
    shown = tuple(
        t.Port(
            protocol=port.protocol,
            addresses=port.addresses,
            port=port.port,
            process=port.process,
            command=port.command,
            endpoint=port.endpoint,
            http_status=port.http_status,
        )
        for port in ports
    )
    return t.VMPorts(id=record.id, name=record.name, ports=shown)


def config_reply(layout: Layout, settings: tuple[Setting, ...]) -> t.ConfigReport:
    return t.ConfigReport(
        path=str(layout.config_file),
        settings=tuple(t.Setting(key=setting.key, value=setting.value, source=setting.source) for setting in settings),
    )
