"""``banger system install``: look at what is there, list what is missing, make it in order, and take all of it back when one piece fails."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from .. import __version__
from ..host.files import STAGING_SUFFIX, remove_tree
from ..host.installation import format_installation, read_installation
from ..model.errors import AlreadyExists, BadRequest, BangerError, Unauthorized
from ..model.installation import Installation
from ..model.network import DEFAULT_BRIDGE, DEFAULT_SUBNET, network_plan
from ..model.progress import Report
from . import services
from .changes import Change, Directory, File, Gone, Link, ProgramFiles, Undo, check_writable, missing_parents
from .inventory import Inventory, read_inventory, write_inventory
from .launchers import launcher
from .owner import Owner, check_beyond_reach, find_owner, interpreter, kvm_group
from .places import LIBRARY, Places
from .program import place_for, running_program
from .units import units

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What an administrator asks for; None = as it is installed already, else the default."""

    owner: str | None = None
    bridge: str | None = None
    subnet: str | None = None
    reachable: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be done, in order."""

    places: Places
    installation: Installation
    changes: tuple[Change, ...]
    """Only those that are not made yet."""
    inventory: Inventory
    """As it shall be, written down before anything is put anywhere."""
    settled: bool
    """The services run, are enabled, and are of this version."""
    fresh: bool
    """Nothing is installed yet."""
    keep: frozenset[Path]
    """Versions of the program that stay: the new one, and the one that may still run."""

    @property
    def steps(self) -> tuple[str, ...]:
        """Every step in words; none when all is as it should be."""
        return (*(change.describe() for change in self.changes), *self._service_steps())

    def _service_steps(self) -> tuple[str, ...]:
        if self.places.staged or not self.needs_services:
            return ()
        return (
            "run systemctl daemon-reload",
            "run systemctl enable banger-helper.socket bangerd.service",
            "run systemctl start banger-helper.socket",
            "run systemctl try-restart banger-helper.service",
            "run systemctl restart bangerd.service",
            "wait until the daemon answers",
        )

    @property
    def needs_services(self) -> bool:
        return bool(self.changes) or not self.settled


def plan_install(places: Places, wish: Wish, documents: Mapping[Path, bytes], *, now: float | None = None) -> Plan:
    """What has to be done for this wish; changes nothing.

    ``documents``: files that go along, such as manual pages, by their path on the installed system. Raises NotFound, BadRequest, Unauthorized (an unsafe
    interpreter or directory), AlreadyExists (installed for another owner), BangerError (no systemd, a read-only file system).
    """
    if not places.staged:
        check_root()
        services.check_systemd()
    before = read_installation(places.install_file, trusted_uid=os.geteuid())
    owner = find_owner(_owner_name(wish, before))
    _check_same_owner(places, owner, before)
    installation = _installation(wish, owner, before, now=time.time() if now is None else now)
    old = read_inventory(places.inventory)
    wanted, keep = _wanted(places, installation, owner, old, documents)
    directories = _directories(places, wanted)
    changes = [change for change in (*directories, *wanted) if not change.is_made()]
    inventory = old.with_more(_outside(places, wanted, File), _outside(places, changes, Directory))
    gone = [Gone(places.at(name)) for name in sorted(old.files - _outside(places, wanted, File)) if not Gone(places.at(name)).is_made()]
    for change in (*changes, *gone):
        check_writable(change.path)
    settled = places.staged or (before is not None and not (changes or gone) and _all_run(installation))
    return Plan(places, installation, (*changes, *gone), inventory, settled, before is None, keep)


def _all_run(installation: Installation) -> bool:
    return services.are_enabled() and services.are_active() and services.serves(installation.uid, __version__)


def carry_out(plan: Plan, report: Report) -> None:
    """Do it. Raises what a piece failed with; then everything that was made is taken back, and what ran before runs again."""
    with ExitStack() as back:

        def undo_by(undo: Undo) -> None:
            back.callback(_attempt, undo, report)

        if not plan.places.staged:
            undo_by(lambda: _put_back(plan))
        _write_inventory(plan, undo_by)
        for number, change in enumerate(plan.changes):
            report("files", change.describe(), progress=number / len(plan.changes))
            undo_by(_make(change))
        if not plan.places.staged and plan.needs_services:
            if plan.fresh:
                undo_by(services.stop)
            _bring_up(plan, report)
        back.pop_all()
    _forget_old(plan)


def check_root() -> None:
    """Raises Unauthorized for anybody but root."""
    if os.geteuid() != 0:
        raise Unauthorized("only root can do this", hint="the same with sudo")


def _bring_up(plan: Plan, report: Report) -> None:
    report("services", "reading the units")
    services.reload_units()
    services.enable()
    report("services", "starting the daemon")
    services.restart()
    report("services", "waiting until it answers")
    services.wait_ready(plan.installation.uid)


def _put_back(plan: Plan) -> None:
    """After the files are what they were: the services too."""
    services.reload_units()
    if not plan.fresh:
        services.restart()


def _make(change: Change) -> Undo:
    try:
        return change.make()
    except OSError as error:
        raise BangerError(
            f"{change.describe()}: {error.strerror or error}", hint="nothing is left of what was installed just now; try again once it can be"
        ) from error


def _attempt(undo: Undo, report: Report) -> None:
    """The first failure is what the user has to know; one on the way back is told beside it."""
    try:
        undo()
    except (BangerError, OSError) as error:
        log.warning("not everything could be put back", exc_info=error)
        report("undo", f"not everything could be put back: {error}", warning=True)


def _write_inventory(plan: Plan, undo_by: Callable[[Undo], None]) -> None:
    if not plan.changes:
        return
    library = plan.places.at(LIBRARY)
    for one in (*missing_parents(library, {}), library):
        undo_by(Directory(one).make())
    before = read_inventory(plan.places.inventory)

    def undo() -> None:
        if before == Inventory():
            plan.places.inventory.unlink(missing_ok=True)
        else:
            write_inventory(plan.places.inventory, before)

    undo_by(undo)
    write_inventory(plan.places.inventory, plan.inventory)


def _forget_old(plan: Plan) -> None:
    """Versions that nothing runs from any more; the inventory loses what is gone."""
    present = frozenset(name for name in plan.inventory.files if os.path.lexists(plan.places.at(name)))
    if plan.changes:
        write_inventory(plan.places.inventory, replace(plan.inventory, files=present))
        for version in plan.places.versions.iterdir():
            if version not in plan.keep:
                remove_tree(version)


# -- what is wanted ----------------------------------------------------------------------------------------------------------------------------------


def _owner_name(wish: Wish, before: Installation | None) -> str:
    if wish.owner is not None:
        return wish.owner
    if before is None:
        raise BadRequest("nothing says whose machines the host shall run", hint=f"--owner {os.environ.get('SUDO_USER') or 'USER'}")
    return before.owner


def _check_same_owner(places: Places, owner: Owner, before: Installation | None) -> None:
    """Another owner would get the first one's machines. Raises AlreadyExists."""
    if before is not None and (before.owner, before.uid) != (owner.name, owner.uid):
        raise AlreadyExists(
            f"banger is installed on this host for {before.owner} (uid {before.uid})",
            hint="one owner per host: sudo banger system uninstall, then install again",
        )
    for path in places.data:
        if path.exists() and path.stat().st_uid not in (owner.uid, 0):
            raise AlreadyExists(
                f"{path} holds what belongs to uid {path.stat().st_uid}, from an earlier installation",
                hint=f"remove it (sudo rm -rf {path}), or give it to {owner.name}: sudo chown -R {owner.name}: {path}",
            )


