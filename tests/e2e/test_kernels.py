"""Another kernel than the default one: got, booted, noted, carried away, refused to go while it is used."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.containers import busybox_tar
from tests.e2e.instance import Instance

NEWER = "debian-cloud-6.12"
IMAGE = "tiny-on-newer"


@pytest.fixture(scope="module")
def newer(instance: Instance, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """An image that boots with Debian's newer kernel."""
    assert NEWER in instance.ok("kernel", "list", "--available")
    assert instance.ok("kernel", "pull", NEWER).strip() == NEWER
    tar = tmp_path_factory.mktemp("kernels") / "tiny.tar"
    tar.write_bytes(busybox_tar())
    instance.ok("image", "import", str(tar), "--name", IMAGE, "--kernel", NEWER)
    yield IMAGE
    instance.ok("image", "delete", IMAGE)
    instance.ok("kernel", "delete", NEWER)
    assert NEWER not in instance.ok("kernel", "list")


def test_the_newer_kernel_boots_and_the_machine_says_so(instance: Instance, newer: str) -> None:
    kernel = instance.json("kernel", "show", NEWER)
    assert kernel["version"].startswith("6.12.") and kernel["virtio"] == "modules"
    assert instance.ok("vm", "run", "--name", "newer", "--image", newer, "--", "cat", "/proc/version").split()[2] == kernel["version"]
    runtime = instance.json("vm", "show", "newer")["record"]["runtime"]
    assert (runtime["kernel_name"], runtime["kernel_version"], runtime["kernel_digest"]) == (NEWER, kernel["version"], kernel["digest"])
    refused = instance.run("kernel", "delete", NEWER)
    assert refused.status != 0 and "used by the machine newer" in refused.err
    instance.ok("vm", "delete", "newer")
    assert f"used by the image {IMAGE}" in instance.run("kernel", "delete", NEWER).err


def test_a_bundle_goes_round(instance: Instance, newer: str, tmp_path: Path) -> None:
    bundle = tmp_path / "newer.tar.zst"
    instance.ok("kernel", "export", NEWER, "-o", str(bundle))
    instance.ok("kernel", "pull", str(bundle), "--name", "carried")
    first, second = (instance.json("kernel", "show", name) for name in (NEWER, "carried"))
    assert (first["digest"], first["version"]) == (second["digest"], second["version"])
    instance.ok("kernel", "delete", "carried")


def test_what_lacks_an_option_is_refused_by_its_name(instance: Instance, newer: str, tmp_path: Path) -> None:
    kernel = Path(instance.json("kernel", "show", NEWER)["path"])
    config = tmp_path / "config"
    config.write_text((kernel / "config").read_text().replace("CONFIG_OVERLAY_FS=m", "# CONFIG_OVERLAY_FS is not set").replace("CONFIG_PVH=y", ""))
    words = ("kernel", "import", "lame", "--vmlinux", str(kernel / "vmlinux"), "--config", str(config), "--json")
    refused = instance.run(*words)
    assert refused.status != 0
    message = json.loads(refused.err.splitlines()[-1])["error"]["message"]
    assert "CONFIG_OVERLAY_FS is not set" in message and "CONFIG_PVH=y is missing" in message
    assert "lame" not in instance.ok("kernel", "list")
