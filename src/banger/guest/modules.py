"""Kernel modules that a guest needs before its root is mounted, with their dependencies, in load order.

The files read are those that depmod(8) and the kernel's build write: ``modules.dep`` lists for every module the modules it needs,
``modules.builtin`` those that are part of the kernel (kmod's modules.dep(5), Documentation/kbuild/kbuild.rst).
"""

from __future__ import annotations

import gzip
import lzma
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Final, cast

from ..model.errors import BadRequest

REQUIRED: Final = ("virtio_mmio", "virtio_console", "virtio_blk", "overlay", "ext4")
"""The bus, the agent's channel, the disks and the root; first what the guest's first word needs."""
OPTIONAL: Final = ("virtio_net", "virtio_rng")
"""Loaded when the kernel has them. A module costs 2 to 20 ms of boot under emulation, so only what a VMM driver of ours can show to
the guest is here (vmw_vsock_virtio_transport joins with the first that has vsock). Images bring no modules: what is not here stays dark."""

_SUFFIXES: Final = (".ko", ".ko.gz", ".ko.xz", ".ko.zst")
_MODULE_LIMIT: Final = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Module:
    """A module's file."""

    name: str
    """As ``lsmod`` shows it: underscores, no suffix."""
    file: Path

    def read(self) -> bytes:
        """The module itself, decompressed. Raises BadRequest when it is damaged or larger than 64 MiB."""
        try:
            with _open(self.file) as stream:
                content = stream.read(_MODULE_LIMIT + 1)
        except (OSError, EOFError, lzma.LZMAError, ValueError) as error:
            raise BadRequest(f"cannot read the kernel module {self.file}: {error}", hint="pull the kernel again") from error
        if len(content) > _MODULE_LIMIT:
            raise BadRequest(f"the kernel module {self.file} is larger than {_MODULE_LIMIT} bytes")
        return content


def _open(path: Path) -> IO[bytes]:
    if path.suffix == ".xz":
        return lzma.open(path)
    if path.suffix == ".gz":
        return cast(IO[bytes], gzip.open(path))
    if path.suffix == ".zst":
        from ..host.zstd import open_zstd

        return cast(IO[bytes], open_zstd(path))
    return path.open("rb")


def resolve(tree: Path) -> tuple[Module, ...]:
    """The modules to load, each after those it needs. ``tree`` is the content of /lib/modules/VERSION.

    Raises BadRequest when the tree is not usable or lacks a required module.
    """
    needs = _dependencies(tree)
    paths = {_name(path): path for path in needs}
    builtin = _builtin(tree)
    if missing := [name for name in REQUIRED if name not in paths and name not in builtin]:
        raise BadRequest(f"the kernel in {tree.parent} has no {', '.join(missing)}", hint="use a kernel that has these drivers built in or as modules")
    order: list[str] = []
    seen: set[str] = set()
    for name in (*REQUIRED, *OPTIONAL):
        if name not in builtin and name in paths:
            _visit(paths[name], needs, order, seen)
    return tuple(Module(_name(path), tree / path) for path in order)


def available(tree: Path) -> tuple[frozenset[str], frozenset[str]]:
    """Names of the drivers that are part of the kernel, and of those that are modules in ``tree``, by its own lists. Raises BadRequest for bad ones."""
    modules = frozenset(_name(path) for path in _dependencies(tree)) if (tree / "modules.dep").exists() else frozenset()
    return _builtin(tree), modules


def _visit(path: str, needs: dict[str, list[str]], order: list[str], seen: set[str]) -> None:
    """Append ``path`` to ``order`` behind everything that it needs."""
    if path in seen:
        return
    seen.add(path)
    if path not in needs:
        raise BadRequest(f"modules.dep names {path} as a dependency but does not list it", hint="pull the kernel again")
    for needed in needs[path]:
        _visit(needed, needs, order, seen)
    order.append(path)


def _dependencies(tree: Path) -> dict[str, list[str]]:
    try:
        lines = (tree / "modules.dep").read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise BadRequest(f"cannot read the list of kernel modules: {error}", hint="pull the kernel again") from error
    needs: dict[str, list[str]] = {}
    for line in lines:
        path, colon, rest = line.partition(":")
        if colon:
            needs[_checked(path)] = [_checked(word) for word in rest.split()]
    return needs


def _checked(untrusted_path: str) -> str:
    path = PurePosixPath(untrusted_path)
    if path.is_absolute() or ".." in path.parts or not path.name.endswith(_SUFFIXES):
        raise BadRequest(f"modules.dep names {untrusted_path!r}, which is not a module below its directory")
    return untrusted_path


def _builtin(tree: Path) -> frozenset[str]:
    try:
        return frozenset(_name(line) for line in (tree / "modules.builtin").read_text().splitlines())
    except FileNotFoundError:
        return frozenset()


def _name(path: str) -> str:
    return PurePosixPath(path).name.partition(".ko")[0].replace("-", "_")
