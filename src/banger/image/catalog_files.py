"""Reading catalogs and recipes: TOML, every key known, a mistake told with its file and key. Files of this host and of the user come after the embedded one."""

from __future__ import annotations

import dataclasses
import difflib
import threading
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec

from ..host.files import open_regular
from ..model.errors import BadRequest
from ..model.names import check_artifact_name
from .catalog import EMBEDDED, Catalog, Distribution, ImageEntry, KernelRecipe, Recipe, embedded
from .oci.reference import is_digest, parse
from .sources.bundle import check_url

MAX_BYTES: Final = 1024 * 1024
Entry = TypeVar("Entry", Recipe, ImageEntry, KernelRecipe, Distribution)
_TABLES: Final[dict[str, type]] = {"images": ImageEntry, "recipes": Recipe, "kernels": KernelRecipe, "distributions": Distribution}
_Signature = tuple[tuple[Path, int, int], ...]
_READ_SECONDS: Final = 10.0
"""Files of a few KiB; a network file system that takes longer hangs."""


class CatalogFiles:
    """The embedded catalog and the ``*.toml`` of these directories; a later entry of the same name wins. Read again when a file has changed."""

    def __init__(self, directories: Sequence[Path] = (), *, deadline: float = _READ_SECONDS) -> None:
        self._directories = directories
        self._deadline = deadline
        self._read: tuple[_Signature, Catalog] | None = None
        self._lock = threading.Lock()
        self._reading: Future[Catalog] | None = None

    def read(self) -> Catalog:
        """The catalog as it is now. Blocking, but never for longer than the deadline. Raises BadRequest for a mistake in a file, or one that hangs."""
        with self._lock:
            if self._reading is None or self._reading.done():
                self._reading = Future()
                # A daemon thread: no end of a process waits for what a file system never answers.
                threading.Thread(target=self._fulfil, args=(self._reading,), name="catalogs", daemon=True).start()
            reading = self._reading
        try:
            return reading.result(self._deadline)
        except TimeoutError:
            places = ", ".join(map(str, self._directories))
            raise BadRequest(f"a catalog does not answer within {self._deadline:g} s", hint=f"one of the files in {places} hangs") from None

    def _fulfil(self, reading: Future[Catalog]) -> None:
        try:
            reading.set_result(self._look())
        except BaseException as error:  # noqa: BLE001 - raised again in the threads that wait
            reading.set_exception(error)

    def _look(self) -> Catalog:
        signature = tuple(self._signatures())
        if not signature:
            return embedded()
        if self._read is None or self._read[0] != signature:
            self._read = (signature, read([EMBEDDED, *(path for path, _, _ in signature)]))
        return self._read[1]

    def _signatures(self) -> Iterable[tuple[Path, int, int]]:
        for directory in self._directories:
            for path in sorted(directory.glob("*.toml")):
                try:
                    info = path.stat()
                except OSError:  # a link that leads nowhere, for one: reading it says so
                    yield path, 0, 0
                else:
                    yield path, info.st_mtime_ns, info.st_size


def read(files: Iterable[Path]) -> Catalog:
    """All entries of these files. Raises BadRequest that names file and key."""
    tables: dict[str, dict[str, Any]] = {table: {} for table in _TABLES}
    origins: dict[str, Path] = {}
    for file in files:
        for table, raw in _document(file).items():
            if table not in _TABLES or not isinstance(raw, dict):
                raise _unknown_key(file, table, _TABLES)
            for name, entry in raw.items():
                tables[table][name] = _entry(_TABLES[table], name, entry, f"{file}: {table}.{name}")
                if table in ("images", "recipes"):
                    tables["recipes" if table == "images" else "images"].pop(name, None)
                    origins[name] = file
    catalog = Catalog(recipes=tables["recipes"], kernels=tables["kernels"], distributions=tables["distributions"], entries=tables["images"])
    for name, image in catalog.entries.items():
        _check_entry(image, f"{origins[name]}: images.{name}")
    completed = {name: _complete(one, catalog.distributions, f"{origins[name]}: recipes.{name}") for name, one in catalog.recipes.items()}
    return dataclasses.replace(catalog, recipes=completed)


