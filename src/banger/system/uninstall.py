"""``banger system uninstall``: end what runs, then take away what the inventory names, and the program last, which is what does this."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ..api.types import StopVM
from ..client import Client
from ..helper.protocol import PrivilegedOps
from ..host.files import remove_tree
from ..host.installation import read_installation
from ..model.errors import BadVersion, BangerError, NotStopped
from ..model.installation import Installation
from ..model.progress import Report
from ..model.records import VMRecord, VMState
from . import services
from .install import check_root
from .inventory import read_inventory
from .places import LIBRARY, Places


@dataclass(frozen=True, slots=True)
class Removal:
    """What is to be removed, in order."""

    places: Places
    installation: Installation | None
    """None when an earlier attempt got so far."""
    files: tuple[Path, ...]
    trees: tuple[Path, ...]
    directories: tuple[Path, ...]
    """Removed if they are empty by then, the innermost first."""

    @property
    def steps(self) -> tuple[str, ...]:
        """Every step in words; none when nothing is there."""
        services_steps = ("stop and disable bangerd.service, banger-helper.socket and banger-helper.service",) if self._has_services else ()
        network = self.installation.network if self.installation else None
        network_steps = (f"remove the bridge {network.bridge}, its firewall tables and its resolver settings",) if network and self._has_services else ()
        removals = tuple(f"remove {path}" for path in (*self.files, *self.trees))
        return (*services_steps, *network_steps, *removals, *(f"remove {path} if it is empty" for path in self.directories))

    @property
    def _has_services(self) -> bool:
        return not self.places.staged and bool(self.files)


Release = Callable[[Installation], None]
"""Takes back what the helper has made on the host: machines' processes that are left, bridge, firewall, resolver."""


def release_host(installation: Installation) -> None:
    """With the helper's own verbs, in this process, which is root: whether the helper works does not matter."""
    from ..helper.main import compose

    asyncio.run(_release(compose(installation).ops))
    if services.is_systemd():
        services.end_slices()


async def _release(ops: PrivilegedOps) -> None:
    for vm_id, process in (await ops.vmms.list_vmms()).items():
        await ops.vmms.signal_vmm(vm_id, process, "KILL")
        with contextlib.suppress(BangerError):  # its last process may take a moment; an empty cgroup is gone with the next boot
            await ops.vmms.release_vmm(vm_id)
    await ops.names.clear_resolver()
    await ops.network.remove_network()


def plan_uninstall(places: Places, *, purge: bool) -> Removal:
    """What has to be removed; changes nothing. ``purge``: machines, images and configuration too. Raises Unauthorized, BangerError."""
    if not places.staged:
        check_root()
    inventory = read_inventory(places.inventory)
    files = [places.at(name) for name in sorted(inventory.files)]
    trees = [*places.sockets, *((*places.data, places.configuration) if purge else ()), places.at(LIBRARY)]
    directories = sorted((places.at(name) for name in inventory.directories), key=lambda path: len(path.parts), reverse=True)
    return Removal(
        places=places,
        installation=read_installation(places.install_file, trusted_uid=os.geteuid()),
        files=tuple(path for path in files if os.path.lexists(path)),
        trees=tuple(path for path in trees if path.exists()),
        directories=tuple(path for path in directories if path.is_dir()),
    )


def end_machines(removal: Removal, report: Report, *, stop: bool, force: bool) -> None:
    """See to it that no machine runs: ``stop`` powers them off, ``force`` does without the daemon when it does not answer (their processes are killed later).

    Raises NotStopped when some run and neither was asked for, and what stopping one raises.
    """
    if removal.installation is None or removal.places.staged:
        return
    try:
        with Client(services.system_endpoint(removal.installation.uid), start=False) as client:
            running = [record for record in _machines(client) if record.state is VMState.RUNNING]
            if running and not (stop or force):
                names = ", ".join(record.name for record in running[:5]) + (", ..." if len(running) > 5 else "")
                raise NotStopped(f"{len(running)} machine{'s' * (len(running) > 1)} running: {names}", hint="--stop powers them off first")
            for record in running:
                report("machines", f"stopping {record.name}")
                client.operation("vm.stop", {"ref": record.id}, StopVM())
    except NotStopped:
        raise
    except BangerError as error:
        if not force:
            again = (
                "use the installed program: sudo /usr/local/bin/banger system uninstall"
                if isinstance(error, BadVersion)
                else "sudo banger system restart, then try again"
            )
            error.hint = f"{again}; or --force, which kills what still runs"
            raise
        report("machines", f"{error.message}; what still runs is killed", warning=True)


def _machines(client: Client) -> list[VMRecord]:
    found: list[VMRecord] = client.call("vm.list")
    return found


def carry_out(removal: Removal, report: Report, *, release: Release = release_host) -> tuple[str, ...]:
    """Remove it all; returns what could not be, in words."""
    problems: list[str] = []

    def attempt(what: str, action: Callable[[], object]) -> None:
        try:
            action()
        except (BangerError, OSError, ExceptionGroup) as error:
            problems.append(f"{what}: {error}")

    systemd = not removal.places.staged and services.is_systemd()
    if systemd and removal.files:
        report("services", "stopping daemon and helper")
        attempt("stopping the services", services.stop)
    installation = removal.installation
    if installation is not None and not removal.places.staged:
        report("network", "removing the bridge and what belongs to it")
        attempt("removing the network", lambda: release(installation))
    report("files", "removing files")
    for path in removal.files:
        attempt(str(path), lambda path=path: path.unlink(missing_ok=True))  # type: ignore[misc]  # mypy does not see through the default
    if systemd:
        attempt("reading the units", services.reload_units)
    for path in removal.trees:
        if path != removal.places.at(LIBRARY):
            attempt(str(path), lambda path=path: remove_tree(path))  # type: ignore[misc]
    if not any(os.path.lexists(path) for path in removal.files):  # else the inventory is still needed
        attempt(str(removal.places.at(LIBRARY)), lambda: remove_tree(removal.places.at(LIBRARY)))
    for path in removal.directories:
        with contextlib.suppress(OSError):  # not empty, or gone with a tree
            path.rmdir()
    return tuple(problems)
