"""The composition root: the one place (with host_network.py, for the network's) that names concrete drivers and puts the services together."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from typing import Final

from ..host.config import load_config
from ..host.paths import Layout
from ..image.catalog_files import CatalogFiles
from ..image.housekeeping import Housekeeping
from ..image.kernels import KernelService
from ..image.service import ImageService
from ..model.config import Config, with_log_level
from ..model.errors import BadRequest
from ..storage.overlay import OverlayDisk
from ..store import Database, ImageTable, KernelTable
from ..vm.autostart import Autostart
from ..vm.capabilities import Capabilities
from ..vm.host_files import HostFiles
from ..vm.published import PublishedPorts
from ..vm.service import Machines
from ..vm.ssh_access import SshAccess
from ..vm.work_disk import WorkDisk
from ..vmm.launcher import Launcher, helper_launcher, local_launcher
from ..vmm.qemu.driver import QemuVmm
from .access import Access
from .attach import Opener
from .context import Context
from .host_network import host_networking
from .leases import Leases
from .operations import Operations
from .tokens import Tokens

DEFAULT_GUEST_DEADLINE: Final = 60.0


def guest_deadline() -> float:
    """Seconds that a guest has from launch to hello, and again to ready: ``BANGER_BOOT_TIMEOUT``, else 60. Raises BadRequest for nonsense."""
    text = os.environ.get("BANGER_BOOT_TIMEOUT", "")
    try:
        seconds = float(text) if text else DEFAULT_GUEST_DEADLINE
    except ValueError:
        seconds = 0.0
    if not 0 < seconds <= 3600:
        raise BadRequest(f"BANGER_BOOT_TIMEOUT is {text!r}", hint="set it to a number of seconds, more than 0 and at most 3600, or unset it")
    return seconds


def configuration(layout: Layout, log_level: tuple[str, str] | None) -> Config:
    """The instance's configuration, its log level in force. ``log_level``: level and source, when it was given outside the file. Raises BadRequest."""
    config = load_config(layout.config_file)
    if log_level is not None:
        return with_log_level(config, *log_level)
    logging.getLogger().setLevel(config.log_level.upper())
    return config


def published_ports(database: Database, machines: Callable[[], Machines]) -> PublishedPorts:
    """The capability that asks the machines it is a part of; ``machines`` is called once there are some."""
    return PublishedPorts(
        agent=lambda vm_id: machines().agent(vm_id),
        hold=lambda vm_id: machines().open_stream(vm_id),
        note=lambda vm_id, message: database.events.append("failure", vm_id, operation="vm.publish", message=message),
    )


def _launcher(layout: Layout) -> Launcher:
    """What starts VMMs: the privileged helper on an installed system, else this process as well as it can."""
    if layout == Layout.system():
        from ..helper.client import privileged_ops

        return helper_launcher(privileged_ops().vmms)
    return local_launcher(layout.state)


def compose(layout: Layout, tokens: Tokens[Opener], *, log_level: tuple[str, str] | None = None) -> Context:
    """Everything that the calls of the contract need. Raises BadRequest for a bad setting, StoreError when the database cannot be used."""
    config = configuration(layout, log_level)
    deadline = guest_deadline()
    database = Database.open(layout.database, contents=(layout.vms, layout.images, layout.kernels))
    catalog = CatalogFiles(layout.catalogs).read
    kernels = KernelService(layout, KernelTable(database), catalog=catalog)
    images = ImageService(layout, ImageTable(database), kernels, catalog=catalog)
    vmm = QemuVmm(layout.probe_cache, cpu_model=config.qemu_cpu_model or None, parallel=config.qemu_parallel, launcher=_launcher(layout))
    operations = Operations()
    ssh = SshAccess(layout)
    ports = published_ports(database, lambda: machines)
    autostart = Autostart(layout.boot_note, start=lambda vm_id, report: machines.start(vm_id, wait_booted=False, report=report), carry_out=operations.carry_out)
    network = host_networking(config.network, layout, database)
    machines = Machines(
        layout=layout,
        database=database,
        images=images,
        vmm=vmm,
        root_disk=OverlayDisk(),
        network=network.driver,
        guest_deadline=deadline,
        capabilities=Capabilities(WorkDisk(layout), ssh, HostFiles(config.file_sync), *network.capabilities, ports, autostart),
        config=config,
        carry_out=operations.carry_out,
    )
    return Context(
        layout=layout,
        database=database,
        machines=machines,
        images=images,
        kernels=kernels,
        housekeeping=Housekeeping(ImageTable(database), images),
        vmm=vmm,
        operations=operations,
        leases=Leases(machines),
        tokens=tokens,
        access=Access(ssh, ports),
    )
