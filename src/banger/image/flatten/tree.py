"""Merging the entries of layers into one tree, as the OCI image specification ("Applying Changesets") says and umoci does.

All paths are resolved here, in memory, against what earlier entries made: there is nothing on the host they could lead to.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Final

from ...model.errors import BadRequest
from ...storage.ext4image import xattrs
from ...storage.ext4image.nodes import Attributes, Device, Directory, Fifo, File, Node, Symlink
from .entry import Entry, Kind
from .limits import BadArchive, Limits, shown
from .paths import MAX_NAME, MAX_PATH, OPAQUE, WHITEOUT, components, hidden_name

_IMPLIED: Final = Attributes(0o755, 0, 0, 0)
"""Of a directory that no entry describes."""
_MAX_HOPS: Final = 40
"""Symbolic links on one path, as in Linux."""
_MAX_DEPTH: Final = 512
_BYTES_PER_EFFORT: Final = 64
"""Of a symbolic link's target, each time it is followed."""
_ODD_NAMES: Final = frozenset({b"", b".", b".."})
_MAX_MAJOR: Final = 1 << 12
_MAX_MINOR: Final = 1 << 20
_MAX_XATTRS: Final = 64
_BASE: Final = (b"dev", b"etc", b"proc", b"root", b"run", b"sys")
_CACHED_PARENTS: Final = 10_000
_IGNORED_XATTRS: Final = frozenset({b"security.selinux", b"system.nfs4_acl"})
"""They belong to the system it was packed on; umoci leaves them out too."""

Children = dict[bytes, Node]


