"""``vm set``: other sizes, another network, other published ports, other times at which machines are stopped by themselves."""

from __future__ import annotations

from typing import Any

import click

from ..api.types import SetVM
from ..model.errors import BadRequest
from ..model.forwards import Forward
from ..model.limits import check_spec
from ..model.sizes import MIB
from .machine import DURATION, FORWARD, rate_options, rates_of, size_options
from .parameters import json_option, vms_argument
from .vm_change import change_each


@click.command("set")
@vms_argument
@size_options
@click.option("--nat/--no-nat", default=None, help="With or without a network card that reaches the internet.")
@click.option("--ttl", type=DURATION, help="Stop it so long after its start: 90s, 30m, 2h; 0 = never.")
@click.option("--idle", type=DURATION, help="Stop it when nobody has used it for so long; 0 = never.")
@click.option("--autostart/--no-autostart", default=None, help="Whether it is started after a boot of this host.")
@click.option("-p", "--publish", type=FORWARD, multiple=True, metavar="[BIND:]HOSTPORT:GUESTPORT", help="Publish a port, also while it runs.")
@click.option("--unpublish", multiple=True, metavar="[BIND:]HOSTPORT", help="Publish it no more, also while it runs.")
@rate_options
@json_option
def set_command(
    refs: tuple[str, ...],
    vcpu: int | None,
    memory: int | None,
    disk_size: int | None,
    system_overlay_size: int | None,
    nat: bool | None,
    ttl: float | None,
    idle: float | None,
    autostart: bool | None,
    publish: tuple[Forward, ...],
    unpublish: tuple[str, ...],
    as_json: bool,
    **rates: Any,
) -> None:
    """Change machines. Disks only grow; what they hold stays.

    Sizes and rates of disks are changed while a machine is stopped; --ttl, --idle, --cpu-quota, --autostart and published ports at any time. A machine
    that was started with a network card can be cut off (--no-nat) and connected again (--nat) while it runs; one that was started without must be stopped
    to get one.
    """
    memory_mib = None if memory is None else memory // MIB
    request = SetVM(
        vcpu_count=vcpu,
        memory_mib=memory_mib,
        work_disk_bytes=disk_size,
        system_overlay_bytes=system_overlay_size,
        nat=nat,
        ttl=ttl,
        idle=idle,
        autostart=autostart,
        rates=rates_of(rates),
        publish=publish,
        unpublish=unpublish,
    )
    if request == SetVM():
        raise BadRequest("nothing to change", hint="name at least one option, see `banger vm set --help`")
    # Once for all machines; the daemon would say it for each.
    check_spec(vcpu_count=vcpu, memory_mib=memory_mib, work_disk_bytes=disk_size, system_overlay_bytes=system_overlay_size)
    change_each("vm.set", refs, request, as_json=as_json, shown=True)
