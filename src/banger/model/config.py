"""What a user may decide for a whole instance in ``config.toml``, and where each value in force comes from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from .durations import format_duration
from .limits import DEFAULT_IMAGE, SizeDefaults
from .network import DEFAULT_BRIDGE, DEFAULT_DNS_PORT, DEFAULT_SUBNET
from .sizes import format_size

LOG_LEVELS: Final = ("debug", "info", "warning", "error", "critical")

#: Keys of ``[vm_defaults]`` and the fields of SizeDefaults that they decide.
SIZE_KEYS: Final = {
    "vm_defaults.vcpu": "vcpu_count",
    "vm_defaults.memory_mib": "memory_mib",
    "vm_defaults.disk_size": "work_disk_bytes",
    "vm_defaults.system_overlay_size": "system_overlay_bytes",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class FileSync:
    """A file or directory of the host that every machine gets at each start."""

    host: str
    """Absolute, or ``~/...``: in the home of who runs the daemon."""
    guest: str
    """Absolute, below /root."""
    mode: int = 0o600
    """Of a file; below a directory each keeps its own."""


NETWORK_MODES: Final = ("auto", "user", "bridge")


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkSettings:
    """``[network]``. On an installed system bridge, subnet and reachable come from install.toml, which belongs to root."""

    mode: str = "auto"
    """``bridge`` (needs root or the helper), ``user`` (no privileges), or ``auto``: bridge on an installed system, else user."""
    bridge: str = DEFAULT_BRIDGE
    subnet: str = DEFAULT_SUBNET
    tap_pool_size: int = 4
    """Taps kept ready for machines to come; 0 = none."""
    reachable: tuple[str, ...] = ()
    """Networks (CIDR) among the host's own neighbours that guests with NAT may reach all the same."""
    dns_port: int = DEFAULT_DNS_PORT
    """Port of 127.0.0.1 where names below ``.vm`` are answered."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Settings of an instance. Durations are seconds, sizes bytes."""

    log_level: str = "info"
    release_url: str = ""
    """Where ``banger update`` finds releases: an https URL or a directory; "" = nowhere."""
    default_image_name: str = DEFAULT_IMAGE
    auto_stop_stale_after: float = 0.0
    """A machine that nobody has used for so long is stopped; 0 = never. A machine's own ``--idle`` wins."""
    file_sync: tuple[FileSync, ...] = ()
    network: NetworkSettings = NetworkSettings()
    qemu_parallel: bool | None = None
    """Emulated CPUs run in parallel, or take turns; None = in parallel where this QEMU does so without losing rewritten code."""
    qemu_cpu_model: str = ""
    """QEMU's name of the guests' CPU, such as ``max`` for virtualisation inside guests under TCG; "" = chosen by the accelerator."""
    sizes: Mapping[str, int] = field(default_factory=dict)
    """SizeDefaults field -> value, for those that the file decides."""
    sources: Mapping[str, str] = field(default_factory=dict)
    """Key -> ``config`` (the file), ``env`` or ``option``, for those that are not built in."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One value in force and where it comes from: ``config``, ``env``, ``option``, ``auto`` (this host) or ``builtin``."""

    key: str
    value: str | int
    source: str


def with_log_level(config: Config, level: str, source: str) -> Config:
    """The configuration with a log level that was given outside the file."""
    return replace(config, log_level=level, sources={**config.sources, "log_level": source})


def size_defaults(config: Config, host: SizeDefaults) -> SizeDefaults:
    """What omitted options take: the file's value, else what suits the host."""
    decided = [*config.sizes, *(("image",) if "default_image_name" in config.sources else ())]
    return replace(host, **config.sizes, image=config.default_image_name, provenance={**host.provenance, **dict.fromkeys(decided, "config")})


def describe_sizes(sizes: SizeDefaults) -> str:
    """What a machine gets that is not told otherwise, and why, in one line."""
    values = {
        "vcpu_count": f"{sizes.vcpu_count} vcpu",
        "memory_mib": f"{sizes.memory_mib} MiB",
        "work_disk_bytes": f"{format_size(sizes.work_disk_bytes)} disk",
        "system_overlay_bytes": f"{format_size(sizes.system_overlay_bytes)} system overlay",
    }
    return ", ".join(f"{text} ({sizes.provenance[field]})" for field, text in values.items())


def settings(config: Config, defaults: SizeDefaults) -> tuple[Setting, ...]:
    """Every setting in force, in the order of the documentation."""

    def own(key: str, value: str | int) -> Setting:
        return Setting(key=key, value=value, source=config.sources.get(key, "builtin"))

    def size(key: str, value: str | int) -> Setting:
        return Setting(key=key, value=value, source=defaults.provenance[SIZE_KEYS[key]])

    return (
        own("log_level", config.log_level),
        own("release_url", config.release_url or "none"),
        own("default_image_name", config.default_image_name),
        own("auto_stop_stale_after", format_duration(config.auto_stop_stale_after)),
        own("file_sync", ", ".join(f"{one.host} -> {one.guest}" for one in config.file_sync) or "none"),
        own("network.mode", config.network.mode),
        own("network.bridge", config.network.bridge),
        own("network.subnet", config.network.subnet),
        own("network.tap_pool_size", config.network.tap_pool_size),
        own("network.reachable", ", ".join(config.network.reachable) or "none"),
        own("network.dns_port", config.network.dns_port),
        own("qemu.parallel", "by version" if config.qemu_parallel is None else str(config.qemu_parallel).lower()),
        own("qemu.cpu_model", config.qemu_cpu_model or "by accelerator"),
        size("vm_defaults.vcpu", defaults.vcpu_count),
        size("vm_defaults.memory_mib", defaults.memory_mib),
        size("vm_defaults.disk_size", format_size(defaults.work_disk_bytes)),
        size("vm_defaults.system_overlay_size", format_size(defaults.system_overlay_bytes)),
    )
