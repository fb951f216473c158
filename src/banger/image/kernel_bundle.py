"""Kernel bundles: a kernel in one file, ``tar`` compressed with zstd: ``manifest.json``, ``vmlinux``, ``config`` (optional), ``modules/...``.

Reading trusts nothing: these members only, regular files and directories only, names that stay below ``modules/``, sizes bounded before anything is written.
"""

from __future__ import annotations

import io
import shutil
import tarfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Final

import msgspec

from ..host.files import explain_no_space
from ..model.errors import BadRequest
from ..model.records import KernelRecord
from ..model.sizes import MIB
from .kernel import VMLINUX
from .kernel_files import CONFIG, MAX_CONFIG_BYTES, MAX_MODULES, MAX_MODULES_BYTES, MAX_VMLINUX_BYTES, MODULES

MANIFEST: Final = "manifest.json"
FORMAT: Final = "banger-kernel"
_LIMITS: Final = {MANIFEST: MIB, VMLINUX: MAX_VMLINUX_BYTES, CONFIG: MAX_CONFIG_BYTES}
_HINT: Final = f"a kernel bundle is {MANIFEST}, {VMLINUX}, {CONFIG} and {MODULES}/, and nothing else"


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelManifest:
    """``manifest.json`` of a kernel bundle."""

    format: str
    version: int
    name: str
    kernel_version: str
    """``uname -r``."""
    digest: str
    """``sha256:...`` of vmlinux."""


def write(record: KernelRecord, destination: Path) -> None:
    """Write the bundle of a kernel to the new file ``destination``, mode 0644. Blocking. Raises FileExistsError, NoSpace, OSError."""
    from ..host.zstd import open_zstd

    manifest = KernelManifest(format=FORMAT, version=1, name=record.name, kernel_version=record.version, digest=record.digest)
    root = Path(record.path)
    with explain_no_space("writing the bundle", destination.parent), destination.open("xb") as raw, open_zstd(raw, "wb", level=3) as packed:
        with tarfile.open(fileobj=packed, mode="w|", format=tarfile.PAX_FORMAT) as archive:
            _add(archive, MANIFEST, msgspec.json.format(msgspec.json.encode(manifest), indent=2))
            for path in (root / VMLINUX, root / CONFIG, *sorted((root / MODULES).rglob("*"))):
                if path.exists():
                    archive.add(path, str(path.relative_to(root)), recursive=False, filter=_anonymous)
    destination.chmod(0o644)


def unpack(file: Path, staging: Path) -> KernelManifest:
    """Write the members of the bundle ``file`` below ``staging``. Blocking. Raises BadRequest for anything that is not a kernel bundle, NoSpace."""
    from ..host.zstd import ZstdError, open_zstd

    try:
        with explain_no_space("unpacking the kernel", staging), file.open("rb") as raw, open_zstd(raw, "rb") as untrusted:
            with tarfile.open(fileobj=untrusted, mode="r|") as untrusted_archive:
                _take_members(untrusted_archive, staging)
    except (ZstdError, EOFError, tarfile.TarError) as error:
        raise BadRequest(f"{file.name} is not a kernel bundle, or damaged: {error}", hint=_HINT) from error
    return _manifest(staging)


def _take_members(untrusted_archive: tarfile.TarFile, staging: Path) -> None:
    total = count = 0
    for untrusted in untrusted_archive:
        count, total = count + 1, total + untrusted.size
        path = _checked_name(untrusted.name)
        limit = _LIMITS.get(str(path), MAX_MODULES_BYTES)
        if count > MAX_MODULES or total > MAX_MODULES_BYTES + MAX_VMLINUX_BYTES or untrusted.size > limit:
            raise BadRequest(f"the kernel bundle is too large at {untrusted.name[:100]!r}")
        if untrusted.isdir() and path.parts[0] == MODULES:
            (staging / path).mkdir(parents=True, exist_ok=True)
        elif untrusted.isreg() and not untrusted.issparse():
            content = untrusted_archive.extractfile(untrusted)
            assert content is not None
            _write(content, staging / path)
        else:
            raise BadRequest(f"the kernel bundle holds {untrusted.name[:100]!r}, which is not a regular file", hint=_HINT)


def _checked_name(untrusted_name: str) -> PurePosixPath:
    path = PurePosixPath(untrusted_name)
    below_modules = path.parts[:1] == (MODULES,) and ".." not in path.parts
    if str(path) not in _LIMITS and not below_modules:
        raise BadRequest(f"the kernel bundle holds {untrusted_name[:100]!r}", hint=_HINT)
    return path


def _write(untrusted_content: IO[bytes], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with path.open("xb") as out:
            shutil.copyfileobj(untrusted_content, out)
    except (FileExistsError, NotADirectoryError, IsADirectoryError) as error:
        raise BadRequest(f"the kernel bundle holds {path.name!r} twice", hint=_HINT) from error
    path.chmod(0o644)


def _manifest(staging: Path) -> KernelManifest:
    for name in (MANIFEST, VMLINUX):
        if not (staging / name).is_file():
            raise BadRequest(f"the kernel bundle has no {name}", hint=_HINT)
    try:
        manifest = msgspec.json.decode((staging / MANIFEST).read_bytes(), type=KernelManifest)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise BadRequest(f"the kernel bundle's manifest is not understood: {error}") from error
    if manifest.format != FORMAT or manifest.version != 1:
        raise BadRequest(f"this is no kernel bundle of version 1 but {manifest.format[:40]!r} {manifest.version}", hint="a newer banger may read it")
    (staging / MANIFEST).unlink()
    return manifest


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size, member.mode = len(content), 0o644
    archive.addfile(member, io.BytesIO(content))


def _anonymous(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    return member
