"""Kernels of this host: found, made when the catalog knows them, taken from bundles and files, removed."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final

from ..guest.initramfs import build_initramfs
from ..guest.program import guest_program
from ..host.files import explain_no_space, sha256_of
from ..host.paths import Layout
from ..model.errors import AlreadyExists, BadRequest, BangerError, NotFound
from ..model.names import check_artifact_name, new_id
from ..model.progress import Report
from ..model.records import KernelRecord
from ..model.sizes import GIB
from ..store.artifacts import KernelTable
from . import kernel as package
from . import kernel_bundle, kernel_files
from .catalog import Catalog, KernelRecipe, embedded, unknown
from .flights import Flights
from .kernel_config import Declared
from .kernel_files import KernelFiles
from .sources.bundle import check_url, download
from .staging import discard, find_leftovers, name_lock, publish, remove_leftovers, staged, staging_path

MAX_BUNDLE: Final = 4 * GIB
"""Bytes of a kernel bundle that are downloaded at most."""


@dataclass(frozen=True, slots=True)
class _Filled:
    """What came into a staging directory."""

    declared: Declared
    source: str
    facts: Mapping[str, str] = field(default_factory=dict)
    """More for the kernel's manifest."""
    digest: str = ""
    """What vmlinux must have; "" = anything."""


