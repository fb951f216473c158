"""What is brought into a laboratory: banger as a user installs it, the kernel's modules, and a tiny image and its kernel for machines inside."""

from __future__ import annotations

import importlib.metadata
import re
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

from banger.guest.modules import resolve
from tests.e2e.containers import busybox_tar

ROOT = Path(__file__).parents[2]
PROGRAM = "opt/banger"
"""A virtual environment, below the laboratory's root."""
GUEST = "opt/guest"
"""``tiny.tar`` and ``kernel/``, for `banger image import` and `banger kernel import` inside."""
MODULE_TREES = ("arch", "crypto", "lib", "virt", "drivers/md", "drivers/block", "drivers/net", "drivers/vhost", "net", "fs/fuse", "fs/configfs")
"""Of the kernel's modules, what a host of machines may need."""
TINY_WORDS = "awk cut dd grep head httpd ip nc nslookup ping ps sed sync tail tr udhcpc wget"


def bundle_program(place: Path) -> Path:
    """The wheel of this tree and its dependencies as a virtual environment that works at /opt/banger; returns the archive."""
    venv, wheels = place / "venv", place / "wheels"
    _pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(wheels), str(ROOT))
    (wheel,) = wheels.glob("banger-*.whl")
    subprocess.run(["/usr/bin/python3", "-m", "venv", "--without-pip", venv], check=True)
    _pip("--python", str(venv / "bin/python"), "install", "--no-deps", str(wheel))
    packages = next((venv / "lib").glob("python3*/site-packages"))
    for name in dependencies("banger"):
        _copy_distribution(name, packages)
    for path in (venv / "bin").glob("banger*"):
        path.write_text(re.sub(r"\A#!.*", f"#!/{PROGRAM}/bin/python3", path.read_text()))
    # Byte code that is believed without a look at the source: compiling takes ten times as long inside.
    subprocess.run([sys.executable, "-m", "compileall", "-qq", "--invalidation-mode", "unchecked-hash", "-s", venv, "-p", f"/{PROGRAM}", packages], check=True)
    return _pack(place / "program.tar.zst", {PROGRAM: venv})


def bundle_kernel(kernel: Path, place: Path) -> Path:
    """Modules for the laboratory itself, a kernel directory with no more than machines need, and a root file system of busybox; returns the archive."""
    small = place / "kernel"
    small.mkdir()
    shutil.copy(kernel / "vmlinux", small)
    shutil.copy(kernel / "config", small)
    _copy_modules(kernel / "modules", small / "modules", {module.file for module in resolve(kernel / "modules")})
    host = place / "modules"
    wanted = {path for tree in MODULE_TREES for path in (kernel / "modules/kernel" / tree).rglob("*.ko*")}
    _copy_modules(kernel / "modules", host, wanted)
    (place / "tiny.tar").write_bytes(busybox_tar(words=TINY_WORDS))
    return _pack(place / "kernel.tar.zst", {f"usr/lib/modules/{_version(kernel)}": host, f"{GUEST}/kernel": small, f"{GUEST}/tiny.tar": place / "tiny.tar"})


def dependencies(name: str) -> Iterator[str]:
    """Names of the distributions that this one needs here, directly or not."""
    seen: set[str] = set()
    pending = [name]
    while pending:
        for text in importlib.metadata.requires(pending.pop()) or ():
            found = re.split(r"[^A-Za-z0-9._-]", text, maxsplit=1)[0]
            if found not in seen and "extra ==" not in text and _is_installed(found):
                seen.add(found)
                pending.append(found)
                yield found


def _is_installed(name: str) -> bool:
    try:
        importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def _copy_distribution(name: str, packages: Path) -> None:
    for file in importlib.metadata.files(name) or ():
        if ".." not in file.parts and file.suffix != ".pyc":
            target = packages / file
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(str(file.locate()), target)


def _copy_modules(source: Path, target: Path, files: set[Path]) -> None:
    """``files`` and the kernel's lists; modprobe(8) needs of those that are not there nothing."""
    target.mkdir()
    for listed in source.glob("modules.*"):
        shutil.copy(listed, target)
    kept = {str(path.relative_to(source)) for path in files}
    lines = (source / "modules.dep").read_text().splitlines(keepends=True)
    needed = {word.rstrip(":") for line in lines if line.partition(":")[0] in kept for word in line.split()}
    for name in needed:
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source / name, target / name)
    (target / "modules.dep").write_text("".join(line for line in lines if line.partition(":")[0] in needed))


def _version(kernel: Path) -> str:
    """As ``uname -r`` says it: the kernel carries it in its banner."""
    found = re.search(rb"Linux version (\S+) ", (kernel / "vmlinux").read_bytes())
    assert found, f"{kernel} has no version"
    return found[1].decode()


def _pack(archive: Path, trees: dict[str, Path]) -> Path:
    def for_everyone(member: tarfile.TarInfo) -> tarfile.TarInfo:
        member.mode |= 0o555 if member.isdir() or member.mode & 0o100 else 0o444
        member.uid = member.gid = 0
        member.uname = member.gname = ""
        return member

    with subprocess.Popen(["zstd", "-q", "-T0", "-3", "-o", archive], stdin=subprocess.PIPE) as packer:
        assert packer.stdin
        with tarfile.open(fileobj=packer.stdin, mode="w|") as tar:
            for name, tree in trees.items():
                tar.add(tree, name, filter=for_everyone)
        packer.stdin.close()
    assert packer.returncode == 0
    return archive


def _pip(*words: str) -> None:
    subprocess.run([sys.executable, "-m", "pip", *words, "--quiet", "--disable-pip-version-check"], check=True)
