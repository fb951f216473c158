"""From what a user writes to a source: a catalog's name, a path, a bundle's URL, or a container reference."""

from __future__ import annotations

import dataclasses
import re
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ...model.errors import BadRequest, NotFound
from ..bundle import looks_like_one
from ..catalog import DEFAULT_KERNEL, Catalog, ImageEntry
from ..catalog_files import read_recipe
from ..ext4_file import HEAD_BYTES, is_ext4
from ..flatten.decompress import decompress, sniff
from ..flatten.limits import BadArchive
from ..oci.blobs import BlobCache
from ..oci.reference import Reference, is_digest, parse
from .bundle import MAX_DOWNLOAD, BundleSource, check_url
from .container import ContainerSource
from .files import Ext4Source, TarSource
from .names import name_of_file
from .protocol import Source
from .recipe import RecipeSource

_BARE_WORD: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_MAGIC_BYTES: Final = 8
_URL: Final = re.compile(r"https?://")
# How the first member of what `docker save` and skopeo write is named (image-spec, image-layout.md; moby's image/spec/v1.2.md).
_ARCHIVE_MEMBER: Final = re.compile(r"(?:\./)?(?:[0-9a-f]{64}(?:\.tar|\.json|/.*)?|blobs(?:/.*)?|oci-layout|index\.json|manifest\.json|repositories)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What a caller wants an image made of. Paths are absolute."""

    text: str
    kernel: str = ""
    """"" = what the source says, else the default."""
    insecure: frozenset[str] = frozenset()
    digest: str = ""
    """``sha256:...`` that a bundle must have."""
    credentials: str = ""
    """File with the caller's logins for registries, asked before those of the daemon's user."""


@dataclass(frozen=True, slots=True)
class Chooser:
    """Knows the catalog and the cache of one instance."""

    catalog: Callable[[], Catalog]
    cache: BlobCache

    def choose(self, wish: Wish) -> Source:
        """The source that is meant. Raises NotFound for an unknown name or file, BadRequest for words that mean nothing. Blocking, but short."""
        if wish.digest and not is_digest(wish.digest):
            raise BadRequest(f"{wish.digest!r} is not a digest", hint="sha256: and the 64 digits that sha256sum shows")
        if is_path(wish.text):
            return self._of_file(Path(wish.text), wish)
        if _URL.match(wish.text):
            check_url(wish.text, wish.digest)
            return BundleSource(url=wish.text, digest=wish.digest, kernel=wish.kernel or DEFAULT_KERNEL)
        if is_bare_word(wish.text):  # only these need a catalog: a mistake in one leaves everything else alone
            return self._of_catalog(self.catalog(), wish)
        return self._container(parse(wish.text), wish.kernel or DEFAULT_KERNEL, wish)

    def _container(self, where: Reference, kernel: str, wish: Wish, *, name: str = "", digest: str = "") -> ContainerSource:
        credentials = Path(wish.credentials) if wish.credentials else None
        return ContainerSource(where=where, cache=self.cache, kernel=kernel, catalog_name=name, digest=digest, insecure=wish.insecure, credentials=credentials)

    def _of_catalog(self, catalog: Catalog, wish: Wish) -> Source:
        if recipe := catalog.recipes.get(wish.text):
            chosen = dataclasses.replace(recipe, kernel=wish.kernel or recipe.kernel)
            return RecipeSource(recipe=chosen, distribution=catalog.distributions[recipe.distribution])
        if entry := catalog.entries.get(wish.text):
            return self._of_entry(entry, wish)
        raise NotFound(f"no image {wish.text!r}")

    def _of_entry(self, entry: ImageEntry, wish: Wish) -> Source:
        kernel = wish.kernel or entry.kernel
        if entry.reference:
            return self._container(parse(entry.reference), kernel, wish, name=entry.name, digest=entry.digest)
        check_url(entry.bundle, entry.digest)
        limit = entry.size_bytes or MAX_DOWNLOAD
        return BundleSource(url=entry.bundle, digest=entry.digest, kernel=kernel, size_limit=limit, catalog_name=entry.name)

    def _of_file(self, path: Path, wish: Wish) -> Source:
        if not path.is_file():
            raise NotFound(f"there is no file {path}", hint="an OCI layout is a directory: oci:DIR[:TAG]" if path.is_dir() else "")
        kernel = wish.kernel or DEFAULT_KERNEL
        if path.suffix == ".toml":
            return self.recipe_file(path, wish.kernel)
        untrusted_head = first_bytes(path)
        if is_ext4(untrusted_head):
            return Ext4Source(path=path, kernel=kernel)
        if looks_like_one(untrusted_head):
            return BundleSource(path=path, digest=wish.digest, kernel=wish.kernel or DEFAULT_KERNEL)
        if _ARCHIVE_MEMBER.fullmatch(_first_member(untrusted_head, path)):
            return ContainerSource(where=parse(f"docker-archive:{path}"), cache=self.cache, kernel=kernel)
        return TarSource(path=path, kernel=kernel)

    def recipe_file(self, path: Path, kernel: str = "") -> RecipeSource:
        """A user's own recipe. Raises BadRequest."""
        catalog = self.catalog()
        recipe = read_recipe(path, name_of_file(path), catalog.distributions)
        chosen = dataclasses.replace(recipe, kernel=kernel or recipe.kernel)
        return RecipeSource(recipe=chosen, distribution=catalog.distributions[recipe.distribution], file=path)


def is_path(text: str) -> bool:
    """Whether this names a file; only absolute ones reach the daemon."""
    return text.startswith("/")


def is_bare_word(text: str) -> bool:
    """Whether this can be a catalog's name; a container reference has more to it."""
    return _BARE_WORD.fullmatch(text) is not None


def first_bytes(path: Path) -> bytes:
    """The beginning of the file's content, uncompressed when it is compressed with gzip, zstd or xz. Raises BadRequest, BadArchive."""
    try:
        with path.open("rb") as file:
            head = file.read(_MAGIC_BYTES)
            file.seek(0)
            found = b""
            for untrusted_piece in decompress(iter(lambda: file.read(64 * 1024), b""), sniff(head)):
                found += untrusted_piece
                if len(found) >= HEAD_BYTES:
                    break
            return found[:HEAD_BYTES]
    except OSError as error:
        raise BadRequest(f"{path} cannot be read: {error.strerror}") from error
    except BadArchive as error:
        raise BadArchive(f"{path}: {error.message}", hint=error.hint) from error


def _first_member(untrusted_head: bytes, path: Path) -> str:
    try:
        return tarfile.TarInfo.frombuf(untrusted_head[:512], "utf-8", "surrogateescape").name
    except tarfile.HeaderError as error:
        raise BadRequest(
            f"{path} is neither a tar, an ext4, a bundle, a docker archive nor a recipe (.toml)", hint="tars may be compressed with gzip, zstd or xz"
        ) from error
