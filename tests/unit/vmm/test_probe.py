"""Finding out which accelerator works; QEMU is played by a script that counts how often it was asked."""

from __future__ import annotations

import json
import os
import stat
from dataclasses import dataclass
from pathlib import Path

import pytest

from banger.host import facts
from banger.model.errors import VmmError
from banger.vmm.protocol import VmmProbe
from banger.vmm.qemu.probe import Prober, kvm_access

OK = "echo '[    0.1] booting'; echo banger-probe-ok; sleep 30"


@dataclass
class Stage:
    """A host to probe."""

    root: Path
    deadline: float = 20.0

    def qemu(self, guest: str) -> Path:
        """A QEMU whose guest does ``guest``."""
        binary = self.root / "qemu"
        binary.write_text(f'#!/bin/sh\n[ "$1" = --version ] && exec echo "QEMU emulator version 7.2.22 (Debian)"\necho run >> {self.root}/runs\n{guest}\n')
        binary.chmod(0o755)
        return binary

    def prober(self) -> Prober:
        return Prober(self.root / "cache", device=self.root / "kvm", deadline=self.deadline)

    async def probe(self, guest: str, *, prober: Prober | None = None, uid: int = -1) -> VmmProbe:
        return await (prober or self.prober()).probe(self.qemu(guest), self.root / "vmlinux", self.root / "initramfs", uid)

    @property
    def runs(self) -> int:
        path = self.root / "runs"
        return len(path.read_text().splitlines()) if path.exists() else 0


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    for name in ("vmlinux", "initramfs", "kvm"):
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "kvm").chmod(0o666)
    return Stage(tmp_path)


async def test_a_guest_that_reports_means_kvm(stage: Stage) -> None:
    probe = await stage.probe(OK)
    assert (probe.usable, probe.accelerator, probe.version, probe.note) == (True, "kvm", "7.2.22", "")
    assert probe.binary == str(stage.root / "qemu")


@pytest.mark.parametrize(
    ("guest", "reason"),
    [
        ("echo 'Assertion failed' >&2; exit 1", "ended early: 'Assertion failed'"),
        ("exit 0", "ended early"),
        ("echo 'KVM internal error. Suberror: 1' >&2; sleep 30", "died in instruction emulation"),
    ],
)
async def test_a_guest_that_fails_means_emulation_with_the_reason(stage: Stage, guest: str, reason: str) -> None:
    probe = await stage.probe(guest)
    assert (probe.usable, probe.accelerator) == (True, "tcg")
    assert reason in probe.note
    assert "\n" not in probe.note


async def test_a_guest_that_hangs_is_ended_at_the_deadline(stage: Stage) -> None:
    stage.deadline = 0.2
    probe = await stage.probe(f"echo $$ > {stage.root}/pid; exec sleep 30")
    assert probe.accelerator == "tcg"
    assert "within 0.2 s" in probe.note
    pid = int((stage.root / "pid").read_text())
    assert not Path(f"/proc/{pid}").exists()


async def test_a_guest_that_was_too_slow_is_asked_again(stage: Stage) -> None:
    """The host may have been busy: at its boot, for one. Nothing of it is written down, and it holds for a while only."""
    binary, kernel, initramfs = stage.qemu("exec sleep 30"), stage.root / "vmlinux", stage.root / "initramfs"
    patient = Prober(stage.root / "cache", device=stage.root / "kvm", deadline=0.2, slow_retry=3600)
    assert [(await patient.probe(binary, kernel, initramfs, -1)).accelerator for _ in range(2)] == ["tcg", "tcg"]
    assert stage.runs == 1
    assert not (stage.root / "cache").exists()
    eager = Prober(stage.root / "cache", device=stage.root / "kvm", deadline=0.2, slow_retry=0)
    assert [(await eager.probe(binary, kernel, initramfs, -1)).accelerator for _ in range(2)] == ["tcg", "tcg"]
    assert stage.runs == 3


async def test_a_missing_device_is_clear_without_running_anything(stage: Stage) -> None:
    (stage.root / "kvm").unlink()
    probe = await stage.probe(OK)
    assert (probe.accelerator, stage.runs) == ("tcg", 0)
    assert "no " in probe.note
    assert "firmware" in probe.hint