def _installation(wish: Wish, owner: Owner, before: Installation | None, *, now: float) -> Installation:
    """As wished; the time stays that of the first installation."""
    plan = network_plan(
        wish.bridge or (before.network.bridge if before else DEFAULT_BRIDGE), wish.subnet or (str(before.network.subnet) if before else DEFAULT_SUBNET)
    )
    return Installation(
        owner=owner.name,
        uid=owner.uid,
        gid=owner.gid,
        home=owner.home,
        network=plan,
        version=__version__,
        installed_at=before.installed_at if before else time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(now)),
        reachable=(before.reachable if before else ()) if wish.reachable is None else wish.reachable,
    )


def _wanted(
    places: Places, installation: Installation, owner: Owner, inventory: Inventory, documents: Mapping[Path, bytes]
) -> tuple[list[Change], frozenset[Path]]:
    """Everything but directories, in the order in which it is made: the program before what starts it."""
    program = running_program()
    place = place_for(program, places.versions)
    python = interpreter(owner)
    current = Link(places.current, os.path.relpath(place, places.current.parent))

    def file(path: Path, content: bytes, mode: int = 0o644) -> File:
        name = f"/{path.relative_to(places.root)}"
        return File(path, content, name in inventory.files or path.is_relative_to(places.at(LIBRARY)), mode)

    for path, _ in () if places.staged else places.programs:
        check_beyond_reach(path, owner)
    launchers = [file(path, launcher(path, interpreter=python, current=places.current, module=module), 0o755) for path, module in places.programs]
    texts = units(installation, groups=kvm_group())
    return [
        ProgramFiles(place, program),
        current,
        *launchers,
        file(places.install_file, format_installation(installation).encode()),
        Directory(places.catalogs),
        *(file(places.unit(name), text.encode()) for name, text in texts.items()),
        *(file(places.at(path), content) for path, content in documents.items()),
    ], frozenset({place, _previous(places, place)})


def _previous(places: Places, place: Path) -> Path:
    """The version that is current before ``place`` is; when ``place`` is already, because a run was killed, the newest of the others. ``place`` for none."""
    current = places.current.resolve()
    if current not in (place.resolve(), places.current):
        return places.versions / current.name
    others = [one for one in places.versions.iterdir() if one != place and one.suffix != STAGING_SUFFIX] if places.versions.is_dir() else []
    return max(others, key=lambda one: one.stat().st_mtime_ns, default=place)


def _directories(places: Places, wanted: list[Change]) -> list[Directory]:
    found: dict[Path, Directory] = {}
    for change in wanted:
        for path in missing_parents(change.path, found):
            found[path] = Directory(path)
    return list(found.values())


def _outside(places: Places, changes: Sequence[Change], kind: type[File | Directory]) -> frozenset[str]:
    """Paths on the installed system of the changes of that kind outside of the program's own directory."""
    library = places.at(LIBRARY)
    paths = (one.path for one in changes if isinstance(one, kind) and not one.path.is_relative_to(library) and one.path != places.root)
    return frozenset(f"/{path.relative_to(places.root)}" for path in paths if path.is_relative_to(places.root))
