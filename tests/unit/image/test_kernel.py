"""Fetching a kernel: real dpkg-deb, depmod and lz4 on a package made here; only apt's part is played."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from banger.host.run import Completed
from banger.image import kernel
from banger.image.catalog import embedded
from banger.model.errors import BadRequest, CommandFailed, NoSpace
from banger.model.progress import silent

from .bzimages import bzimage, compress, elf

VERSION = "6.1.0-99-cloud-amd64"
RECIPE = embedded().kernels["debian-cloud"]
DEBIAN = embedded().distributions["debian"]


def package(directory: Path, *, modules: bool = True) -> Path:
    """A kernel's package as Debian makes it, with one module that is not one."""
    root = directory / "root"
    (root / "DEBIAN").mkdir(parents=True)
    (root / "DEBIAN" / "control").write_text(f"Package: linux-image-{VERSION}\nVersion: 1\nArchitecture: amd64\nMaintainer: x <x@x>\nDescription: x\n")
    (root / "boot").mkdir()
    (root / "boot" / f"vmlinuz-{VERSION}").write_bytes(bzimage(compress(elf(), "lz4")))
    (root / "boot" / f"config-{VERSION}").write_text("CONFIG_PVH=y\n")
    if modules:
        tree = root / "lib" / "modules" / VERSION
        tree.mkdir(parents=True)
        (tree / "modules.order").touch()
        (tree / "modules.builtin").write_text("kernel/fs/ext4/ext4.ko\n")
    file = directory / "kernel.deb"
    subprocess.run(["dpkg-deb", "--root-owner-group", "-b", root, file], check=True, capture_output=True)
    return file


class PlayedApt:
    """What apt would print, and the package that it would download."""

    def __init__(self, deb: Path | None, depends: str = f"linux-image-{VERSION} (= 6.1.192-2)") -> None:
        self.deb = deb
        self.depends = depends
        self.commands: list[tuple[str, ...]] = []
        self.configuration = ""

    async def __call__(self, apt: kernel._Apt, *words: str) -> Completed:
        self.commands.append(words)
        self.configuration = (apt.root / "apt.conf").read_text()
        if words[1] == "download" and self.deb:
            (apt.root / "downloaded.deb").write_bytes(self.deb.read_bytes())
        return Completed(words, 0, f"Package: {RECIPE.package}\nDepends: {self.depends}\nSize: 1504\n".encode(), b"")


@pytest.fixture
def play(monkeypatch: pytest.MonkeyPatch) -> object:
    def install(apt: PlayedApt) -> PlayedApt:
        async def run(own: kernel._Apt, *words: str) -> Completed:
            return await apt(own, *words)

        monkeypatch.setattr(kernel._Apt, "run", run)
        monkeypatch.setattr(kernel, "check_keyring", lambda distribution: None)
        return apt

    return install


@pytest.fixture
def staging(tmp_path: Path) -> Path:
    path = tmp_path / "kernels" / "k.staging"
    path.mkdir(parents=True)
    return path


async def test_elf_modules_and_config_are_kept_and_nothing_else(play, tmp_path: Path, staging: Path) -> None:  # type: ignore[no-untyped-def]
    apt = play(PlayedApt(package(tmp_path)))
    release = await kernel.fetch(RECIPE, DEBIAN, staging, silent)
    assert release == kernel.Release(package=f"linux-image-{VERSION}", version=VERSION)
    assert sorted(path.name for path in staging.iterdir()) == ["config", "modules", "vmlinux"]
    assert (staging / "vmlinux").read_bytes() == elf()
    assert {"modules.dep", "modules.builtin", "modules.builtin.bin"} <= {path.name for path in (staging / "modules").iterdir()}
    assert [words[:2] for words in apt.commands] == [("apt-get", "update"), ("apt-cache", "show"), ("apt-get", "download")]
    assert apt.commands[-1][-1] == release.package


async def test_apt_neither_reads_nor_writes_the_systems_own_state(play, tmp_path: Path, staging: Path) -> None:  # type: ignore[no-untyped-def]
    apt = play(PlayedApt(package(tmp_path)))
    await kernel.fetch(RECIPE, DEBIAN, staging, silent)
    settings = dict(line.rstrip(";").split(" ", 1) for line in apt.configuration.splitlines())
    for key in ("main", "parts", "sourceparts", "preferences", "preferencesparts"):
        assert settings[f"Dir::Etc::{key}"] == '"/dev/null"'
    for key in ("Etc::sourcelist", "State", "State::status", "Cache", "Log"):
        assert settings[f"Dir::{key}"].startswith(f'"{staging}/apt/')


async def test_an_apt_that_downloads_nothing(play, staging: Path) -> None:  # type: ignore[no-untyped-def]
    play(PlayedApt(None))
    with pytest.raises(CommandFailed, match="left 0 packages"):
        await kernel.fetch(RECIPE, DEBIAN, staging, silent)


async def test_a_package_that_names_no_kernel(play, staging: Path) -> None:  # type: ignore[no-untyped-def]
    play(PlayedApt(None, depends="libc6"))
    with pytest.raises(CommandFailed, match="names no kernel"):
        await kernel.fetch(RECIPE, DEBIAN, staging, silent)


async def test_a_package_without_modules(play, tmp_path: Path, staging: Path) -> None:  # type: ignore[no-untyped-def]
    play(PlayedApt(package(tmp_path, modules=False)))
    with pytest.raises(BadRequest, match="has no modules of"):
        await kernel.fetch(RECIPE, DEBIAN, staging, silent)


@pytest.mark.root
async def test_a_full_disk_is_named(play, tmp_path: Path, staging: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    play(PlayedApt(package(tmp_path)))
    monkeypatch.setattr(kernel, "check_space", lambda *_: None)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", staging.parent], check=True)
    try:
        staging.mkdir()
        with pytest.raises(NoSpace, match="fetching kernel debian-cloud"):
            await kernel.fetch(RECIPE, DEBIAN, staging, silent)
    finally:
        subprocess.run(["umount", staging.parent], check=True)
