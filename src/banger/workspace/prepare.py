"""Prepare: a directory of the host becomes a workspace in a guest, and later again only what changed since."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Final

import msgspec

from ..model.errors import AlreadyExists
from ..model.names import new_id
from ..model.records import WorkspaceRecord
from .git_dir import Commits, files_index, head_records, object_records, pack_history, tree_names, user_index
from .guest import Guest, Place
from .pack import PackWriter
from .records import Record, directory, prune, regular, remove
from .shadow import Shadow, open_shadow
from .snapshot import Trees, write_commit, write_trees
from .source import Checkout, Source
from .state import Sent
from .working_tree import Files, FileState, TreeReader, parents_of

_POINTER: Final = b"version https://git-lfs.github.com/spec/"
_SETTLED_NS: Final = 100_000_000
"""A file whose time is younger may change again without a new time: it is read again the next time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """What was done."""

    record: WorkspaceRecord
    sent: Sent | None
    """To be remembered for the next time; None without git."""
    files: int
    """How many were sent."""
    removed: int
    notices: tuple[str, ...]


def prepare(source: Source, guest: Guest, place: Place, sent: Sent | None, *, force: bool = False) -> Prepared:
    """Bring ``source`` to ``place``; ``sent`` is what the host remembers of the last time.

    Raises AlreadyExists when the guest has something there that a prepare did not make, or commits that it would hide, unless ``force``;
    BangerError when the source cannot be read; GuestError.
    """
    _check_place(place, force=force)
    if source.checkout is None:
        return _send_files(source, guest, place)
    known = sent if _still_true(source, place, sent) else None
    if place.moved and place.base and not force and (known is None or known.wanted != source.checkout.wanted):
        raise AlreadyExists(
            f"the guest has commits of its own in {place.path}, which this prepare would hide",
            hint="bring them home with `banger vm workspace fetch`, then use --force",
        )
    with open_shadow(source.checkout.repository) as shadow, PackWriter(source.checkout.repository.object_format) as made:
        stale = sent.files if sent is not None and sent.root == str(source.root) else {}
        return _Transfer(source, source.checkout, place, known, stale, shadow, made).send(guest)


def _check_place(place: Place, *, force: bool) -> None:
    if place.used and not place.ours and not force:
        raise AlreadyExists(
            f"{place.path} in the guest is not empty, and no workspace of ours", hint="choose another --guest-path, or use --force to write over it"
        )


def _still_true(source: Source, place: Place, sent: Sent | None) -> bool:
    assert source.checkout is not None
    return sent is not None and bool(place.marker) and sent.id == place.marker and sent.root == str(source.root) and sent.full == source.options.full


def make_record(source: Source, place: Place, prepare_id: str) -> WorkspaceRecord:
    """What the daemon keeps about a workspace."""
    checkout = source.checkout
    return WorkspaceRecord(
        id=prepare_id,
        source_path=os.fsencode(source.root).decode(errors="replace"),
        guest_path=place.path,
        mode="files" if checkout is None else "full" if source.options.full else "shallow",
        head_commit=checkout.repository.head if checkout else "",
        base_commit=checkout.wanted if checkout else "",
        branch=os.fsencode(checkout.branch).decode(errors="replace") if checkout else "",
        include_untracked=source.options.include_untracked,
        shell=place.shell,
        prepared_at=time.time(),
    )


def _send_files(source: Source, guest: Guest, place: Place) -> Prepared:
    """Without git: all files and empty directories, each time."""
    reader = TreeReader(os.fsencode(source.root), source.files, "sha1", lambda _path, _oid, _content: None)
    records = chain(reader.records(source.files), map(directory, source.empty_directories))
    guest.unpack(records, place.path, uid=place.uid, gid=place.gid)
    return Prepared(record=make_record(source, place, new_id()), sent=None, files=len(source.files), removed=0, notices=source.notices)


