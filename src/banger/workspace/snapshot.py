"""Trees and commits of git, written without git: a commit of the files byte for byte as they were sent.

``git write-tree`` would do, but it touches the user's objects (it renews their times) and leaves out what he has and the guest has not.
"""

from __future__ import annotations

from typing import Final

from .index import IndexEntry, encode_index
from .repository import Repository
from .shadow import Shadow
from .source import Checkout
from .working_tree import Files

_SIGNATURE: Final = b"banger <banger@localhost> 0 +0000"
_TREE: Final = 0o040000


def take_snapshot(shadow: Shadow, checkout: Checkout, files: Files, stat_entries: list[IndexEntry]) -> tuple[bytes, str]:
    """The index file of ``files``, and the name of a commit of them on top of what is checked out; objects that the guest lacks go into the shadow."""
    root = _write_tree(shadow, _known_trees(checkout.repository, checkout.wanted), _nested(files))
    lines = [b"tree " + root.encode(), b"parent " + checkout.wanted.encode(), b"author " + _SIGNATURE, b"committer " + _SIGNATURE]
    commit = shadow.add_object("commit", b"\n".join(lines) + b"\n\nbanger: the working tree as it was prepared\n")
    return encode_index(stat_entries, checkout.repository.object_format), commit


def _known_trees(repository: Repository, commit: str) -> frozenset[str]:
    listed = repository.git.output("ls-tree", "-r", "-d", "-t", "-z", "--full-tree", commit).split(b"\0")[:-1]
    top = repository.git.line("rev-parse", f"{commit}^{{tree}}")
    return frozenset({top, *(line.partition(b"\t")[0].split(b" ")[2].decode() for line in listed)})


_Folder = dict[bytes, "tuple[int, str] | _Folder"]


def _nested(files: Files) -> _Folder:
    top: _Folder = {}
    for path, state in files.items():
        *parents, name = path.split(b"/")
        folder = top
        for parent in parents:
            inner = folder.setdefault(parent, {})
            assert isinstance(inner, dict)
            folder = inner
        folder[name] = (state.git_mode, state.oid)
    return top


def _write_tree(shadow: Shadow, known: frozenset[str], folder: _Folder) -> str:
    entries = []
    for name, what in folder.items():
        mode, oid = (_TREE, _write_tree(shadow, known, what)) if isinstance(what, dict) else what
        # Directories are sorted as if their name ended in a slash.
        entries.append((name + b"/" if mode == _TREE else name, b"%o %s\0" % (mode, name) + bytes.fromhex(oid)))
    return shadow.add_object("tree", b"".join(entry for _, entry in sorted(entries)), known=known)
