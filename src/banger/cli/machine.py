"""Options that say what machine to make."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeVar

import click

from ..model.durations import parse_duration
from ..model.forwards import Forward, parse_forward
from ..model.rates import Rates, parse_cpu_quota
from ..model.sizes import parse_size
from .completion import complete_images
from .parameters import image_word, vm_name, wait_option

F = TypeVar("F", bound=Callable[..., Any])


class _Size(click.ParamType[int]):
    """``512M``, ``4G``, ``4GiB``; a bare number means MiB. Converts to bytes."""

    name = "size"

    def __init__(self, *, zero: bool = False) -> None:
        self._zero = zero

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        return value if isinstance(value, int) else parse_size(str(value), param.opts[-1] if param is not None else "size", zero=self._zero)


SIZE: Final = _Size()
BUDGET: Final = _Size(zero=True)


class _Forward(click.ParamType[Forward]):
    """``[BIND:]HOSTPORT:GUESTPORT``."""

    name = "forward"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Forward:
        return value if isinstance(value, Forward) else parse_forward(str(value))


FORWARD: Final = _Forward()


class _Duration(click.ParamType[float]):
    """``90s``, ``30m``, ``2h``; ``0`` = never. Converts to seconds."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        return value if isinstance(value, float) else parse_duration(str(value), param.opts[-1] if param is not None else "duration")


DURATION: Final = _Duration()


class _CpuQuota(click.ParamType[float]):
    """``150%`` or ``1.5``; ``0`` = no limit. Converts to CPUs."""

    name = "cpus"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        return value if isinstance(value, float) else parse_cpu_quota(str(value))


_RATE_OPTIONS: Final = (
    click.option("--cpu-quota", type=_CpuQuota(), help="How much CPU it may use at once, such as 150% or 1.5; 0 = no limit."),
    click.option("--disk-rate", type=BUDGET, help="Bytes that each of its disks moves per second, such as 20M; 0 = no limit."),
    click.option("--disk-iops", type=int, help="Requests that each of its disks serves per second; 0 = no limit."),
    click.option("--net-rate", type=BUDGET, help="Bytes per second and direction of its network; 0 = no limit."),
)

_SIZE_OPTIONS: Final = (
    click.option("--vcpu", type=int, help="Virtual CPUs."),
    click.option("--memory", type=SIZE, help="Memory, such as 512M or 4G; a bare number means MiB."),
    click.option("--disk-size", type=SIZE, help="Size of the disk on /root."),
    click.option(
        "--system-overlay-size",
        type=SIZE,
        help="How much may be written to the rest of the system.",
    ),
)

_MACHINE_OPTIONS: Final = (
    click.option("--name", callback=vm_name, help="Name of the machine (default: a generated one)."),
    click.option(
        "--image",
        callback=image_word,
        shell_complete=complete_images,
        help="Image to start from: a name, a container reference or a file (./rootfs.tar); got first when it is not here yet.",
    ),
    *_SIZE_OPTIONS,
    click.option("--nat", is_flag=True, help="Give it a network card that reaches the internet."),
    click.option(
        "-p", "--publish", type=FORWARD, multiple=True, metavar="[BIND:]HOSTPORT:GUESTPORT", help="Publish a port of it on this host, on 127.0.0.1 unless told."
    ),
    click.option("--ttl", type=DURATION, default=0.0, show_default="never", help="Stop it so long after its start: 90s, 30m, 2h."),
    click.option("--idle", type=DURATION, help="Stop it when nobody has used it for so long; 0 = never (default: auto_stop_stale_after in config.toml)."),
    click.option("--autostart", is_flag=True, help="Start it again after a boot of this host."),
    *_RATE_OPTIONS,
    wait_option,
)


def machine_options(function: F) -> F:
    """The options that say what machine to make, shared by ``run`` and ``create``."""
    for option in reversed(_MACHINE_OPTIONS):
        function = option(function)
    return function


def rate_options(function: F) -> F:
    """The options that say how fast a machine may be."""
    for option in reversed(_RATE_OPTIONS):
        function = option(function)
    return function


def rates_of(options: dict[str, Any]) -> Rates:
    """What ``rate_options`` have been given."""
    return Rates(
        cpu_quota=options["cpu_quota"],
        disk_bytes_per_second=options["disk_rate"],
        disk_operations_per_second=options["disk_iops"],
        network_bytes_per_second=options["net_rate"],
    )


def size_options(function: F) -> F:
    """The options that say how large a machine is."""
    for option in reversed(_SIZE_OPTIONS):
        function = option(function)
    return function