class KernelService:
    """The kernels of one instance. Used from the event loop only."""

    def __init__(self, layout: Layout, table: KernelTable, *, catalog: Callable[[], Catalog] = embedded) -> None:
        self._layout = layout
        self._table = table
        self._catalog = catalog
        self._flights: Flights[KernelRecord] = Flights()
        self._initramfs: dict[tuple[str, int, int], Path] = {}

    async def ensure(self, name: str, report: Report) -> KernelRecord:
        """Kernel ``name``, made first when only the catalog has it, or when its files are gone.

        Raises NotFound with the nearest names, BangerError for one that is damaged and not in the catalog, MissingTool, NoSpace, CommandFailed; nothing
        half-made stays.
        """
        kernel = self._table.get(name)
        if kernel is None or Path(kernel.path, package.VMLINUX).exists():
            return kernel or await self.pull(name, report, force=False)
        damage = f"kernel {name} is damaged: {kernel.path}/{package.VMLINUX} is gone"
        if name not in await self._known():
            raise BangerError(damage, hint=f"import it again: banger kernel import {name} --force, with the files that it was made of ({kernel.source})")
        report(package.STAGE, f"{damage}; getting it again", warning=True)
        return await self.pull(name, report, force=True)

    async def pull(self, name: str, report: Report, *, force: bool) -> KernelRecord:
        """The catalog's kernel ``name``; one that is here already stays unless ``force``. Callers at the same time share one download.

        With ``force`` the newest takes the place of the one that is here; machines boot it at their next start. Raises as ``ensure``.
        """
        kernel = self._table.get(name)
        if kernel and not force and Path(kernel.path, package.VMLINUX).exists():
            return kernel
        if name not in (known := await self._known()):
            if self.has(name):
                raise NotFound(f"the catalog has no kernel {name!r}", hint="a kernel from files or a bundle is replaced by `banger kernel import --force`")
            raise unknown(name, known, "kernel")
        return await self._flights.join(name, lambda shared: self._from_package(name, shared, force=kernel is not None), report)

    async def pull_bundle(self, name: str, location: str, digest: str, report: Report, *, force: bool) -> KernelRecord:
        """A kernel from a bundle: an absolute path, or an https URL with its ``digest`` (``sha256:...``), which is checked before anything is unpacked.

        Raises AlreadyExists unless ``force``, BadRequest, NotFound, NoSpace.
        """
        if not location.startswith("/"):
            check_url(location, digest)

        async def fill(staging: Path) -> _Filled:
            async with _bundle_file(location, digest, staging, report) as file:
                report(package.STAGE, "unpacking the bundle")
                manifest = await asyncio.to_thread(kernel_bundle.unpack, file, staging)
            return _Filled(await kernel_files.complete(staging), f"bundle:{location}", {"bundle_name": manifest.name}, manifest.digest)

        return await self._make(name, fill, report, force=force)

    async def import_files(self, name: str, files: KernelFiles, report: Report, *, force: bool) -> KernelRecord:
        """A kernel from files of the caller's, which are copied.

        Raises AlreadyExists unless ``force``, BadRequest that names every option that a machine needs and the kernel lacks, NoSpace.
        """

        async def fill(staging: Path) -> _Filled:
            report(package.STAGE, f"copying {files.vmlinux.name}")
            return _Filled(await kernel_files.gather(files, staging), f"file:{files.vmlinux}")

        return await self._make(name, fill, report, force=force)

    async def export(self, name: str, destination: Path, report: Report) -> KernelRecord:
        """Write kernel ``name`` as a bundle to the new file ``destination``. Raises NotFound, AlreadyExists, NoSpace, OSError."""
        record = self.show(name)
        report("export_kernel", f"writing {destination}")
        try:
            await asyncio.to_thread(kernel_bundle.write, record, destination)
        except FileExistsError as error:
            raise AlreadyExists(f"{destination} already exists", hint="remove it first, or write to another file") from error
        except BaseException:
            destination.unlink(missing_ok=True)
            raise
        return record

    async def delete(self, name: str) -> KernelRecord:
        """Remove a kernel. Raises NotFound, or BadRequest with their names while machines or images use it."""
        record = self.show(name)
        images, machines = self._table.users(name)
        if machines:
            raise BadRequest(f"kernel {name} is used by {_listed('machine', machines)}", hint=f"delete the machine first: banger vm delete {machines[0]}")
        if images:
            raise BadRequest(f"kernel {name} is used by {_listed('image', images)}", hint=f"delete the image first: banger image delete {images[0]}")
        self._table.delete(name)
        await _remove_directory(record)
        return record

    def list(self) -> tuple[KernelRecord, ...]:
        """The kernels that are here."""
        return self._table.list()

    async def catalog(self) -> tuple[KernelRecipe, ...]:
        """The kernels that can be pulled by name. Raises BadRequest for a mistake in a catalog."""
        return tuple((await self._known()).values())

    async def _known(self) -> Mapping[str, KernelRecipe]:
        return (await asyncio.to_thread(self._catalog)).kernels

    def show(self, name: str) -> KernelRecord:
        """The kernel of that name. Raises NotFound."""
        if kernel := self._table.get(name):
            return kernel
        raise unknown(name, [k.name for k in self._table.list()], "kernel", listing="list")

    def has(self, name: str) -> bool:
        """Whether a kernel of that name is here."""
        return self._table.get(name) is not None

    async def check_known(self, name: str) -> None:
        """Raises NotFound with the nearest names when the kernel is neither here nor in a catalog: before much is done for an image that needs it."""
        if not self.has(name) and name not in (known := await self._known()):
            raise unknown(name, [*known, *(kernel.name for kernel in self._table.list())], "kernel")

    async def initramfs_of(self, kernel: KernelRecord) -> Path:
        """The initramfs for this kernel and the present guest program; remembered, since this is on the way of every start."""
        program = guest_program()
        info = program.stat()
        key = (kernel.id, info.st_mtime_ns, info.st_size)
        if path := self._initramfs.get(key):
            try:
                os.utime(path)  # marks it as used for the cache's own pruning
                return path
            except FileNotFoundError:
                del self._initramfs[key]
        path = self._initramfs[key] = await asyncio.to_thread(build_initramfs, Path(kernel.path), program, self._layout.initramfs_cache)
        return path

    async def settle(self) -> None:
        """At daemon start: remove what interrupted downloads left, and note where the kernels lie by now."""
        await remove_leftovers(self._layout.kernels)
        for kernel in self._table.list():
            self._table.move(kernel, self._layout.kernels / kernel.id)

    def find_leftovers(self) -> tuple[Path, ...]:
        """What interrupted downloads left, and nobody works on."""
        return tuple(find_leftovers(self._layout.kernels, {kernel.id for kernel in self._table.list()}))

    async def _from_package(self, name: str, report: Report, *, force: bool) -> KernelRecord:
        catalog = await asyncio.to_thread(self._catalog)
        recipe = catalog.kernels[name]

        async def fill(staging: Path) -> _Filled:
            release = await package.fetch(recipe, catalog.distributions[recipe.distribution], staging, report)
            facts = {"suite": recipe.suite, "package": release.package}
            return _Filled(await kernel_files.complete(staging), f"package:{release.package}", facts)

        try:
            return await self._make(name, fill, report, force=force)
        except AlreadyExists:
            return self.show(name)  # another process was quicker

    async def _make(self, name: str, fill: Callable[[Path], Awaitable[_Filled]], report: Report, *, force: bool) -> KernelRecord:
        """Publish what ``fill`` leaves in a staging directory as kernel ``name``. Raises AlreadyExists unless ``force``, and what ``fill`` raises."""
        check_artifact_name(name, "kernel")
        async with name_lock(self._layout.kernels, name):
            if not force and self._table.get(name) is not None:
                raise AlreadyExists(f"kernel {name!r} already exists", hint="choose another name, or replace it with --force")
            identifier = new_id()
            async with staged(self._layout.kernels, name, identifier) as staging:
                filled = await fill(staging)
                record = await self._publish(staging, identifier, name, filled)
            await self._install(record)
            report(package.STAGE, f"kernel {name} ({record.version}) is ready")
            return record

    async def _publish(self, staging: Path, identifier: str, name: str, filled: _Filled) -> KernelRecord:
        """The finished staging directory under its final name, and its record."""
        vmlinux = staging / package.VMLINUX
        digest = await asyncio.to_thread(sha256_of, vmlinux)
        if filled.digest and filled.digest != digest:
            raise BadRequest(f"vmlinux of the bundle has digest {digest}, its manifest says {filled.digest[:80]}")
        record = KernelRecord(
            id=identifier,
            name=name,
            source=filled.source,
            path=str(self._layout.kernels / identifier),
            version=filled.declared.version,
            digest=digest,
            size_bytes=vmlinux.stat().st_size,
            created_at=time.time(),
            format=filled.declared.format,
            console=filled.declared.console,
            virtio=filled.declared.virtio,
        )
        await publish(staging, Path(record.path), {**asdict(record), **filled.facts})
        return record

    async def _install(self, record: KernelRecord) -> None:
        """The row of a published directory, in the place of an older kernel of that name; or the directory is taken back."""
        try:
            replaced = self._table.replace(record)
        except BaseException:
            await discard(Path(record.path))
            raise
        if replaced is not None:
            await _remove_directory(replaced)