async def test_the_answer_is_remembered_in_memory_and_on_disk(stage: Stage) -> None:
    prober = stage.prober()
    binary = stage.qemu(OK)
    first = await prober.probe(binary, stage.root / "vmlinux", stage.root / "initramfs", -1)
    assert await prober.probe(binary, stage.root / "vmlinux", stage.root / "initramfs", -1) == first
    os.utime(stage.root / "initramfs")  # using it is not changing it
    assert await stage.prober().probe(binary, stage.root / "vmlinux", stage.root / "initramfs", -1) == first
    assert stage.runs == 1


@pytest.mark.parametrize("changed", ["qemu", "vmlinux", "kvm", "boot"])
async def test_whatever_changes_is_probed_anew(stage: Stage, changed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    binary = stage.qemu(OK)
    await stage.prober().probe(binary, stage.root / "vmlinux", stage.root / "initramfs", -1)
    if changed == "boot":
        monkeypatch.setattr(facts, "boot_id", lambda: "another")
    elif changed == "kvm":
        (stage.root / "kvm").chmod(0o606 if os.geteuid() == 0 else 0o660)
    else:
        os.utime(stage.root / changed, (1, 1))
    await stage.prober().probe(binary, stage.root / "vmlinux", stage.root / "initramfs", -1)
    assert stage.runs == 2


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b'{"boot_id": 1}', b'{"boot_id": "BOOT", "probes": {"a": {"bad": 1}}}', b'{"boot_id": "BOOT", "probes": 3}']
)
async def test_a_damaged_cache_is_ignored_and_replaced(stage: Stage, content: bytes) -> None:
    (stage.root / "cache").mkdir()
    (stage.root / "cache" / "qemu.json").write_bytes(content.replace(b"BOOT", facts.boot_id().encode()))
    assert (await stage.probe(OK)).accelerator == "kvm"
    assert json.loads((stage.root / "cache" / "qemu.json").read_bytes())["boot_id"] == facts.boot_id()


async def test_files_that_are_gone(stage: Stage) -> None:
    (stage.root / "vmlinux").unlink()
    with pytest.raises(VmmError, match="vmlinux is gone"):
        await stage.probe(OK)


def test_who_may_open_the_device(tmp_path: Path) -> None:
    device = tmp_path / "kvm"
    device.touch()
    device.chmod(0o666)
    assert kvm_access(-1, device).allowed
    assert kvm_access(12345, device).allowed
    device.chmod(0o600)
    refused = kvm_access(12345, device)
    assert not refused.allowed
    assert str(device) in refused.note
    assert refused.hint


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="gives a file to another group")
def test_a_vmm_of_another_uid_is_given_the_device_s_group_but_never_root_s(tmp_path: Path) -> None:
    device = tmp_path / "kvm"
    device.touch()
    device.chmod(0o660)
    assert not kvm_access(12345, device).allowed
    os.chown(device, 0, 4321)
    assert stat.S_IMODE(device.stat().st_mode) == 0o660
    assert kvm_access(12345, device).groups == (4321,)


@pytest.mark.parametrize(
    ("script", "why"),
    [("echo 'cannot open shared object file' >&2; exit 127", "cannot open shared object file"), ("exit 0", "does not say a version")],
)
async def test_a_qemu_whose_version_cannot_be_asked_is_not_usable_and_asked_again(stage: Stage, script: str, why: str) -> None:
    binary = stage.qemu(OK)
    whole = binary.read_text()
    binary.write_text(f"#!/bin/sh\n{script}\n")
    prober = stage.prober()
    probe = await prober.probe(binary, stage.root / "vmlinux", stage.root / "initramfs", -1)
    assert (probe.usable, why in probe.note, probe.hint) == (False, True, "sudo apt-get install --reinstall qemu-system-x86")
    stamp = binary.stat().st_mtime_ns
    binary.write_text(whole)
    os.utime(binary, ns=(stamp, stamp))
    assert (await prober.probe(binary, stage.root / "vmlinux", stage.root / "initramfs", -1)).usable
