"""doctor: each finding with its remedy."""

from __future__ import annotations

import platform
import shutil
from collections import namedtuple
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pytest

from banger.api.types import Check
from banger.daemon import doctor
from banger.daemon.doctor import run_checks
from banger.host.paths import Layout
from banger.host.run import PACKAGES, find_tool
from banger.image import namespace
from banger.image.catalog import CatalogImage
from banger.image.service import Bootable, ImageService
from banger.model.errors import BangerError, MissingTool
from banger.model.limits import DEFAULT_IMAGE, defaults_for_host
from banger.model.progress import Report
from banger.model.records import ImageRecord, KernelRecord
from banger.vm.work_disk import WorkDisk
from banger.vmm.protocol import Vmm, VmmProbe

KVM = VmmProbe(usable=True, binary="/usr/bin/vmm", version="1.2", accelerator="kvm")
IMAGE = ImageRecord(id="i", name=DEFAULT_IMAGE, source="s", path="/i", digest="sha256:0", size_bytes=3 << 30, kernel_name="k", created_at=1.0)
KERNEL = KernelRecord(id="k", name="k", source="s", path="/k", version="6.1.0", digest="sha256:0", size_bytes=1, created_at=1.0)


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


NOTHING_YET = FakeImages(images=(), kernels=FakeKernels(()))


async def checks(tmp_path: Path, vmm: FakeVmm | None = None, images: FakeImages | None = None) -> dict[str, Check]:
    layout = Layout.from_environment({"BANGER_HOME": str(tmp_path / "home")})
    findings = await WorkDisk(layout).check_host()
    found = await run_checks(layout, cast(Vmm, vmm or FakeVmm()), cast(ImageService, images or FakeImages()), defaults_for_host(8, 16 << 30), findings)
    assert all(check.remedy for check in found if check.status != "pass" and check.name != "kvm")
    assert len({check.name for check in found}) == len(found)
    return {check.name: check for check in found}


