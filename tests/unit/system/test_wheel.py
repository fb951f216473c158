"""Wheels: which fit, and what is refused before anything of them is used."""

from __future__ import annotations

import platform
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from banger.model.errors import BangerError
from banger.system import wheel as subject
from banger.system.wheel import check_fits, unpack_wheel
from tests.unit.system.releases import make_wheel

NAME = "a-1-py3-none-any.whl"
MINOR, MACHINE = sys.version_info.minor, platform.machine()


def test_a_proper_wheel(tmp_path: Path) -> None:
    path = make_wheel(tmp_path / NAME, {"a/__init__.py": b"x = 1\n", "a/run": b"#!/bin/sh\n"}, executable="run")
    unpack_wheel(path, tmp_path / "out")
    assert (tmp_path / "out/a/__init__.py").read_bytes() == b"x = 1\n"
    assert (tmp_path / "out/a/run").stat().st_mode & 0o777 == 0o755
    assert (tmp_path / "out/a/__init__.py").stat().st_mode & 0o777 == 0o644
    assert (tmp_path / "out/a-1.dist-info/RECORD").exists()
    other = make_wheel(tmp_path / "b-1-py3-none-any.whl", {"a/run": b""})
    with pytest.raises(BangerError, match="is in another wheel too"):
        unpack_wheel(other, tmp_path / "out")


@pytest.mark.parametrize("name", ["../../evil", "/evil", "a/../../evil", "a//b", "a/./b", "a\\b", "a/\x1b", "a-1.data/scripts/x"])
def test_names_that_lead_elsewhere(tmp_path: Path, name: str) -> None:
    path = make_wheel(tmp_path / NAME, {"a/__init__.py": b"", name: b"evil"})
    with pytest.raises(BangerError, match=NAME):
        unpack_wheel(path, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert not list(tmp_path.glob("**/evil"))


def with_member(path: Path, change: Callable[[zipfile.ZipFile], None]) -> Path:
    make_wheel(path, {"a/__init__.py": b"x = 1\n"})
    with zipfile.ZipFile(path, "a") as archive:
        change(archive)
    return path


def link(archive: zipfile.ZipFile) -> None:
    info = zipfile.ZipInfo("a/link")
    info.external_attr = 0o120777 << 16
    archive.writestr(info, "/etc/passwd")


def unlisted(archive: zipfile.ZipFile) -> None:
    archive.writestr("a/more.py", "x")


def twice(archive: zipfile.ZipFile) -> None:
    with pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("a/__init__.py", "x")


def strange_packing(archive: zipfile.ZipFile) -> None:
    archive.writestr("a/more.py", "x", compress_type=zipfile.ZIP_BZIP2)


@pytest.mark.parametrize(
    ("change", "message"),
    [(link, "no regular file"), (unlisted, "RECORD does not list"), (twice, "there twice"), (strange_packing, "unusual way")],
)
def test_members_that_are_refused(tmp_path: Path, change: Callable[[zipfile.ZipFile], None], message: str) -> None:
    with pytest.raises(BangerError, match=message):
        unpack_wheel(with_member(tmp_path / NAME, change), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ("a/__init__.py,sha256=AAAA,1\na-1.dist-info/RECORD,,\n", "is not what RECORD says"),
        ("a/__init__.py,,\na-1.dist-info/RECORD,,\n", "no SHA-256"),
        ("a/__init__.py,md5=AAAA,1\na-1.dist-info/RECORD,,\n", "no SHA-256"),
        ("a-1.dist-info/RECORD,,\n", "does not list"),
        ("a/__init__.py,sha256=A,1\na/__init__.py,sha256=A,1\na-1.dist-info/RECORD,,\n", "a name comes twice"),
    ],
)
def test_records_that_are_refused(tmp_path: Path, record: str, message: str) -> None:
    path = make_wheel(tmp_path / NAME, {"a/__init__.py": b"x", "a-1.dist-info/RECORD": record.encode()})
    with pytest.raises(BangerError, match=message):
        unpack_wheel(path, tmp_path / "out")


def test_what_is_no_wheel_at_all(tmp_path: Path) -> None:
    path = make_wheel(tmp_path / NAME, {"a/__init__.py": b"x" * 100_000})
    whole = path.read_bytes()
    for number, content in enumerate((b"", b"PK", whole[: len(whole) // 2], whole[:60] + bytes(20) + whole[80:])):
        path.write_bytes(content)
        with pytest.raises(BangerError, match="not a usable wheel"):
            unpack_wheel(path, tmp_path / f"out{number}")


def test_bounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make_wheel(tmp_path / NAME, {"a/big": bytes(2_000_000)})
    monkeypatch.setattr(subject, "MAX_UNPACKED_BYTES", 1 << 20)
    with pytest.raises(BangerError, match="1 MiB"):
        unpack_wheel(path, tmp_path / "out")
    monkeypatch.setattr(subject, "MAX_UNPACKED_BYTES", 1 << 30)
    monkeypatch.setattr(subject, "MAX_MEMBERS", 1)
    with pytest.raises(BangerError, match="1 members"):
        unpack_wheel(path, tmp_path / "out")


@pytest.mark.parametrize(
    "tags",
    [
        "py3-none-any", "py2.py3-none-any", f"py3{MINOR}-none-any", f"cp3{MINOR}-cp3{MINOR}-manylinux2014_{MACHINE}.manylinux_2_17_{MACHINE}",
        f"cp36-abi3-manylinux_2_5_{MACHINE}", f"py3-none-linux_{MACHINE}", f"1-cp3{MINOR}-none-any",
    ],
)  # fmt: skip
def test_what_fits(tags: str) -> None:
    check_fits(f"a-1-{tags}.whl")


@pytest.mark.parametrize(
    "tags",
    [
        "py2-none-any", f"cp3{MINOR - 1}-cp3{MINOR - 1}-any", f"cp3{MINOR + 1}-abi3-any", f"py3{MINOR + 1}-none-any", "py3-none-win_amd64",
        f"cp3{MINOR}-cp3{MINOR}t-any", "py3-none-manylinux_2_17_s390x", f"py3-none-manylinux_2_999_{MACHINE}", f"py3-none-musllinux_1_1_{MACHINE}", "any",
    ],
)  # fmt: skip
def test_what_does_not_fit(tags: str) -> None:
    with pytest.raises(BangerError, match="is not"):
        check_fits(f"a-1-{tags}.whl")
