"""Trees and a commit of git, written without git: the files byte for byte as they were sent.

``git write-tree`` would do, but it touches the user's objects (it renews their times) and leaves out what he has and the guest has not.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from .pack import PackWriter
from .working_tree import Files, parents_of

_SIGNATURE: Final = b"banger <banger@localhost> 0 +0000"
_TREE: Final = 0o040000

Trees = dict[bytes, str]
"""Path of a directory ("" = the top) -> name of its tree."""


def write_trees(made: PackWriter, files: Files, before: Trees, touched: Iterable[bytes], known: frozenset[str]) -> Trees:
    """The trees of ``files``; those that are not ``known`` go to ``made``.

    ``before`` are trees that were true once, and still are but for the directories above the paths ``touched``.
    """
    stale = {b"", *(parent for path in touched for parent in parents_of(path))}
    trees = {path: oid for path, oid in before.items() if path not in stale}
    inside: dict[bytes, list[tuple[bytes, bytes]]] = {path: [] for path in stale}
    _sort_into(inside, ((path, state.git_mode, state.oid) for path, state in files.items()))
    _sort_into(inside, ((path, _TREE, oid) for path, oid in trees.items() if path))
    for path in sorted(stale, key=_depth, reverse=True):
        if inside[path] or not path:
            trees[path] = made.add("tree", b"".join(entry for _, entry in sorted(inside[path])), known=known)
            _sort_into(inside, [(path, _TREE, trees[path])] if path else [])
    return trees


def _sort_into(inside: Mapping[bytes, list[tuple[bytes, bytes]]], entries: Iterable[tuple[bytes, int, str]]) -> None:
    """Add entries to the directories that they lie in, where those are wanted."""
    for path, mode, oid in entries:
        folder, _, name = path.rpartition(b"/")
        if folder in inside:
            # Directories are sorted as if their name ended in a slash.
            inside[folder].append((name + b"/" if mode == _TREE else name, b"%o %s\0" % (mode, name) + bytes.fromhex(oid)))


def write_commit(made: PackWriter, tree: str, parent: str) -> str:
    """A commit of ``tree`` on top of ``parent``, always the same for the same two."""
    lines = [b"tree " + tree.encode(), b"parent " + parent.encode(), b"author " + _SIGNATURE, b"committer " + _SIGNATURE]
    return made.add("commit", b"\n".join(lines) + b"\n\nbanger: the working tree as it was prepared\n")


def _depth(path: bytes) -> int:
    return path.count(b"/") + 1 if path else 0
