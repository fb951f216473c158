"""``banger update``: find a release, prove it, try it out beside what runs, and have it install itself; what ran before comes back when that fails."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import banger

from .. import __version__
from ..api.types import Operation
from ..client import Client
from ..host.config import load_config
from ..host.files import STAGING_SUFFIX, remove_tree
from ..host.locks import try_lock
from ..host.paths import Layout
from ..model.errors import AlreadyExists, BadRequest, BadVersion, BangerError, NoDaemon, NotStopped
from ..model.installation import Installation
from ..model.progress import Report
from ..model.records import VMRecord, VMState
from . import services
from .changes import check_writable
from .fetch import Source, download, read_bounded, source_at
from .install import check_root
from .owner import find_owner, interpreter
from .places import LIBRARY, Places
from .release import (
    MANIFEST,
    MAX_MANIFEST_BYTES,
    MAX_SIGNATURE_BYTES,
    MAX_SUMS_BYTES,
    SIGNATURE_SUFFIX,
    SUMS,
    Release,
    ReleaseFile,
    check_sums,
    parse_manifest,
    parse_sums,
    version_key,
)
from .signature import trusted_keys, verify
from .staged import Staged
from .status import installed
from .units import units_digest
from .wheel import check_fits, python_version, unpack_wheel

_ASK_SECONDS: Final = 15.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What is asked for; "" = the newest stable version, from where the configuration says."""

    version: str = ""
    address: str = ""
    force: bool = False
    """Also to an older version, and with operations under way."""


@dataclass(frozen=True, slots=True)
class Offer:
    """A release that was found, beside the running program."""

    source: Source
    keys: bytes
    current: str
    latest: str
    version: str
    release: Release
    files: tuple[ReleaseFile, ...]

    @property
    def newer(self) -> bool:
        return version_key(self.version) > version_key(self.current)

    @property
    def same(self) -> bool:
        return version_key(self.version) == version_key(self.current)

    @property
    def units_changed(self) -> bool:
        """Whether the services' units are written anew."""
        return self.release.units != units_digest()

    @property
    def size(self) -> int:
        """Bytes to download."""
        return sum(file.size for file in self.files)

    @property
    def steps(self) -> tuple[str, ...]:
        """What an update does, in words."""
        if self.same:
            return ("see to it that what is installed is complete and runs",)
        units = ("write the units anew",) if self.units_changed else ()
        return (
            f"download {len(self.files)} files ({self.size >> 10} KiB) from {self.source.address}/{self.version}",
            "check signature, sizes, hashes and names, and unpack them",
            "try the new version: its own version, and whether it can use the database",
            f"switch {LIBRARY}/current from {self.current} to {self.version}",
            *units,
            "restart helper and daemon, wait until the daemon answers, and compare what `banger doctor` says",
            "go back to the old version when any of this fails",
        )


def find_offer(places: Places, wish: Wish) -> Offer:
    """Look for the release; changes nothing, and anybody may. Raises NotFound, BadRequest, Unauthorized (a bad signature), BangerError."""
    keys = trusted_keys(places)
    source = source_at(wish.address or _configured(places))
    manifest = parse_manifest(_signed(source, MANIFEST, MAX_MANIFEST_BYTES, keys))
    version = wish.version.removeprefix("v") or manifest.latest_stable
    version_key(version)
    release = manifest.release(version)
    files = release.files_for(python_version())
    return Offer(source, keys, __version__, manifest.latest_stable, version, release, files)


def check_updatable(places: Places) -> Installation:
    """Raises BadRequest when the running program is not the installed one (with the way to update it), Unauthorized for anybody but root, NotFound."""
    package = Path(banger.__file__).resolve().parent
    if not package.is_relative_to(places.versions.resolve()):
        raise BadRequest(f"this banger ({package}) was not installed by `banger system install`", hint=_way_to_update(package, places))
    check_root()
    services.check_systemd()
    return installed(places)


