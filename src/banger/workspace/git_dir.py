"""The guest's ``.git``, made on the host: history, refs, configuration, an index that fits the files, and a snapshot of the files themselves.

``refs/banger/base`` is the commit that was prepared, ``refs/banger/prepared`` a commit on top of it whose tree has the files byte for byte as they were sent.
``banger/index`` knows that tree with sizes and times, so that the guest finds what it changed without reading everything.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

import msgspec

from .history import History, recent_history, whole_history
from .index import GITLINK, IndexEntry, encode_index
from .pack import PackWriter
from .records import Record, directory, regular
from .repository import Repository
from .shadow import Shadow, configuration
from .source import Checkout
from .state import Sent
from .working_tree import Files

_NANOSECONDS: Final = 10**9
_RACY_SECONDS: Final = 3
"""A file that was written so shortly before it was read might be changed again within the second that git compares."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Commits:
    """What of the history is sent this time, and what the guest has then."""

    fresh: bool
    """HEAD, branches and the commits are written; else the guest keeps its own."""
    history: History | None
    blobs: frozenset[str]
    commits: frozenset[str]
    shallow: frozenset[str]
    tips: frozenset[str]


def pack_history(shadow: Shadow, checkout: Checkout, sent: Sent | None, *, full: bool) -> Commits:
    """Pack what the guest has not got yet. Raises BangerError when objects are missing."""
    repository, wanted = checkout.repository, checkout.wanted
    same = sent is not None and sent.wanted == wanted and sent.index == checkout.index.digest
    blobs = sent.blobs if sent is not None and same else frozenset(_staged_blobs(repository, wanted))
    if sent is not None and sent.wanted == wanted and sent.branch == checkout.branch:
        if new := blobs - sent.blobs:
            shadow.pack(new, known=())
        return Commits(fresh=False, history=None, blobs=blobs | sent.blobs, commits=sent.commits, shallow=sent.shallow, tips=sent.tips)
    known_commits = sent.commits if sent else frozenset()
    if sent is not None and not all(map(repository.has, sent.tips)):
        return pack_history(shadow, checkout, None, full=full)
    history = whole_history(repository, wanted) if full else recent_history(repository, wanted, known=known_commits)
    known = sent.tips if sent else frozenset()
    shallow = history.shallow | (sent.shallow if sent else frozenset())
    shadow.pack([*history.tips, *blobs], known=known, shallow=shallow)
    return Commits(fresh=True, history=history, blobs=blobs, commits=known_commits | history.commits, shallow=shallow, tips=known | set(history.tips))


def _staged_blobs(repository: Repository, wanted: str) -> Iterator[str]:
    """Blobs that the user's index has and ``wanted`` has not."""
    words = repository.git.output("diff-index", "--cached", "--raw", "-z", "--no-renames", "--no-abbrev", "--ignore-submodules=all", wanted).split(b"\0")[:-1]
    for line in words[::2]:
        _, mode, _, oid, _ = line.decode().split(" ")
        if int(mode, 8) not in (0, GITLINK) and oid.strip("0"):
            yield oid


def user_index(checkout: Checkout, files: Files) -> bytes:
    """The index for the guest's user: what the host's says, with sizes and times of the files that are as it says."""
    repository = checkout.repository
    entries = checkout.index.entries if checkout.wanted == repository.head else _tree_entries(repository, checkout.wanted)
    differing = {path for path, entry in entries.items() if path in files and files[path].oid != entry.oid}
    if differing:
        # Either changed by the user, or the same after a conversion (line ends, LFS): git knows.
        differing = differing & _modified(repository) if checkout.wanted == repository.head else differing
    return encode_index(_with_stat(entries, files, differing), repository.object_format)


