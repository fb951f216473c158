"""Bundles: out and back with holes kept, and everything refused that is not exactly one."""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from banger.host.files import sha256_of
from banger.host.zstd import compress, open_zstd
from banger.image import bundle
from banger.image.bundle import BundleManifest
from banger.model.errors import BadRequest
from banger.model.records import ImageConfig, ImageRecord

MIB = 1024 * 1024
ROOTFS = b"a file system" + bytes(5000)


def quiet(done: int, whole: int) -> None:
    assert 0 < done <= whole


def a_manifest(**changes: Any) -> dict[str, Any]:
    digest = "sha256:" + hashlib.sha256(ROOTFS).hexdigest()
    return {"format": "banger-image", "version": 1, "name": "x", "digest": digest, "size_bytes": len(ROOTFS)} | changes


def a_record(rootfs: Path) -> ImageRecord:
    config = ImageConfig(environment=("A=b",), entrypoint=("/init",), labels=(("k", "v"),))
    return ImageRecord(
        id="i" * 32, name="dev", source="docker://a/b:1", path=str(rootfs.parent), digest=sha256_of(rootfs), size_bytes=rootfs.stat().st_size,
        kernel_name="k", created_at=5.0, reference="docker://a/b:1", manifest_digest="sha256:1", config=config,
    )  # fmt: skip


def members(*files: tuple[str, bytes], kind: bytes = tarfile.REGTYPE, tail: bytes = b"") -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for name, content in files:
            member = tarfile.TarInfo(name)
            member.size, member.type = len(content), kind
            archive.addfile(member, io.BytesIO(content))
    return out.getvalue() + tail


def good(**changes: Any) -> bytes:
    return members(("manifest.json", json.dumps(a_manifest(**changes)).encode()), ("rootfs.ext4", ROOTFS))


def unpack(tmp_path: Path, packed: bytes) -> BundleManifest:
    file, staging = tmp_path / "it.bundle", tmp_path / "staging"
    file.write_bytes(packed)
    staging.mkdir()
    return bundle.unpack(file, staging, quiet)


def test_out_and_back(tmp_path: Path) -> None:
    rootfs = tmp_path / "rootfs.ext4"
    with rootfs.open("wb") as file:
        file.write(b"head")
        file.seek(40 * MIB)
        file.write(b"middle")
        file.truncate(64 * MIB + 512)
    packed, staging = tmp_path / "out", tmp_path / "staging"
    record = a_record(rootfs)
    bundle.write(record, rootfs, packed, quiet)
    assert packed.stat().st_size < 64 * 1024
    staging.mkdir()
    assert bundle.unpack(packed, staging, quiet) == bundle.manifest_of(record)
    assert sha256_of(staging / "rootfs.ext4") == record.digest
    assert (staging / "rootfs.ext4").stat().st_blocks * 512 < MIB
    with open_zstd(packed, "rb") as plain:
        listed = subprocess.run(["tar", "-tf", "-"], input=plain.read(), check=True, capture_output=True).stdout.decode()
    assert listed.split() == ["manifest.json", "rootfs.ext4"]


def test_a_file_that_has_changed_is_not_written_as_what_it_was(tmp_path: Path) -> None:
    rootfs = tmp_path / "rootfs.ext4"
    rootfs.write_bytes(b"before")
    record = a_record(rootfs)
    rootfs.write_bytes(b"behind")
    with pytest.raises(BadRequest, match="has changed"):
        bundle.write(record, rootfs, tmp_path / "out", quiet)


def test_one_made_by_hand_is_taken(tmp_path: Path) -> None:
    assert unpack(tmp_path, compress(good(unknown="is ignored"))).name == "x"
    assert (tmp_path / "staging/rootfs.ext4").read_bytes() == ROOTFS


def test_names_may_begin_with_a_dot_as_tar_writes_them(tmp_path: Path) -> None:
    packed = compress(members(("./manifest.json", json.dumps(a_manifest()).encode()), ("./rootfs.ext4", ROOTFS)))
    assert unpack(tmp_path, packed).name == "x"
    assert bundle.looks_like_one(members(("./manifest.json", b"{}"), ("./rootfs.ext4", ROOTFS))[:2048])


MANIFEST = ("manifest.json", json.dumps(a_manifest()).encode())
BAD: dict[str, tuple[Callable[[], bytes], str]] = {
    "no zstd": (good, "damaged"),
    "nothing": (lambda: b"", "cut short|damaged"),
    "cut off": (lambda: compress(good())[:-8], "damaged|cut short"),
    "cut off inside": (lambda: compress(good()[:2000]), "cut short"),
    "no tar": (lambda: compress(b"x" * 4096), "not a tar"),
    "other order": (lambda: compress(members(("rootfs.ext4", ROOTFS), MANIFEST)), "belongs"),
    "another name": (lambda: compress(members(("../manifest.json", MANIFEST[1]), ("rootfs.ext4", ROOTFS))), "belongs"),
    "a link": (lambda: compress(members(("manifest.json", b""), kind=tarfile.SYMTYPE)), "is a symbolic link, not a regular file"),
    "a device": (lambda: compress(members(("manifest.json", b""), kind=tarfile.CHRTYPE)), "is something else, not a regular file"),
    "a long name's header": (lambda: compress(members(("x" * 300, b""))), "belongs"),
    "a third member": (lambda: compress(members(MANIFEST, ("rootfs.ext4", ROOTFS), ("more", b"y"))), "more than it may"),
    "a second archive": (lambda: compress(good() + good()), "more than it may"),
    "a large manifest": (lambda: compress(members(("manifest.json", b" " * (2 * MIB)))), "larger than"),
    "manifest of a docker archive": (lambda: compress(members(("manifest.json", b"[]"))), "not understood"),
    "a manifest of bytes": (lambda: compress(members(("manifest.json", b"\xff{}"))), "not understood"),
    "another version": (lambda: compress(good(version=2)), "version 1"),
    "another size": (lambda: compress(good(size_bytes=7)), "its manifest says 7"),
    "another digest": (lambda: compress(good(digest="sha256:0")), "has digest"),
    "a zero character": (lambda: compress(good(name="a\0b")), "zero character"),
}


@pytest.mark.parametrize("what", BAD)
def test_what_is_refused(tmp_path: Path, what: str) -> None:
    make, message = BAD[what]
    with pytest.raises(BadRequest, match=message):
        unpack(tmp_path, make())


def test_a_claim_of_terabytes_writes_nothing(tmp_path: Path) -> None:
    huge = tarfile.TarInfo("rootfs.ext4")
    huge.size = 1 << 45
    head = members(("manifest.json", json.dumps(a_manifest(size_bytes=1 << 45)).encode()))[:1024]
    with pytest.raises(BadRequest, match="at most"):
        unpack(tmp_path, compress(head + huge.tobuf(tarfile.GNU_FORMAT)))
    assert not (tmp_path / "staging/rootfs.ext4").exists()


def test_recognised_by_its_beginning() -> None:
    assert bundle.looks_like_one(good()[:2048])
    assert not bundle.looks_like_one(members(("manifest.json", b'[{"Config": 1}]'))[:2048])
    assert not bundle.looks_like_one(members(("bin/sh", b"{"))[:2048])
    assert not bundle.looks_like_one(b"short")