class Tree:
    """A root directory that layers are applied to, the lowest first."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._attributes = _IMPLIED
        self._root: Children = {}
        self._parents: dict[bytes, Children] = {}
        self._touched: dict[int, set[bytes]] = defaultdict(set)
        self._source = -1
        self._metadata = 0
        self._effort = 0
        self.entries = 0
        self.dropped_xattrs: set[bytes] = set()
        """Names of extended attributes that ext4 has no place for."""

    @property
    def root(self) -> Directory:
        """What has been made."""
        return Directory(self._attributes, self._root)

    def check_base(self) -> None:
        """Raises BadArchive when there is something else where every machine has directories that its own file systems are mounted on."""
        for name in _BASE:
            node = self._root.get(name)
            if node is not None and self._find([name], name) is None:
                what = "link that leads to no directory" if isinstance(node, Symlink) else "file"
                raise BadArchive(f"the image has a {what} where /{name.decode()} must be a directory", hint="make it one, or leave it out of the image")

    def apply(self, entries: Iterable[Entry], source: int, *, whiteouts: bool, check: Callable[[], None] = lambda: None) -> None:
        """Apply one layer whose content lies in the descriptor ``source``. Raises BadArchive; ``check`` is called now and then and may raise too."""
        self._source = source
        self._touched.clear()
        for entry in entries:
            self._count(entry)
            if not self.entries & 0xFFF:
                check()
            if whiteouts and WHITEOUT in entry.name and self._white_out(entry.name):
                continue
            self._add(entry)

    def _count(self, entry: Entry) -> None:
        """A file that a later layer hides counts too: it was in memory, and is in a spool."""
        self.entries += 1
        self._metadata += len(entry.name) + len(entry.link) + sum(len(name) + len(value) for name, value in entry.xattrs)
        if self._metadata > self._limits.metadata_bytes:
            raise BadArchive(f"names and attributes in the archive are longer than {self._limits.metadata_bytes} bytes together")
        self._spend(1 + len(entry.segments or ()))

    def _spend(self, effort: int) -> None:
        """What takes memory or time beyond the bytes of the archive."""
        self._effort += effort
        if self._effort > self._limits.entries:
            raise BadArchive(f"the archive has more than {self._limits.entries} entries, or takes as much work as if it had")

    def _add(self, entry: Entry) -> None:
        path = entry.name.rstrip(b"/")
        directory, _, name = path.rpartition(b"/")
        parent = self._parents.get(directory)
        if parent is None or len(name) > MAX_NAME or name in _ODD_NAMES:
            names = components(entry.name)
            if not names:
                self._set_root(entry)
                return
            last = names.pop()
            parent = self._walk(names, entry.name)
            if name == last:
                self._remember(directory, parent)
            name = last
        self._put(parent, name, self._make(entry, parent, name))

    def _set_root(self, entry: Entry) -> None:
        if entry.kind is not Kind.DIRECTORY:
            raise BadArchive(f"the archive makes its root a {entry.kind.value}")
        self._attributes = self._attributes_of(entry)

    def _remember(self, directory: bytes, parent: Children) -> None:
        if len(self._parents) >= _CACHED_PARENTS:
            self._parents.clear()
        self._parents[directory] = parent

    def _put(self, parent: Children, name: bytes, node: Node) -> None:
        old = parent.get(name)
        if isinstance(old, Directory | Symlink) and not (isinstance(node, Directory) and node.children is getattr(old, "children", None)):
            self._parents.clear()
        parent[name] = node
        self._touched[id(parent)].add(name)

    def _make(self, entry: Entry, parent: Children, name: bytes) -> Node:
        kind = entry.kind
        if kind is Kind.HARDLINK:
            return self._linked(entry, parent, name)
        attributes = self._attributes_of(entry)
        if kind is Kind.FILE:
            return File(attributes, entry.size, self._source, entry.offset, entry.segments)
        if kind is Kind.DIRECTORY:
            old = parent.get(name)
            return Directory(attributes, old.children if isinstance(old, Directory) else {})
        if kind is Kind.SYMLINK:
            if not 0 < len(entry.link) <= MAX_PATH:
                raise BadArchive(f"the symbolic link {shown(entry.name)} has a target of {len(entry.link)} bytes")
            return Symlink(attributes, entry.link)
        if kind is Kind.FIFO:
            return Fifo(attributes)
        return _device(entry, attributes)

    def _linked(self, entry: Entry, parent: Children, name: bytes) -> Node:
        names = components(entry.link)
        last = names.pop() if names else b""
        found = self._find(names, entry.name)
        target = found.get(last) if found is not None else None
        if target is None or isinstance(target, Directory):
            what = "is a directory" if target is not None else "is not in the archive"
            raise BadArchive(f"{shown(entry.name)} is a hard link to {shown(entry.link)}, which {what}")
        return target

    def _attributes_of(self, entry: Entry) -> Attributes:
        return Attributes(entry.mode, entry.uid, entry.gid, entry.mtime_ns, self._xattrs_of(entry) if entry.xattrs else ())

    def _xattrs_of(self, entry: Entry) -> tuple[tuple[bytes, bytes], ...]:
        kept = []
        for name, value in entry.xattrs:
            if not xattrs.is_known(name):
                self.dropped_xattrs.add(name[:64])
            elif name not in _IGNORED_XATTRS:
                kept.append((name, value))
        try:
            if len(kept) <= _MAX_XATTRS:
                xattrs.encode(tuple(kept))
                return tuple(kept)
        except BadRequest as error:
            raise BadArchive(f"{shown(entry.name)}: {error.message}") from error
        raise BadArchive(f"{shown(entry.name)} has {len(kept)} extended attributes")

    def _white_out(self, untrusted_path: bytes) -> bool:
        """Apply an entry that hides something of the layers below; False when it is none."""
        names = components(untrusted_path)
        if not names or not names[-1].startswith(WHITEOUT):
            return False
        last = names.pop()
        hidden = b"" if last == OPAQUE else hidden_name(last, untrusted_path)
        parent = self._find(names, untrusted_path)
        if parent is not None:
            self._parents.clear()
            self._prune(parent, list(parent) if last == OPAQUE else [hidden])
        return True

    def _prune(self, directory: Children, names: list[bytes]) -> None:
        """Remove what this layer has not put there; a directory stays with what this layer has put into it."""
        touched = self._touched.get(id(directory), ())
        for name in names:
            node = directory.get(name)
            if isinstance(node, Directory):
                below = _mutable(node)
                self._prune(below, list(below))
                if not below and name not in touched:
                    del directory[name]
            elif node is not None and name not in touched:
                del directory[name]
            if name in directory:
                self._spend(1)

    def _walk(self, names: list[bytes], untrusted_path: bytes) -> Children:
        """The directory that a path leads to, made where it is missing."""
        found = self._follow(names, untrusted_path, make=True)
        assert found is not None
        return found

    def _find(self, names: list[bytes], untrusted_path: bytes) -> Children | None:
        """The directory that a path leads to, None when it leads nowhere."""
        return self._follow(names, untrusted_path, make=False)

    def _follow(self, names: list[bytes], untrusted_path: bytes, *, make: bool) -> Children | None:
        """Resolve a path inside the root, symbolic links included, ``..`` of the root being the root."""
        above: list[Children] = [self._root]
        pending = names[::-1]
        hops = 0
        while pending:
            name = pending.pop()
            if name == b"..":
                del above[max(1, len(above) - 1) :]
                continue
            here = above[-1]
            node = here.get(name)
            if isinstance(node, Symlink):
                hops += 1
                if hops > _MAX_HOPS:
                    raise BadArchive(f"too many symbolic links on the way to {shown(untrusted_path)}")
                self._spend(1 + len(node.target) // _BYTES_PER_EFFORT)
                if node.target.startswith(b"/"):
                    del above[1:]
                pending += [part for part in reversed(node.target.split(b"/")) if part not in {b"", b"."}]
                continue
            if node is None and make:
                node = self._imply(here, name, untrusted_path)
            if not isinstance(node, Directory):
                if make:
                    raise BadArchive(f"{shown(untrusted_path)} lies below {shown(name)}, which is not a directory")
                return None
            above.append(_mutable(node))
            if len(above) > _MAX_DEPTH:
                raise BadArchive(f"directories are nested deeper than {_MAX_DEPTH}: {shown(untrusted_path)}")
        return above[-1]

    def _imply(self, parent: Children, name: bytes, untrusted_path: bytes) -> Directory:
        if len(name) > MAX_NAME:
            raise BadArchive(f"a symbolic link on the way to {shown(untrusted_path)} has a name that is too long")
        self._spend(1)
        made = Directory(_IMPLIED, {})
        parent[name] = made
        self._touched[id(parent)].add(name)
        return made


def _mutable(directory: Directory) -> Children:
    """The children of a directory of ours, which are a dict."""
    children = directory.children
    assert isinstance(children, dict)
    return children


def _device(entry: Entry, attributes: Attributes) -> Device:
    major, minor = entry.device
    if major >= _MAX_MAJOR or minor >= _MAX_MINOR:
        raise BadArchive(f"the device {shown(entry.name)} has a number that Linux does not have: {major}:{minor}")
    return Device(attributes, major, minor, entry.kind is Kind.BLOCK)
