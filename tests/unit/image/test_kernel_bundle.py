"""Kernel bundles: what is written is read again; whatever else is in one is refused before it reaches the disk."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import pytest

from banger.host.zstd import compress
from banger.image import kernel_bundle
from banger.model.errors import BadRequest
from banger.model.records import KernelRecord

from .made_kernels import VERSION, kernel_directory

MANIFEST = {"format": "banger-kernel", "version": 1, "name": "k", "kernel_version": VERSION, "digest": "sha256:" + "0" * 64}


def record(path: Path) -> KernelRecord:
    return KernelRecord(id="1", name="k", source="s", path=str(path), version=VERSION, digest=MANIFEST["digest"], size_bytes=1, created_at=0.0)  # type: ignore[arg-type]


def bundle(file: Path, members: list[tuple[tarfile.TarInfo, bytes]]) -> Path:
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for member, content in members:
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    file.write_bytes(compress(raw.getvalue()))
    return file


def member(name: str, *, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info


GOOD = [(member("manifest.json"), json.dumps(MANIFEST).encode()), (member("vmlinux"), b"\x7fELF")]


def test_round_trip(tmp_path: Path) -> None:
    source = kernel_directory(tmp_path / "k")
    file, out = tmp_path / "k.tar.zst", tmp_path / "out"
    out.mkdir()
    kernel_bundle.write(record(source), file)
    manifest = kernel_bundle.unpack(file, out)
    assert (manifest.name, manifest.kernel_version) == ("k", VERSION)
    same = {path.relative_to(source): path.read_bytes() for path in source.rglob("*") if path.is_file()}
    assert {path.relative_to(out): path.read_bytes() for path in out.rglob("*") if path.is_file()} == same


def test_names_may_begin_with_a_dot_and_keep_their_limits(tmp_path: Path) -> None:
    dotted = [(member(f"./{info.name}"), content) for info, content in GOOD]
    (tmp_path / "out").mkdir()
    assert kernel_bundle.unpack(bundle(tmp_path / "k", dotted), tmp_path / "out").name == "k"
    (tmp_path / "big").mkdir()
    with pytest.raises(BadRequest, match=r"too large at '\./manifest\.json'"):
        kernel_bundle.unpack(bundle(tmp_path / "b", [(member("./manifest.json"), bytes(2 << 20))]), tmp_path / "big")


def test_an_existing_file_is_not_overwritten(tmp_path: Path) -> None:
    file = tmp_path / "k.tar.zst"
    file.write_text("mine")
    with pytest.raises(FileExistsError):
        kernel_bundle.write(record(kernel_directory(tmp_path / "k")), file)
    assert file.read_text() == "mine"


@pytest.mark.parametrize(
    "bad",
    [
        member("../evil"),
        member("/etc/passwd"),
        member("modules/../../evil"),
        member("other"),
        member("modules/x", kind=tarfile.SYMTYPE, link="/etc/passwd"),
        member("modules/x", kind=tarfile.LNKTYPE, link="vmlinux"),
        member("modules/x", kind=tarfile.FIFOTYPE),
        member("modules/x", kind=tarfile.CHRTYPE),
        member("config", kind=tarfile.DIRTYPE),
        member("vmlinux"),
    ],
    ids=lambda one: f"{one.name}-{one.type.decode()}",
)
def test_members_that_do_not_belong(tmp_path: Path, bad: tarfile.TarInfo) -> None:
    out = tmp_path / "out"
    out.mkdir()
    with pytest.raises(BadRequest):
        kernel_bundle.unpack(bundle(tmp_path / "b", [*GOOD, (bad, b"")]), out)
    assert not (tmp_path / "evil").exists()
    assert {path.name for path in out.rglob("*")} <= {"manifest.json", "vmlinux", "modules"}


@pytest.mark.parametrize("missing", ["manifest.json", "vmlinux"])
def test_members_that_are_missing(tmp_path: Path, missing: str) -> None:
    with pytest.raises(BadRequest, match=f"has no {missing}"):
        kernel_bundle.unpack(bundle(tmp_path / "b", [pair for pair in GOOD if pair[0].name != missing]), tmp_path)


@pytest.mark.parametrize("changes", [{"format": "banger-image"}, {"version": 2}, {"name": None}])
def test_manifests_that_are_not_ours(tmp_path: Path, changes: dict[str, object]) -> None:
    with pytest.raises(BadRequest):
        kernel_bundle.unpack(bundle(tmp_path / "b", [(member("manifest.json"), json.dumps(MANIFEST | changes).encode()), GOOD[1]]), tmp_path)


def test_a_member_beyond_its_limit(tmp_path: Path) -> None:
    large = (member("config"), bytes(kernel_bundle._LIMITS["config"] + 1))
    with pytest.raises(BadRequest, match="too large at 'config'"):
        kernel_bundle.unpack(bundle(tmp_path / "b", [*GOOD, large]), tmp_path)
    assert not (tmp_path / "config").exists()


@pytest.mark.parametrize("content", [b"", b"hello", compress(b"hello"), compress(bytes(2048))[:-3]])
def test_files_that_are_no_bundles(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "b").write_bytes(content)
    with pytest.raises(BadRequest):
        kernel_bundle.unpack(tmp_path / "b", tmp_path)
