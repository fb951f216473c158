"""Random layers against a model that knows nothing of inodes: paths in a dictionary, and the rules as the OCI image specification words them."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from banger.image.flatten.entry import Entry, Kind
from banger.image.flatten.limits import BadArchive, Limits
from banger.image.flatten.tree import Tree
from banger.storage.ext4image.nodes import Directory, File, Symlink

NAMES = st.sampled_from(["a", "b", "c"])
PATHS = st.lists(NAMES, min_size=1, max_size=3).map("/".join)
CHANGES = st.one_of(
    st.tuples(st.just("file"), PATHS, st.integers(0, 10**6)),
    st.tuples(st.just("dir"), PATHS, st.integers(0, 0o777)),
    st.tuples(st.just("symlink"), PATHS, st.just(0)),
    st.tuples(st.just("hide"), PATHS, st.just(0)),
    st.tuples(st.just("opaque"), PATHS, st.just(0)),
)
LAYERS = st.lists(st.lists(CHANGES, max_size=6), max_size=5)
Change = tuple[str, str, int]


@dataclass
class Model:
    """Every path with what it is; parents are there because a path below them is."""

    paths: dict[str, tuple[str, int]] = field(default_factory=dict)
    upper: set[str] = field(default_factory=set)

    def apply(self, layer: list[Change]) -> None:
        self.upper = set()
        for kind, path, value in layer:
            if kind == "hide":
                self.hide(path)
            elif kind == "opaque":
                self.hide_below(path)
            else:
                self.add(kind, path, value)

    def add(self, kind: str, path: str, value: int) -> None:
        for parent in parents(path):
            self.paths.setdefault(parent, ("dir", 0o755))
            assert self.paths[parent][0] == "dir"
            self.upper.add(parent)
        if kind != "dir" or self.paths.get(path, ("", 0))[0] != "dir":
            for below in self.below(path):
                del self.paths[below]
        self.paths[path] = (kind, value)
        self.upper.add(path)

    def hide(self, path: str) -> None:
        self.hide_below(path)
        if path in self.paths and path not in self.upper:
            del self.paths[path]

    def hide_below(self, path: str) -> None:
        for below in self.below(path):
            if below not in self.upper:
                del self.paths[below]

    def below(self, path: str) -> list[str]:
        return [other for other in self.paths if other.startswith(path + "/")]

    def accepts(self, change: Change) -> bool:
        """Paths below files and through symbolic links are other tests' matter."""
        return all(self.paths.get(parent, ("dir", 0))[0] == "dir" for parent in parents(change[1]))


def parents(path: str) -> list[str]:
    parts = path.split("/")
    return ["/".join(parts[:count]) for count in range(1, len(parts))]


def entry_of(kind: str, path: str, value: int) -> Entry:
    directory, _, name = path.rpartition("/")
    names = {"hide": f"{directory}/.wh.{name}".lstrip("/"), "opaque": f"{path}/.wh..wh..opq"}
    kinds = {"dir": Kind.DIRECTORY, "symlink": Kind.SYMLINK}
    mode, size = (value, 0) if kind == "dir" else (0o644, value)
    return Entry(names.get(kind, path).encode(), kinds.get(kind, Kind.FILE), mode, 0, 0, 0, size, 0, b"nowhere", (0, 0), (), None)


def flat(directory: Directory, above: str = "") -> dict[str, tuple[str, int]]:
    found: dict[str, tuple[str, int]] = {}
    for name, node in directory.children.items():
        path = above + name.decode()
        if isinstance(node, Directory):
            found[path] = ("dir", node.attributes.mode)
            found |= flat(node, path + "/")
        else:
            found[path] = ("file", node.size) if isinstance(node, File) else ("symlink", 0)
            assert isinstance(node, File | Symlink)
    return found


@settings(max_examples=150, deadline=None)
@given(LAYERS)
def test_layers_as_the_specification_says(layers: list[list[Change]]) -> None:
    model, tree = Model(), Tree(Limits())
    for layer in layers:
        accepted: list[Change] = []
        for change in layer:
            trial = Model(dict(model.paths))
            trial.apply(accepted)
            accepted += [change] if trial.accepts(change) else []
        model.apply(accepted)
        tree.apply([entry_of(*change) for change in accepted], -1, whiteouts=True)
    assert flat(tree.root) == model.paths


ANY_NAMES = st.lists(st.sampled_from(["a", "b", "..", ".", "", ".wh.a", ".wh..wh..opq", "c" * 200]), max_size=5).map("/".join)
ANY_ENTRIES = st.builds(
    lambda name, kind, link: Entry(name.encode(), kind, 0o755, 0, 0, 0, 0, 0, link.encode(), (0, 0), (), None), ANY_NAMES, st.sampled_from(Kind), ANY_NAMES
)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.lists(ANY_ENTRIES, max_size=8), max_size=3))
def test_any_entries_are_taken_or_refused(layers: list[list[Entry]]) -> None:
    """And whatever is taken is a tree: no directory is in two places."""
    tree = Tree(Limits())
    try:
        for layer in layers:
            tree.apply(layer, -1, whiteouts=True)
    except BadArchive:
        pass
    seen: set[int] = set()
    pending = [tree.root]
    while pending:
        directory = pending.pop()
        assert id(directory.children) not in seen
        seen.add(id(directory.children))
        pending += [node for node in directory.children.values() if isinstance(node, Directory)]
        assert not {b"", b".", b".."} & set(directory.children)


def test_a_plain_archive_has_no_whiteouts() -> None:
    tree = Tree(Limits())
    tree.apply([entry_of("file", "a", 1), entry_of("hide", "a", 0)], -1, whiteouts=False)
    assert set(tree.root.children) == {b"a", b".wh.a"}