def _with_stat(entries: Mapping[bytes, IndexEntry], files: Files, differing: set[bytes]) -> Iterator[IndexEntry]:
    recent = time.time() - _RACY_SECONDS
    for path, entry in entries.items():
        state = files.get(path)
        if state is None or path in differing or state.is_link or state.mtime_ns / _NANOSECONDS > recent:
            yield entry
        else:
            yield msgspec.structs.replace(entry, mtime=state.mtime_ns // _NANOSECONDS, size=state.size)


def _tree_entries(repository: Repository, commit: str) -> dict[bytes, IndexEntry]:
    entries = {}
    for line in repository.git.output("ls-tree", "-r", "-z", "--full-tree", commit).split(b"\0")[:-1]:
        words, _, path = line.partition(b"\t")
        mode, _, oid = words.decode().split(" ")
        entries[path] = IndexEntry(path, int(mode, 8), oid)
    return entries


def _modified(repository: Repository) -> set[bytes]:
    """Tracked paths whose file is not what the user's index says."""
    listed = repository.git.output("status", "--porcelain=v1", "-z", "--untracked-files=no", "--no-renames", "--ignore-submodules=all").split(b"\0")[:-1]
    return {line[3:] for line in listed if line[1:2] != b" "}


def files_index(checkout: Checkout, files: Files) -> bytes:
    """An index of the files byte for byte as they are."""
    entries = {path: IndexEntry(path, state.git_mode, state.oid) for path, state in files.items()}
    return encode_index(_with_stat(entries, files, set()), checkout.repository.object_format)


def tree_names(repository: Repository, commit: str) -> frozenset[str]:
    """Names of all trees of a commit but the top one."""
    listed = repository.git.output("ls-tree", "-r", "-d", "-t", "-z", "--full-tree", commit).split(b"\0")[:-1]
    return frozenset(line.partition(b"\t")[0].split(b" ")[2].decode() for line in listed)


def object_records(shadow: Shadow, made: PackWriter) -> Iterator[Record]:
    """All objects that git packed in the shadow or that we made. A pack comes before its index, without which git does not see it."""
    loose = sorted(shadow.objects.glob("[0-9a-f][0-9a-f]/*"))
    for folder in sorted({path.parent.name for path in loose}):
        yield directory(b".git/objects/" + folder.encode())
    for path in [*sorted(shadow.objects.glob("pack/pack-*"), key=lambda path: (path.suffix == ".idx", path.name)), *loose]:
        yield _object_record(os.fsencode(path.relative_to(shadow.root)), path.stat().st_size, _chunks(path))
    if not made.is_empty:
        name, index = made.finish()
        stem = b"objects/pack/pack-" + name.encode()
        yield _object_record(stem + b".pack", made.size, made.chunks())
        yield _object_record(stem + b".idx", len(index), (index,))


def _object_record(name: bytes, size: int, content: Iterable[bytes]) -> Record:
    return Record(kind="regular", path=b".git/" + name, mode=0o444, mtime_ns=time.time_ns(), size=size, content=content)


def _chunks(path: os.PathLike[str]) -> Iterator[bytes]:
    with open(path, "rb") as file:
        while chunk := file.read(1024 * 1024):
            yield chunk


def head_records(checkout: Checkout, commits: Commits, *, first: bool) -> Iterator[Record]:
    """Configuration, branches and HEAD. Unless it is the ``first`` time, refs are written one by one: the guest may have packed its own."""
    repository, branch, wanted = checkout.repository, checkout.branch, checkout.wanted
    others = commits.history.refs if commits.history else {}
    if commits.shallow:
        yield regular(b".git/shallow", "".join(f"{commit}\n" for commit in sorted(commits.shallow)).encode())
    if first:
        yield regular(b".git/packed-refs", _packed_refs(others))
    else:
        for name, oid in others.items():
            yield from _ref_records(name, oid)
    if branch:
        yield from _ref_records(f"refs/heads/{branch}", wanted)
    yield regular(b".git/config", _guest_configuration(repository))
    yield regular(b".git/info/exclude", _excludes(repository))
    yield regular(b".git/HEAD", b"ref: refs/heads/" + os.fsencode(branch) + b"\n" if branch else f"{wanted}\n".encode())


def _ref_records(name: str, oid: str) -> Iterator[Record]:
    parts = os.fsencode(name).split(b"/")
    for count in range(1, len(parts)):
        yield directory(b".git/" + b"/".join(parts[:count]))
    yield regular(b".git/" + b"/".join(parts), f"{oid}\n".encode())


def _packed_refs(refs: Mapping[str, str]) -> bytes:
    lines = ["# pack-refs with: sorted", *(f"{oid} {name}" for name, oid in sorted(refs.items(), key=lambda item: os.fsencode(item[0])))]
    return ("\n".join(lines) + "\n").encode("utf-8", "surrogateescape")


def _guest_configuration(repository: Repository) -> bytes:
    settings = [("core.repositoryformatversion", "0"), ("core.bare", "false"), ("core.filemode", "true"), ("core.logallrefupdates", "true")]
    # The times and sizes in the index are the host's, its inode numbers are not the guest's.
    settings += [("core.checkstat", "minimal"), ("core.trustctime", "false"), *repository.conversions.items()]
    if repository.origin:
        settings += [("remote.origin.url", repository.origin), ("remote.origin.fetch", "+refs/heads/*:refs/remotes/origin/*")]
    settings += [(key, value) for key, value in zip(("user.name", "user.email"), repository.identity, strict=True) if value]
    return configuration(settings, repository.object_format)


def _excludes(repository: Repository) -> bytes:
    try:
        return (repository.common_dir / "info/exclude").read_bytes()
    except OSError:
        return b""