def check_allowed(offer: Offer, wish: Wish) -> None:
    """Raises BadVersion for a version that is older, or too new to come in one step."""
    if wish.force:
        return
    if not offer.newer and not offer.same:
        raise BadVersion(f"{offer.version} is older than {offer.current}, which is installed", hint="--force goes back to it, if it can use the database")
    if version_key(offer.release.min_from) > version_key(offer.current):
        raise BadVersion(f"{offer.version} can follow {offer.release.min_from} or later, not {offer.current}", hint=f"first --to {offer.release.min_from}")


def carry_out(places: Places, installation: Installation, offer: Offer, wish: Wish, report: Report) -> bool:
    """Update; whether anything had to be done. Raises AlreadyExists (another update runs), NotStopped (operations under way), and what a step failed with.

    Killed at any point, it leaves the old or the new version complete and current; running it again finishes the work.
    """
    owner = find_owner(installation.owner)
    old = Staged(places.current.resolve(), interpreter(owner), owner)
    with _only_one(places), _scratch(places) as scratch:
        if offer.same:
            report("install", f"banger {offer.version} is the version to have; looking whether it is complete")
            return old.install()
        check_idle(installation.uid, force=wish.force)
        new = Staged(_gather(offer, scratch, report), old.interpreter, owner)
        report("try", f"trying banger {offer.version}")
        migrates = new.check(offer.version)
        check_idle(installation.uid, force=wish.force)
        with _until_done():
            _switch(places, old, new, offer, report, migrates=migrates)
    return True


def check_idle(uid: int, *, force: bool) -> None:
    """Raises NotStopped while the daemon works on something, or serves machines of ``vm run --rm``, which end with it. Nobody is asked if ``force``."""
    if force:
        return
    try:
        with Client(services.system_endpoint(uid), start=False, timeout=_ASK_SECONDS) as client:
            operations: tuple[Operation, ...] = client.call("operation.list")
            machines: tuple[VMRecord, ...] = client.call("vm.list")
    except NoDaemon:
        return
    except BadVersion as error:
        raise BadVersion(error.message, hint="sudo banger system restart, then try again") from error
    busy = [f"{one.kind} {one.target}".strip() for one in operations if one.state == "running"]
    busy += [f"vm run --rm ({one.name})" for one in machines if one.remove and one.state is VMState.RUNNING]
    if busy:
        raise NotStopped(f"under way: {', '.join(busy[:5])}{', ...' * (len(busy) > 5)}", hint="wait for it, or --force, which interrupts it")


# -- getting it --------------------------------------------------------------------------------------------------------------------------------------


def _configured(places: Places) -> str:
    path = places.at(Layout.system().config_file)
    if address := load_config(path).release_url:
        return address
    raise BadRequest("nothing says where releases are", hint=f'name the place: --from https://..., or in {path}: release_url = "https://..."')


def _signed(source: Source, name: str, limit: int, keys: bytes) -> bytes:
    document = read_bounded(source, name, limit)
    verify(document, read_bounded(source, name + SIGNATURE_SUFFIX, MAX_SIGNATURE_BYTES), keys, name)
    return document


def _gather(offer: Offer, scratch: Path, report: Report) -> Path:
    """The release, unpacked in a directory below ``scratch``."""
    for file in offer.files:
        check_fits(file.name)
    check_sums(parse_sums(_signed(offer.source, f"{offer.version}/{SUMS}", MAX_SUMS_BYTES, offer.keys)), offer.files)
    received = 0

    def on_bytes(count: int) -> None:
        nonlocal received
        received += count
        report("download", f"downloading banger {offer.version}", progress=received / offer.size)

    for file in offer.files:
        download(offer.source, f"{offer.version}/{file.name}", scratch / file.name, size=file.size, sha256=file.sha256, on_bytes=on_bytes)
    report("unpack", f"unpacking banger {offer.version}")
    place = scratch / "program"
    place.mkdir()
    for file in offer.files:
        unpack_wheel(scratch / file.name, place)
    return place