@pytest.fixture
def without(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Hide tools from doctor."""

    def hide(*names: str) -> None:
        real = find_tool

        def find(name: str) -> Path:
            if name in names:
                raise MissingTool(f"{name} is not installed", hint=f"sudo apt-get install {PACKAGES.get(name, name)}")
            return real(name)

        monkeypatch.setattr(doctor, "find_tool", find)
        monkeypatch.setattr("banger.vm.work_disk.find_tool", find)

    return hide


async def test_a_host_with_everything(tmp_path: Path) -> None:
    vmm = FakeVmm()
    found = await checks(tmp_path, vmm)
    assert found["architecture"].status == "pass"
    assert (found["vmm"].status, found["vmm"].detail) == ("pass", "/usr/bin/vmm 1.2")
    assert found["kvm"].status == "pass"
    assert "6.1.0" in found["default image"].detail
    assert found["machine size"].detail == "2 vcpu (auto), 2048 MiB (auto), 8G disk (builtin), 8G system overlay (builtin)"
    assert vmm.probed == [Path("/k/vmlinux")]


async def test_kvm_that_does_not_work_is_a_warning_with_its_reason(tmp_path: Path) -> None:
    slow = VmmProbe(usable=True, binary="/b", version="1", accelerator="tcg", note="you may not open /dev/kvm", hint="usermod")
    kvm = (await checks(tmp_path, FakeVmm(slow)))["kvm"]
    assert (kvm.status, kvm.detail, kvm.remedy) == ("warn", "you may not open /dev/kvm", "usermod")


async def test_no_vmm(tmp_path: Path) -> None:
    missing = VmmProbe(usable=False, note="vmm is not installed", hint="sudo apt-get install vmm")
    found = await checks(tmp_path, FakeVmm(missing))
    assert (found["vmm"].status, found["vmm"].detail, found["vmm"].remedy) == ("fail", missing.note, missing.hint)
    assert "kvm" not in found


async def test_before_the_first_image_nothing_is_run(tmp_path: Path) -> None:
    vmm = InspectingVmm(VmmProbe(usable=True, binary="/b", version="7", accelerator=""))
    found = await checks(tmp_path, vmm, NOTHING_YET)
    assert vmm.probed == []
    assert found["vmm"].detail == "/b 7"
    assert (found["kvm"].status, found["kvm"].remedy) == ("warn", f"banger image pull {DEFAULT_IMAGE}")
    assert found["default image"].status == "pass"
    assert "first use" in found["default image"].detail
    assert (await checks(tmp_path, FakeVmm(), NOTHING_YET))["vmm"].status == "warn"


async def test_an_image_that_is_damaged_or_unknown(tmp_path: Path) -> None:
    assert (await checks(tmp_path, images=FakeImages(damage="rootfs.ext4 is gone")))["default image"].detail == "rootfs.ext4 is gone"
    assert (await checks(tmp_path, images=FakeImages(kernels=FakeKernels(()))))["default image"].status == "warn"
    assert (await checks(tmp_path, images=FakeImages(images=(), kernels=FakeKernels(()), known=())))["default image"].status == "fail"


async def test_missing_packages_are_named_in_one_command(tmp_path: Path, without: Any) -> None:
    without("mmdebstrap", "depmod", "mke2fs", "passt")
    found = await checks(tmp_path, images=NOTHING_YET)
    assert (found["image building"].status, found["image building"].remedy) == ("fail", "sudo apt-get install mmdebstrap kmod")
    assert (found["disks"].status, found["disks"].remedy) == ("fail", "sudo apt-get install e2fsprogs")
    assert (found["passt"].status, found["passt"].remedy) == ("warn", "sudo apt-get install passt")
    assert "127.0.0.1" in found["passt"].detail


async def test_with_an_image_its_builder_may_be_missing(tmp_path: Path, without: Any) -> None:
    without("mmdebstrap")
    assert (await checks(tmp_path))["image building"].status == "warn"


async def test_namespaces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def refused() -> None:
        raise BangerError("no subordinate ids", hint="sudo usermod --add-subuids ...")

    monkeypatch.setattr(namespace, "check", refused)
    for images, status in ((FakeImages(), "warn"), (NOTHING_YET, "fail")):
        found = await checks(tmp_path, images=images)
        assert (found["namespaces"].status, found["image building"].status) == (status, status), "no image can be built without them"
        assert found["image building"].remedy == found["namespaces"].remedy


@pytest.mark.parametrize(("free", "status"), [(100 << 30, "pass"), (3 << 30, "warn"), (1 << 20, "fail")])
async def test_disk_space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: int, status: str) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(0, 0, free))
    assert (await checks(tmp_path))["disk space"].status == status


async def test_the_runtime_directory(tmp_path: Path) -> None:
    assert "will be made" in (await checks(tmp_path))["runtime directory"].detail
    runtime = tmp_path / "home" / "run"
    runtime.mkdir(parents=True, mode=0o700)
    assert (await checks(tmp_path))["runtime directory"].status == "pass"
    runtime.chmod(0o755)
    check = (await checks(tmp_path))["runtime directory"]
    assert (check.status, check.remedy) == ("fail", f"chmod 700 {runtime}")


async def test_memory_and_architecture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_available_memory", lambda: 100 << 20)
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    found = await checks(tmp_path)
    assert found["memory"].status == "warn"
    assert (found["architecture"].status, found["architecture"].detail[:7]) == ("fail", "aarch64")


async def test_no_guest_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> Path:
        raise MissingTool("the guest program is missing", hint="./dev setup")

    monkeypatch.setattr(doctor, "guest_program", missing)
    check = (await checks(tmp_path))["guest program"]
    assert (check.status, check.remedy) == ("fail", "./dev setup")


async def test_a_vmm_that_has_broken_since_it_was_probed_fails(tmp_path: Path) -> None:
    class BrokenVmm(FakeVmm):
        async def inspect(self) -> VmmProbe:
            return VmmProbe(usable=False, note="/b does not run", hint="install it again")

    found = await checks(tmp_path, BrokenVmm())
    assert (found["vmm"].status, found["vmm"].detail, found["vmm"].remedy) == ("fail", "/b does not run", "install it again")
    assert "kvm" not in found