def read_recipe(file: Path, name: str, distributions: Mapping[str, Distribution]) -> Recipe:
    """A user's own recipe: the keys of a catalog's recipe at the top of a file. Raises BadRequest that names file and key."""
    return _complete(_entry(Recipe, name, _document(file), str(file)), distributions, str(file))


def _document(file: Path) -> dict[str, Any]:
    try:
        with open_regular(file) as stream:
            untrusted = stream.read(MAX_BYTES + 1)
        if len(untrusted) > MAX_BYTES:
            raise BadRequest(f"{file} is larger than {MAX_BYTES // 1024} KiB")
        return tomllib.loads(untrusted.decode())
    except OSError as error:
        raise BadRequest(f"{file} cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadRequest(f"{file} is not TOML: {error}", hint="docs/images.md shows a catalog and a recipe") from error


def _entry(kind: type[Entry], name: str, raw: object, where: str) -> Entry:
    """``raw`` as an entry. ``name`` is not a key of its own."""
    if not isinstance(raw, dict):
        raise BadRequest(f"{where} is not a table", hint="docs/images.md shows a catalog and a recipe")
    _check_name(name, where)
    known = [one.name for one in dataclasses.fields(kind) if one.name != "name"]
    for key in raw:
        if key not in known:
            raise _unknown_key(where, key, known)
    try:
        return msgspec.convert(raw | ({"name": name} if "name" in kind.__dataclass_fields__ else {}), kind)
    except msgspec.ValidationError as error:
        raise BadRequest(f"{where}: {error}", hint=f"its keys are: {', '.join(known)}") from error


def _check_name(name: str, where: str) -> None:
    """Raises BadRequest that names the place unless ``name`` may be an image's or a kernel's."""
    try:
        check_artifact_name(name)
    except BadRequest as error:
        raise BadRequest(f"{where}: {error.message}", hint=error.hint) from error


def _unknown_key(where: object, key: str, known: Iterable[str]) -> BadRequest:
    near = difflib.get_close_matches(key, list(known), n=1, cutoff=0.5)
    return BadRequest(f"{where}: unknown key {key}", hint=f"did you mean {near[0]}?" if near else f"the keys are: {', '.join(known)}")


def _check_entry(entry: ImageEntry, where: str) -> None:
    if bool(entry.reference) == bool(entry.bundle):
        raise BadRequest(f"{where} needs either `reference` or `bundle`", hint='for example reference = "docker://docker.io/library/alpine:3"')
    if entry.bundle and not entry.digest:
        raise BadRequest(f"{where}: a bundle needs a digest", hint='digest = "sha256:..." (sha256sum of the file)')
    try:
        if entry.bundle:
            check_url(entry.bundle, entry.digest)
        else:
            parse(entry.reference)
    except BadRequest as error:
        raise BadRequest(f"{where}: {error.message}", hint=error.hint) from error
    if entry.digest and not is_digest(entry.digest):
        raise BadRequest(f"{where}: {entry.digest!r} is not a digest", hint="sha256: and 64 lower-case hexadecimal digits")


def _complete(recipe: Recipe, distributions: Mapping[str, Distribution], where: str) -> Recipe:
    """The recipe with what its distribution does to every tree."""
    distribution = distributions.get(recipe.distribution)
    if distribution is None:
        raise BadRequest(f"{where}: unknown distribution {recipe.distribution!r}", hint=f"one of: {', '.join(distributions)}")
    if distribution.suites and recipe.suite not in distribution.suites:
        raise BadRequest(f"{where}: unknown suite {recipe.suite!r}", hint=f"one of: {', '.join(distribution.suites)}")
    for path in (*recipe.remove, *recipe.links, *recipe.files):
        if not path.startswith("/") or "\0" in path:
            raise BadRequest(f"{where}: {path!r} is not an absolute path", hint="paths in a recipe begin at the image's root")
        if ".." in path.split("/"):
            raise BadRequest(f"{where}: {path!r} has a `..` in it", hint="write where the path leads to")
    files = {path: text for path, text in distribution.files.items() if path not in recipe.links} | recipe.files
    links = {path: target for path, target in distribution.links.items() if path not in recipe.files} | recipe.links
    return dataclasses.replace(recipe, remove=(*distribution.remove, *recipe.remove), links=links, files=files)