# -- switching ---------------------------------------------------------------------------------------------------------------------------------------


def _switch(places: Places, old: Staged, new: Staged, offer: Offer, report: Report, *, migrates: bool) -> None:
    failing = old.failing()
    note = ", which migrates the database after it has copied it" if migrates else ""
    report("install", f"installing banger {offer.version}{note}, and restarting helper and daemon")
    try:
        new.install()
        report("check", "comparing what `banger doctor` says")
        current = Staged(places.current.resolve(), old.interpreter, old.owner)
        if worse := {name: reason for name, reason in current.failing().items() if name not in failing}:
            raise BangerError("; ".join(f"{name}: {reason}" for name, reason in worse.items()), hint="`banger doctor` said so after the update")
    except (BangerError, OSError) as error:
        _go_back(places, old, offer, error, report)


def _go_back(places: Places, old: Staged, offer: Offer, error: BangerError | OSError, report: Report) -> None:
    """Have the old version run again; always raises, the reason for it."""
    report("undo", f"banger {offer.version} failed; going back to {offer.current}")
    reason, hint = (error.message, error.hint) if isinstance(error, BangerError) else (str(error), "")
    failed = places.current.resolve()
    try:
        if old.gives_up_database():
            services.stop_daemon()
            report("undo", old.restore_database(), warning=True)
        old.install()
        if failed != old.place:
            remove_tree(failed)
    except (BangerError, OSError) as failure:
        by_hand = (
            f"{old.interpreter} -IS -c 'import sys; sys.path.insert(0, \"{old.place}\"); from banger.cli.main import main; sys.exit(main())' system install"
        )
        raise BangerError(
            f"banger {offer.version} failed ({reason}), and {offer.current} could not be brought back: {failure}", hint=f"once that is mended: sudo {by_hand}"
        ) from error
    raise BangerError(f"banger {offer.version} failed, and {offer.current} runs again: {reason}", hint=hint) from error


@contextmanager
def _only_one(places: Places) -> Iterator[None]:
    path = places.at(LIBRARY / "update.lock")
    check_writable(path)
    fd = try_lock(path)
    if fd is None:
        raise AlreadyExists("another update is under way", hint="wait for its end")
    try:
        yield
    finally:
        os.close(fd)


@contextmanager
def _scratch(places: Places) -> Iterator[Path]:
    """An empty directory that others can read, and that is gone in the end; one of an update that was killed goes first."""
    path = places.at(LIBRARY / f"update{STAGING_SUFFIX}")
    remove_tree(path)
    path.mkdir()
    path.chmod(0o755)  # the owner looks at its database with what is in it
    mask = os.umask(0o022)
    try:
        yield path
    finally:
        os.umask(mask)
        remove_tree(path)


@contextmanager
def _until_done() -> Iterator[None]:
    """Neither Ctrl-C nor the end of the terminal stops what has to be done or undone as a whole."""
    names = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.signal(name, signal.SIG_IGN) for name in names]
    try:
        yield
    finally:
        for name, handler in zip(names, before, strict=True):
            signal.signal(name, handler)


def _way_to_update(package: Path, places: Places) -> str:
    other = "; the installed one: sudo /usr/local/bin/banger update" if places.current.exists() else ""
    tree = package.parents[1]
    if (tree / "dev").is_file() and (tree / "pyproject.toml").is_file():
        return f"it is a source tree: git -C {tree} pull && {tree}/dev setup{other}"
    with suppress(IndexError):
        if (package.parents[3] / "pyvenv.cfg").is_file():
            return f"it is in a virtual environment: {package.parents[3]}/bin/python -m pip install --upgrade banger{other}"
    return f"update it as it was installed, for example: python3 -m pip install --upgrade banger{other}"
