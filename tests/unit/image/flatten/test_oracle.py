"""The same image through skopeo and umoci, and through us: the same tree."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from banger.host.run import SEARCH_PATH
from banger.image.flatten.limits import Limits
from banger.image.flatten.pipeline import flatten, flatten_tar
from banger.model.progress import silent
from banger.storage.ext4image.xattrs import is_known
from tests.ociimages import OciImage, make_image, write_layout
from tests.treemanifest import differences, read_image, read_tree

from .tars import Member, directory, file, hardlink, layers_of, pack, symlink

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="umoci makes files of many owners, and ours is mounted")]


@pytest.fixture
def place() -> Iterator[Path]:
    """On a disk whose file system has all kinds of extended attributes."""
    with tempfile.TemporaryDirectory(dir="/var/tmp", prefix="banger-flatten-") as name:
        yield Path(name)


def umoci_tree(place: Path, image: OciImage) -> Path:
    """What skopeo and umoci make of an image."""
    layout = write_layout(place / "layout", {"made": image})
    environment = {"PATH": SEARCH_PATH, "HOME": str(place)}
    copy = ["skopeo", "--insecure-policy", "copy", "--quiet", f"oci:{layout}:made", f"oci:{place}/copied:made"]
    subprocess.run(copy, check=True, env=environment, capture_output=True)
    # The umask decides about directories that no entry describes.
    subprocess.run(
        ["umoci", "raw", "unpack", "--image", f"{place}/copied:made", place / "theirs"], check=True, env=environment, capture_output=True, umask=0o022
    )
    return place / "theirs"


async def check_same_tree(place: Path, tars: list[bytes], packing: list[str] | str = "+gzip") -> None:
    image = make_image(tars, packing=packing)
    # umoci 0.4 knows no zstd.
    theirs = umoci_tree(place, image if "+zstd" not in packing else make_image(tars))
    (place / "staging").mkdir()
    await flatten(layers_of(image, place / "blobs"), place / "ours.ext4", place / "staging", limits=Limits(), report=silent)
    assert not os.listdir(place / "staging")
    assert differences(read_image(place / "ours.ext4"), read_tree(theirs)) == []


CAPABILITY = b"\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00".decode("latin-1")

KINDS = [
    directory("./", mode=0o700),
    directory("bin"),
    Member(name="bin/busybox", content=b"\x7fELF" + bytes(5000), mode=0o4755),
    *(hardlink(f"bin/{name}", "bin/busybox") for name in ("sh", "ls", "cat")),
    symlink("bin/long", "x/" * 100),
    symlink("bin/just-inline", "t" * 59),
    symlink("bin/just-not", "t" * 60),
    symlink("etc-of-host", "../../../../etc"),
    Member(name="bin/ping", content=b"ping", mode=0o755, pax={"SCHILY.xattr.security.capability": CAPABILITY, "SCHILY.xattr.user.note": "n\u00fc"}),
    Member(name="bin/labelled", content=b"x", pax={"SCHILY.xattr.security.selinux": "system_u:object_r:bin_t:s0", "SCHILY.xattr.user.big": "b" * 2000}),
    Member(name="dev/null", type=tarfile.CHRTYPE, mode=0o666, device=(1, 3)),
    Member(name="dev/nvme", type=tarfile.BLKTYPE, mode=0o660, gid=6, device=(259, 300)),
    hardlink("dev/zero-too", "dev/null"),
    Member(name="run/fifo", type=tarfile.FIFOTYPE, mode=0o600),
    directory("tmp", mode=0o1777),
    Member(name="home/dev/file", content=b"mine", uid=70000, gid=4_000_000_000, mode=0o2640),
    Member(name="old", content=b"", mtime=-5.5),
    Member(name="new", content=b"", mtime=5_000_000_000.125),
    Member(name="implied/deeply/here", content=b"."),
    Member(name="name with\nnewline \"quotes\" 'and' back\\slash \udcff\udcfe", content=b"odd"),
    Member(name="a" * 255, content=b"long name"),
    Member(name="/".join(["d" * 200] * 10), content=b"long path"),
    Member(name="/absolute", content=b"stripped"),
    Member(name="bin/../normalised/./file", content=b"inside"),
    *(Member(name=f"many/{number:05}", content=b"") for number in range(700)),
]


@pytest.mark.parametrize("packing", ["", "+gzip", "+zstd"])
async def test_every_kind_of_entry(place: Path, packing: str) -> None:
    await check_same_tree(place, [pack(KINDS)], packing)


LAYERS = {
    "whiteout": ([directory("d"), file("d/a", "1"), file("d/b", "2"), file("c", "3")], [file("d/.wh.a"), file(".wh.c")]),
    "whiteout of a directory": ([file("d/x/y", "1"), file("d/z", "2")], [file(".wh.d")]),
    "whiteout of what is not there": ([file("a", "1")], [file(".wh.b"), file("no/where/.wh.c")]),
    "whiteout of what this layer makes": ([file("a", "old")], [file("a", "new"), file(".wh.a")]),
    "whiteout before what this layer makes": ([file("a", "old")], [file(".wh.a"), file("a", "new")]),
    "whiteout of a directory with something new in it": ([file("d/old", "1"), file("d/e/old", "2")], [file("d/e/new", "3"), file(".wh.d")]),
    "opaque": ([directory("d"), file("d/a", "1"), file("d/e/f", "2")], [directory("d"), file("d/.wh..wh..opq"), file("d/new", "3")]),
    "opaque after new files": ([file("d/a", "1"), file("d/e/f", "2")], [directory("d"), file("d/e/new", "3"), file("d/new", "4"), file("d/.wh..wh..opq")]),
    "opaque root": ([file("a", "1"), file("d/b", "2")], [file(".wh..wh..opq"), file("c", "3")]),
    "opaque of what is not there": ([file("a", "1")], [file("d/.wh..wh..opq")]),
    "whiteout as a hard link": ([file("a", "1"), file("b", "2")], [hardlink(".wh.a", "b")]),
    "whiteout as a device": ([file("a", "1")], [Member(name=".wh.a", type=tarfile.CHRTYPE)]),
    "whiteout through a symbolic link": ([file("real/a", "1"), symlink("link", "real")], [file("link/.wh.a")]),
    "whiteout of a symbolic link": ([file("real/a", "1"), symlink("link", "real")], [file(".wh.link")]),
    "whiteout of a linked lower name": ([file("a", "1")], [hardlink("b", "a"), file(".wh.a")]),
    "aufs leftovers": ([file("a", "1")], [directory(".wh..wh.plnk"), file(".wh..wh.aufs")]),
    "hard link to a lower layer": ([file("a", "1")], [hardlink("b", "a")]),
    "hard link to what is then replaced": ([file("a", "1")], [hardlink("b", "a"), file("a", "2")]),
    "hard link to a symbolic link": ([symlink("a", "target")], [hardlink("b", "a")]),
    "hard link through a symbolic link": ([file("real/a", "1"), symlink("link", "/real")], [hardlink("b", "link/a")]),
    "file where a directory was": ([file("d/a", "1"), file("d/e/f", "2")], [file("d", "now a file")]),
    "directory where a file was": ([file("d", "1")], [directory("d"), file("d/a", "2")]),
    "directory where a symbolic link was": ([directory("real"), symlink("d", "real")], [directory("d"), file("d/a", "2")]),
    "symbolic link where a directory was": ([file("d/a", "1"), directory("real")], [symlink("d", "real"), file("d/b", "2")]),
    "directory again, other mode": ([directory("d"), file("d/a", "1")], [directory("d", mode=0o2750), file("d/b", "2")]),
    "duplicates in one layer": ([file("a", "1"), file("a", "2", 0o600), symlink("b", "x"), file("b", "3")], []),
    "through a symbolic link": ([directory("usr/lib"), symlink("lib", "usr/lib")], [file("lib/a", "1"), directory("lib/b")]),
    "through a symbolic link out of the root": ([symlink("out", "../../../../tmp/banger-escape")], [file("out/a", "1")]),
    "through an absolute symbolic link": ([symlink("out", "/tmp/banger-escape")], [file("out/a", "1")]),
    "through a chain of symbolic links": ([symlink("a", "b/../c"), directory("b"), symlink("c", "./d//e/"), directory("d/e")], [file("a/f", "1")]),
    "the root's mode": ([directory("./", mode=0o711)], [directory("/", mode=0o750)]),
}


@pytest.mark.parametrize("case", LAYERS)
async def test_layers(place: Path, case: str) -> None:
    assert not Path("/tmp/banger-escape").exists()
    await check_same_tree(place, [pack(members) for members in LAYERS[case]])
    assert not Path("/tmp/banger-escape").exists()


async def test_forty_layers(place: Path) -> None:
    """Each adds, changes, hides and links something of the ones before it."""
    layers = [[directory("d"), file("d/0", "0"), file("shared", "0")]]
    for number in range(1, 40):
        layer = [file(f"d/{number}", str(number)), file("shared", str(number)), file(f"d/.wh.{number - 3}"), directory(f"e/{number}", mode=0o700 + number % 8)]
        layer += [hardlink(f"e/{number}/link", f"d/{number - 1}"), symlink(f"e/{number}/up", f"../{number - 1}")]
        layer += [file(f"e/{number - 5}/.wh..wh..opq")] if number % 7 == 0 else []
        layers.append(layer)
    await check_same_tree(place, [pack(layer) for layer in layers], ["", "+gzip"] * 20)


@pytest.fixture(scope="session")
def debian_tar() -> Iterator[Path]:
    """Debian's minbase, made once."""
    with tempfile.TemporaryDirectory(dir="/var/tmp", prefix="banger-minbase-") as name:
        tar = Path(name) / "minbase.tar"
        words: list[str | Path] = ["mmdebstrap", "--variant=minbase", "--format=tar", "--quiet", "bookworm", tar]
        subprocess.run(words, check=True, env={"PATH": SEARCH_PATH, "TMPDIR": name}, capture_output=True)
        yield tar


