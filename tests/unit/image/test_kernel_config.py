"""What a kernel declares, and which ones are refused with the option that is missing."""

from __future__ import annotations

from pathlib import Path

import pytest

from banger.image.kernel_config import BUILT_IN, DRIVERS, Declared, declare, embedded_config, parse, version_of
from banger.model.errors import BadRequest

from .made_kernels import VERSION, config, modules, vmlinux


@pytest.fixture
def kernel(tmp_path: Path) -> Path:
    path = tmp_path / "vmlinux"
    path.write_bytes(vmlinux())
    return path


def test_a_kernel_with_modules(kernel: Path, tmp_path: Path) -> None:
    declared = declare(kernel, modules(tmp_path / "m"), config("m"))
    assert declared == Declared(version=VERSION, virtio="modules", console="ttyS0", format="elf")


def test_a_kernel_with_everything_built_in(kernel: Path, tmp_path: Path) -> None:
    assert declare(kernel, tmp_path / "none", config("y")).virtio == "built in"


def test_modules_alone_are_enough_when_no_configuration_is_known(kernel: Path, tmp_path: Path) -> None:
    assert declare(kernel, modules(tmp_path / "m"), "").virtio == "modules"


@pytest.mark.parametrize("option", BUILT_IN)
def test_each_missing_option_is_named_with_its_reason(kernel: Path, tmp_path: Path, option: str) -> None:
    with pytest.raises(BadRequest) as refused:
        declare(kernel, modules(tmp_path / "m"), config("m", **{option: "m"}))
    assert f"CONFIG_{option}=y is missing ({BUILT_IN[option]})" in refused.value.message
    assert refused.value.message.count("CONFIG_") == 1


@pytest.mark.parametrize(("driver", "option"), DRIVERS.items())
def test_each_missing_driver_is_named(kernel: Path, tmp_path: Path, driver: str, option: str) -> None:
    others = modules(tmp_path / "m", tuple(name for name in DRIVERS if name != driver))
    with pytest.raises(BadRequest, match=f"CONFIG_{option} is not set"):
        declare(kernel, others, config("m", **{option: ""}))
    with pytest.raises(BadRequest, match=f"CONFIG_{option}=m, but {driver}.ko is not among its modules"):
        declare(kernel, others, config("m"))


def test_devices_must_be_findable(kernel: Path, tmp_path: Path) -> None:
    with pytest.raises(BadRequest, match="neither CONFIG_ACPI nor CONFIG_VIRTIO_MMIO_CMDLINE_DEVICES"):
        declare(kernel, modules(tmp_path / "m"), config("m", ACPI=""))
    assert declare(kernel, tmp_path / "m", config("m", ACPI="", VIRTIO_MMIO_CMDLINE_DEVICES="y")).version == VERSION


def test_a_kernel_without_a_pvh_entry_whatever_its_configuration_says(tmp_path: Path) -> None:
    path = tmp_path / "vmlinux"
    path.write_bytes(vmlinux(pvh=False))
    with pytest.raises(BadRequest, match="no PVH entry"):
        declare(path, modules(tmp_path / "m"), config("m"))


def test_nothing_known_about_the_drivers(kernel: Path, tmp_path: Path) -> None:
    with pytest.raises(BadRequest) as refused:
        declare(kernel, tmp_path / "none", "")
    assert "--config" in refused.value.hint


def test_the_configuration_inside_a_kernel(tmp_path: Path) -> None:
    path = tmp_path / "vmlinux"
    path.write_bytes(vmlinux(config=config("y")))
    assert parse(embedded_config(path))["VIRTIO_BLK"] == "y"
    assert declare(path, tmp_path / "none", "").virtio == "built in"


def test_a_damaged_configuration_inside_a_kernel(tmp_path: Path) -> None:
    path = tmp_path / "vmlinux"
    whole = vmlinux(config=config("y"))
    start = whole.index(b"IKCFG_ST")
    path.write_bytes(whole[: start + 30] + b"\xff" * 60)
    with pytest.raises(BadRequest, match=r"damaged|longer"):
        embedded_config(path)


def test_a_file_that_is_no_kernel(tmp_path: Path) -> None:
    path = tmp_path / "vmlinux"
    path.write_bytes(b"\x7fELF" + bytes(1000))
    with pytest.raises(BadRequest, match="does not say which version"):
        version_of(path)