class _Transfer:
    """One prepare with git."""

    def __init__(self, source: Source, checkout: Checkout, place: Place, known: Sent | None, stale: Files, shadow: Shadow, made: PackWriter) -> None:
        """``known``: what the guest has for certain; ``stale``: files that were sent once."""
        self._source = source
        self._checkout = checkout
        self._place = place
        self._known = known
        self._shadow = shadow
        self._made = made
        self._root = os.fsencode(source.root)
        self._id = new_id()
        self._pointers = 0
        self._trees: Trees = {}
        before: Files = known.files if known else {}
        self._changed = [path for path, state in source.files.items() if path not in before or _differs(before[path], state)]
        self._removed = sorted(stale.keys() - source.files.keys())
        changed = {path: source.files[path] for path in self._changed}
        hashed = {path: before.get(path, state) for path, state in source.files.items()} | changed
        self._reader = TreeReader(self._root, hashed, checkout.repository.object_format, self._on_content)

    def send(self, guest: Guest) -> Prepared:
        commits = pack_history(self._shadow, self._checkout, self._known, full=self._source.options.full)
        if self._up_to_date(commits):
            assert self._known is not None
            return self._prepared(self._known)
        guest.unpack(self._records(commits), self._place.path, uid=self._place.uid, gid=self._place.gid)
        return self._prepared(self._remember(commits))

    def _up_to_date(self, commits: Commits) -> bool:
        same_index = self._known is not None and self._known.index == self._checkout.index.digest
        return same_index and not (self._changed or self._removed or commits.fresh)

    def _prepared(self, sent: Sent) -> Prepared:
        notices = list(self._source.notices)
        if self._pointers:
            notices.append(f"{self._pointers} file(s) of git-LFS are not here (`git lfs pull` gets them): their pointers are sent")
        if self._place.moved and self._place.base:
            notices.append("the guest has commits of its own: its branch and its index stay as they are")
        record = make_record(self._source, self._place, sent.id)
        return Prepared(record=record, sent=sent, files=len(self._changed), removed=len(self._removed), notices=tuple(notices))

    def _on_content(self, path: bytes, oid: str, content: bytes | None) -> None:
        """Keep the bytes of a file when git has no blob of them."""
        entry = self._checkout.index.entries.get(path)
        if content is not None and content.startswith(_POINTER):
            self._pointers += 1
        if entry is not None and entry.oid == oid:
            return
        if content is None:
            self._shadow.add_file(self._root + b"/" + path)
        else:
            self._made.add("blob", content)

    def _records(self, commits: Commits) -> Iterator[Record]:
        """Files first, then what git says about them, and the mark that all is there last."""
        yield directory(b".git")
        yield directory(b".git/banger")
        yield regular(b".git/banger/prepared", b"incomplete\n")
        for path in self._removed:
            yield remove(path)
        yield from self._make_room()
        yield from self._tidy()
        yield from self._reader.records(self._changed)
        yield from self._git_records(commits)
        yield regular(b".git/banger/prepared", self._id.encode() + b"\n")

    def _make_room(self) -> Iterator[Record]:
        """A directory that became a file."""
        folders = {parent for path in self._removed for parent in parents_of(path)}
        for path in self._changed:
            if path in folders:
                yield remove(path)

    def _tidy(self) -> Iterator[Record]:
        """Directories that nothing is in any more; what the guest has put there keeps them."""
        needed = {parent for path in self._source.files for parent in parents_of(path)}
        for folder in sorted({parent for path in self._removed for parent in parents_of(path)} - needed - self._source.files.keys(), reverse=True):
            yield prune(folder)

    def _git_records(self, commits: Commits) -> Iterator[Record]:
        commit = self._snapshot(commits)
        if not self._place.marker:
            for name in (b"objects", b"objects/pack", b"objects/info", b"refs", b"refs/heads", b"refs/tags", b"refs/banger", b"info", b"hooks"):
                yield directory(b".git/" + name)
        yield from object_records(self._shadow, self._made)
        if commits.fresh:
            yield from head_records(self._checkout, commits, first=not self._place.ours)
        if commits.fresh or (self._known is not None and self._known.index != self._checkout.index.digest and not self._place.moved):
            yield regular(b".git/index", user_index(self._checkout, self._reader.files))
        if commits.fresh:
            yield regular(b".git/refs/banger/base", f"{self._checkout.wanted}\n".encode())
        yield regular(b".git/refs/banger/prepared", f"{commit}\n".encode())
        yield regular(b".git/banger/index", files_index(self._checkout, self._reader.files))

    def _snapshot(self, commits: Commits) -> str:
        """A commit of the files as they are sent."""
        before = self._known.trees if self._known else {}
        known = frozenset(before.values())
        if commits.fresh:
            known |= tree_names(self._checkout.repository, self._checkout.wanted)
        self._trees = write_trees(self._made, self._reader.files, before, [*self._changed, *self._removed], known)
        return write_commit(self._made, self._trees[b""], self._checkout.wanted)

    def _remember(self, commits: Commits) -> Sent:
        settled = time.time_ns() - _SETTLED_NS
        return Sent(
            id=self._id,
            root=str(self._source.root),
            full=self._source.options.full,
            wanted=self._checkout.wanted,
            branch=self._checkout.branch,
            commits=commits.commits,
            shallow=commits.shallow,
            tips=commits.tips,
            blobs=commits.blobs,
            index=self._checkout.index.digest,
            files={path: state if state.mtime_ns < settled else msgspec.structs.replace(state, mtime_ns=-1) for path, state in self._reader.files.items()},
            trees=self._trees,
        )


def _differs(before: FileState, now: FileState) -> bool:
    return (before.mode, before.size, before.mtime_ns) != (now.mode, now.size, now.mtime_ns)