@pytest.mark.timeout(300)
async def test_debian(place: Path, debian_tar: Path) -> None:
    """As one layer with another on top; then as a plain archive, by another user, with the same bytes."""
    change = pack([file("etc/.wh.passwd"), file("usr/share/.wh..wh..opq"), directory("usr/share"), hardlink("etc/motd2", "etc/debian_version")])
    await check_same_tree(place, [debian_tar.read_bytes(), change], "")
    ours = await flatten_tar(debian_tar, place / "tar.ext4", place / "staging", limits=Limits(), report=silent)
    nobody = place / "nobody"
    nobody.mkdir()
    os.chown(nobody, 65534, 65534)
    place.chmod(0o755)
    debian_tar.parent.chmod(0o755)
    done = subprocess.run(as_nobody(debian_tar, nobody), check=True, capture_output=True, text=True)
    assert done.stdout.strip() == ours.digest == "sha256:" + hashlib.sha256((nobody / "out.ext4").read_bytes()).hexdigest()
    assert (nobody / "out.ext4").stat().st_uid == 65534


def as_nobody(tar: Path, place: Path) -> list[str | Path]:
    """Flattens as a user without rights, printing the digest."""
    program = (
        "import asyncio, sys; from pathlib import Path; from banger.image.flatten.pipeline import *; from banger.image.flatten.limits import Limits; "
        "from banger.model.progress import silent; tar, out = map(Path, sys.argv[1:]); "
        "print(asyncio.run(flatten_tar(tar, out / 'out.ext4', out, limits=Limits(), report=silent)).digest)"
    )
    prefix = [shutil.which("setpriv") or "setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    return [*prefix, sys.executable, "-c", program, tar, place]


def test_what_umoci_leaves_out_is_what_ext4_could_hold() -> None:
    """Labels of the host are known to ext4: they are left out on purpose."""
    assert is_known(b"security.selinux")
