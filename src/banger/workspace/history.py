"""Which commits go into the guest: a few generations before the wanted one, or all of them."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

from .repository import Repository

DEPTH: Final = 10
"""Generations of commits that a shallow history has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """Commits to send. Names are hexadecimal."""

    tips: tuple[str, ...]
    """Commits and annotated tags that everything sent is reachable from."""
    commits: frozenset[str]
    """All that are sent; empty when history is sent whole."""
    shallow: frozenset[str]
    """Commits whose parents are not sent."""
    refs: dict[str, str]
    """Full names of branches and tags that the guest gets beside the one that is checked out."""


def recent_history(repository: Repository, wanted: str, *, known: Collection[str] = ()) -> History:
    """DEPTH generations that end with ``wanted``; not beyond commits that are ``known``."""
    commits: set[str] = set()
    edge: set[str] = set()
    level = {wanted} - set(known)
    for generation in range(DEPTH):
        if not level:
            break
        parents = _parents(repository, level)
        commits |= level
        further = {parent for of_one in parents.values() for parent in of_one} - commits - set(known)
        if generation == DEPTH - 1:
            edge = {commit for commit, of_one in parents.items() if set(of_one) & further}
        level = further
    return History(tips=(wanted,), commits=frozenset(commits), shallow=frozenset(edge | (_own_edge(repository) & commits)), refs={})


def whole_history(repository: Repository, wanted: str) -> History:
    """Everything that ``wanted``, a branch or a tag leads to."""
    refs = {}
    for line in (
        repository.git.output("for-each-ref", "--format=%(objectname) %(refname)", "refs/heads", "refs/tags").decode("utf-8", "surrogateescape").splitlines()
    ):
        oid, _, name = line.partition(" ")
        refs[name] = oid
    return History(tips=tuple({wanted, *refs.values()}), commits=frozenset(), shallow=frozenset(_own_edge(repository)), refs=refs)


def _parents(repository: Repository, commits: Collection[str]) -> dict[str, list[str]]:
    listed = repository.git.output("rev-list", "--no-walk=unsorted", "--parents", "--stdin", stdin="".join(f"{commit}\n" for commit in commits).encode())
    return {words[0]: words[1:] for words in map(str.split, listed.decode().splitlines())}


def _own_edge(repository: Repository) -> set[str]:
    """Where the history of a shallow clone ends already."""
    try:
        return set((repository.common_dir / "shallow").read_text().split())
    except FileNotFoundError:
        return set()