@asynccontextmanager
async def _bundle_file(location: str, digest: str, staging: Path, report: Report) -> AsyncIterator[Path]:
    """The bundle's bytes with the digest that they must have ("" = any). Raises BadRequest."""
    if not location.startswith("/"):
        file = staging / "bundle"
        with explain_no_space("downloading the kernel", staging):
            _check(location, await download(location, file, MAX_BUNDLE, report), digest)
        yield file
        file.unlink()
        return
    file = Path(location)
    if not file.is_file():
        raise BadRequest(f"{location} is not a file", hint="a kernel bundle is made by: banger kernel export")
    if digest:
        _check(location, await asyncio.to_thread(sha256_of, file), digest)
    yield file


def _check(location: str, found: str, digest: str) -> None:
    if found != digest:
        raise BadRequest(f"{location} has digest {found}, not {digest}", hint="it was damaged or replaced; ask its maker which digest is right")


async def _remove_directory(record: KernelRecord) -> None:
    path = Path(record.path)
    aside = staging_path(path.parent, record.name, path.name)
    with contextlib.suppress(FileNotFoundError):
        path.rename(aside)
    await discard(aside)


def _listed(noun: str, names: tuple[str, ...]) -> str:
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return f"the {noun}{'s' if len(names) > 1 else ''} {', '.join(names[:5])}{more}"
