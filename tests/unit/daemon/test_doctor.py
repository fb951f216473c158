"""doctor: what only the daemon finds, each finding with its remedy."""

from __future__ import annotations

import asyncio
import resource
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pytest

from banger.daemon import doctor
from banger.daemon.context import Context
from banger.image import namespace
from banger.image.catalog import CatalogImage
from banger.image.service import Bootable, ImageService
from banger.model.checks import Check
from banger.model.errors import BangerError
from banger.model.limits import DEFAULT_IMAGE, SizeDefaults, defaults_for_host
from banger.model.progress import Report
from banger.model.records import ImageRecord, KernelRecord
from banger.vm.capabilities import Finding
from banger.vm.leftovers import Leftover
from banger.vmm.protocol import Vmm, VmmProbe

KVM = VmmProbe(usable=True, binary="/usr/bin/vmm", version="1.2", accelerator="kvm")
IMAGE = ImageRecord(id="i", name=DEFAULT_IMAGE, source="s", path="/i", digest="sha256:0", size_bytes=3 << 30, kernel_name="k", created_at=1.0)
KERNEL = KernelRecord(id="k", name="k", source="s", path="/k", version="6.1.0", digest="sha256:0", size_bytes=1, created_at=1.0)
SIZES = defaults_for_host(8, 16 << 30)


@dataclass
class FakeVmm:
    """A driver that has already made up its mind."""

    answer: VmmProbe = KVM
    name: str = "vmm"
    probed: list[Path] = field(default_factory=list)

    async def probe(self, kernel: Path, initramfs: Path) -> VmmProbe:
        self.probed.append(kernel)
        return self.answer


class InspectingVmm(FakeVmm):
    async def inspect(self) -> VmmProbe:
        return self.answer


@dataclass(frozen=True)
class FakeKernels:
    """A kernel service with at most the default kernel."""

    kernels: tuple[KernelRecord, ...] = (KERNEL,)

    def list(self) -> tuple[KernelRecord, ...]:
        return self.kernels


@dataclass
class FakeImages:
    """An image service with at most the default image."""

    images: tuple[ImageRecord, ...] = (IMAGE,)
    kernels: FakeKernels = FakeKernels()
    known: tuple[str, ...] = (DEFAULT_IMAGE,)
    damage: str = ""

    def list(self) -> tuple[ImageRecord, ...]:
        return self.images

    async def show(self, name: str) -> ImageRecord:
        return self.images[0]

    async def catalog(self) -> tuple[CatalogImage, ...]:
        return tuple(CatalogImage(name=name, description="", kernel="k") for name in self.known)

    async def ensure(self, name: str, report: Report, *, credentials: str = "") -> Bootable:
        if self.damage:
            raise BangerError(self.damage, hint="delete it")
        return Bootable(image=IMAGE, kernel=KERNEL, rootfs=Path("/i/rootfs"), kernel_file=Path("/k/vmlinux"), initramfs=Path("/c/initramfs"))


@dataclass
class FakeMachines:
    """Machines with capabilities that find this, and with these leftovers."""

    findings: tuple[Finding, ...] = ()
    left: tuple[Leftover, ...] = ()

    def defaults(self) -> SizeDefaults:
        return SIZES

    async def check_host(self) -> Sequence[Finding]:
        return self.findings

    async def collect_garbage(self, *, dry_run: bool, report: Report) -> tuple[Leftover, ...]:
        assert dry_run
        return self.left


@dataclass
class FakeContext:
    vmm: FakeVmm = field(default_factory=FakeVmm)
    images: FakeImages = field(default_factory=FakeImages)
    machines: FakeMachines = field(default_factory=FakeMachines)


NOTHING_YET = FakeImages(images=(), kernels=FakeKernels(()))


async def checks(**parts: Any) -> dict[str, Check]:
    """By id, as the command gets them."""
    found = await doctor.run_checks(cast(Context, FakeContext(**parts)))
    assert all(check.remedy for check in found if check.status in ("warn", "fail"))
    assert len({check.id for check in found}) == len(found)
    return {check.id: check for check in found}


async def test_a_host_with_everything() -> None:
    vmm = FakeVmm()
    found = await checks(vmm=vmm)
    assert (found["virtualisation.vmm"].status, found["virtualisation.vmm"].detail) == ("pass", "/usr/bin/vmm 1.2")
    assert (found["virtualisation.kvm"].status, found["virtualisation.kvm"].detail) == ("pass", "a test guest runs")
    assert "6.1.0" in found["images.default"].detail
    assert found["installation.machine-size"].detail == "2 vcpu (auto), 2048 MiB (auto), 8G disk (builtin), 8G system overlay (builtin)"
    assert found["installation.leftovers"].detail == "none"
    assert vmm.probed == [Path("/k/vmlinux")]


async def test_kvm_that_does_not_work_is_a_warning_with_its_reason() -> None:
    slow = VmmProbe(usable=True, binary="/b", version="1", accelerator="tcg", note="you may not open /dev/kvm", hint="usermod")
    kvm = (await checks(vmm=FakeVmm(slow)))["virtualisation.kvm"]
    assert (kvm.status, kvm.detail, kvm.remedy) == ("warn", "you may not open /dev/kvm", "usermod")


