"""A git directory of our own beside the user's: what becomes the guest's ``.git`` is made here, and his stays as it is."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Final

from ..model.errors import BangerError, CommandFailed
from .git import Git
from .repository import Repository

NO_CONVERSION: Final = b"* -text -filter -ident -working-tree-encoding !eol !diff !merge !whitespace\n"
"""Attributes under which the bytes of a file are its content."""
_QUICKLY: Final = ("-c", "pack.compression=1", "-c", "pack.window=0")
"""The deltas that the user's packs have are kept; none are looked for: that takes longer than sending a little more."""


@contextmanager
def open_shadow(repository: Repository, *, work_tree: Path | None = None) -> Iterator[Shadow]:
    """A shadow of ``repository`` for as long as the block lasts."""
    with tempfile.TemporaryDirectory(prefix="banger-shadow-", ignore_cleanup_errors=True) as place:
        yield Shadow(Path(place), repository, work_tree=work_tree)


class Shadow:
    """A git directory in ``root`` that borrows the objects of ``repository``."""

    def __init__(self, root: Path, repository: Repository, *, work_tree: Path | None = None) -> None:
        self.root = root
        self.objects = root / "objects"
        self._repository = repository
        self._work_tree = work_tree

    @cached_property
    def git(self) -> Git:
        """git in it. It is made when git is needed, which to send a few files it is not."""
        for folder in ("objects/pack", "objects/info", "refs/heads", "info"):
            (self.root / folder).mkdir(parents=True)
        self.write("HEAD", b"ref: refs/heads/main\n")
        self.write("config", configuration([("core.repositoryformatversion", "0"), ("core.bare", "false")], self._repository.object_format))
        self.write("info/attributes", NO_CONVERSION)
        return Git.of_shadow(self.root, self._repository.objects, work_tree=self._work_tree)

    def write(self, name: str, content: bytes) -> Path:
        """Write one file of the git directory."""
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return path

    def add_file(self, path: bytes) -> str:
        """Store the bytes of a file that is too long to be held; returns the blob's name."""
        with Path(os.fsdecode(path)).open("rb") as file:
            return self.git.output("-c", "core.compression=0", "hash-object", "-w", "--no-filters", "--stdin", stdin=file).decode().strip()

    def pack(self, wanted: Iterable[str], *, known: Iterable[str] = (), shallow: Iterable[str] = ()) -> None:
        """Put all that ``wanted`` reach into a pack, without what ``known`` reach; history ends at ``shallow``. Raises BangerError when objects are missing."""
        git = self.git
        words = (*_QUICKLY, "pack-objects", "-q", "--revs", str(self.objects / "pack/pack"))
        edge = self.root / "shallow.edge"
        edge.write_text("".join(f"{commit}\n" for commit in sorted(shallow)))
        lines = [*wanted, *(f"^{commit}" for commit in known)]
        try:
            # --shallow-file is how git's own upload-pack does it.
            git.run("--shallow-file", str(edge), *words, stdin="".join(f"{line}\n" for line in lines).encode())
        except CommandFailed as error:
            reason = error.message.rpartition("fatal: ")[2]
            raise BangerError(
                f"git cannot pack the history: {reason}", hint="a partial clone must be completed first (`git fetch --refetch`), or use --no-git"
            ) from error
        finally:
            edge.unlink()


def configuration(settings: Iterable[tuple[str, str]], object_format: str) -> bytes:
    """A git configuration file."""
    given = list(settings)
    if object_format != "sha1":
        given = [
            ("core.repositoryformatversion", "1"),
            ("extensions.objectformat", object_format),
            *(pair for pair in given if "repositoryformat" not in pair[0]),
        ]
    lines = []
    for key, value in given:
        section, _, name = key.rpartition(".")
        head, _, middle = section.partition(".")
        lines.append(f'[{head} "{_quoted(middle)}"]' if middle else f"[{head}]")
        lines.append(f'\t{name} = "{_quoted(value)}"')
    return ("\n".join(lines) + "\n").encode("utf-8", "surrogateescape")


def _quoted(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("\t", "\\t").replace("\0", "")