async def test_no_vmm() -> None:
    missing = VmmProbe(usable=False, note="vmm is not installed", hint="sudo apt-get install vmm")
    found = await checks(vmm=FakeVmm(missing))
    vmm = found["virtualisation.vmm"]
    assert (vmm.status, vmm.detail, vmm.remedy) == ("fail", missing.note, missing.hint)
    assert "virtualisation.kvm" not in found


async def test_before_the_first_image_nothing_is_run() -> None:
    vmm = InspectingVmm(VmmProbe(usable=True, binary="/b", version="7", accelerator=""))
    found = await checks(vmm=vmm, images=NOTHING_YET)
    assert vmm.probed == []
    assert found["virtualisation.vmm"].detail == "/b 7"
    assert (found["virtualisation.kvm"].status, found["virtualisation.kvm"].remedy) == ("warn", f"banger image pull {DEFAULT_IMAGE}")
    assert "first use" in found["images.default"].detail
    assert (await checks(images=NOTHING_YET))["virtualisation.vmm"].status == "warn"


async def test_an_image_that_is_damaged_or_unknown() -> None:
    assert (await checks(images=FakeImages(damage="rootfs.ext4 is gone")))["images.default"].detail == "rootfs.ext4 is gone"
    assert (await checks(images=FakeImages(kernels=FakeKernels(()))))["images.default"].status == "warn"
    assert (await checks(images=FakeImages(images=(), kernels=FakeKernels(()), known=())))["images.default"].status == "fail"


async def test_namespaces(monkeypatch: pytest.MonkeyPatch) -> None:
    async def refused() -> None:
        raise BangerError("no subordinate ids", hint="sudo usermod --add-subuids ...")

    monkeypatch.setattr(namespace, "check", refused)
    for images, status in ((FakeImages(), "warn"), (NOTHING_YET, "fail")):
        (found,) = await doctor.check_namespaces(cast(ImageService, images), SIZES)
        assert (found.status, found.remedy) == (status, "sudo usermod --add-subuids ...")


async def test_a_vmm_that_has_broken_since_it_was_probed_fails() -> None:
    class BrokenVmm(FakeVmm):
        async def inspect(self) -> VmmProbe:
            return VmmProbe(usable=False, note="/b does not run", hint="install it again")

    found = await doctor.check_machines(cast(Vmm, BrokenVmm()), cast(ImageService, FakeImages()), SIZES)
    assert [(check.id, check.status) for check in found] == [("virtualisation.vmm", "fail"), ("images.default", "pass")]
    assert found[0].remedy == "install it again"


async def test_findings_of_capabilities_have_ids() -> None:
    some = (
        Finding(name="disks", status="pass", detail="mke2fs"),
        Finding(name="names on this host", status="warn", detail="no", remedy="recipe"),
        Finding(name="bridge", status="warn", detail="ufw drops what machines send: sudo ufw route allow in on banger0"),
        Finding(name="bridge", status="warn", detail="another"),
    )
    found = await checks(machines=FakeMachines(findings=some))
    assert {"virtualisation.disks", "network.names-on-this-host", "network.bridge", "network.bridge-2"} <= found.keys()
    assert "sudo banger system restart" in found["network.bridge-2"].remedy
    assert (found["network.bridge"].detail, found["network.bridge"].remedy) == ("ufw drops what machines send", "sudo ufw route allow in on banger0")


async def test_leftovers() -> None:
    left = tuple(Leftover(kind=kind, what="/x") for kind in ("scope", "staging", "staging"))
    found = (await checks(machines=FakeMachines(left=left)))["installation.leftovers"]
    assert (found.status, found.detail, found.remedy) == ("warn", "1 scope, 2 staging that no machine needs any more", "banger gc")


async def test_a_check_that_crashes_or_hangs_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken(FakeMachines):
        async def check_host(self) -> Sequence[Finding]:
            raise ZeroDivisionError("on purpose")

        async def collect_garbage(self, *, dry_run: bool, report: Report) -> tuple[Leftover, ...]:
            await asyncio.sleep(60)
            return ()

    monkeypatch.setattr(doctor, "_SECONDS", 0.1)
    found = await checks(machines=Broken())
    assert (found["network.capabilities"].status, "ZeroDivisionError" in found["network.capabilities"].detail) == ("fail", True)
    assert (found["installation.leftovers"].status, found["installation.leftovers"].detail) == ("fail", "no answer within 0.1 s")
    assert found["virtualisation.kvm"].status == "pass", "the others are told all the same"


def test_descriptors(monkeypatch: pytest.MonkeyPatch) -> None:
    for limit, status in ((64, "warn"), (65536, "pass"), (resource.RLIM_INFINITY, "pass")):
        monkeypatch.setattr(resource, "getrlimit", lambda kind, limit=limit: (limit, limit))
        assert doctor.check_descriptors().status == status
