"""Checks of what runs machines."""

from __future__ import annotations

import os
import subprocess
import tempfile
from pathlib import Path

import pytest

from banger.doctor import cgroups, virtualisation
from banger.doctor.images import IMAGE_TOOLS, tools
from banger.doctor.outcome import Result
from banger.doctor.packages import missing_tools
from tests.unit.doctor.grounds import BRIDGED, make_ground, put

INTEL = "vendor_id : GenuineIntel\nflags : fpu vmx sse\n"
AMD = "vendor_id : AuthenticAMD\nflags : fpu svm sse\n"
GUEST = "vendor_id : GenuineIntel\nflags : fpu hypervisor sse\n"
V1 = "1 1 0:1 / /sys/fs/cgroup/cpu rw - cgroup c rw,cpu\n2 1 0:2 / /sys/fs/cgroup/memory rw - cgroup c rw,memory\n"


def test_the_processor(tmp_path: Path) -> None:
    ground = make_ground(tmp_path)
    put(ground, "/proc/cpuinfo", INTEL)
    assert virtualisation.processor(ground) == Result("pass", "Intel VT-x")
    put(ground, "/proc/cpuinfo", AMD)
    assert virtualisation.processor(ground) == Result("pass", "AMD-V")
    put(ground, "/proc/cpuinfo", GUEST)
    assert "nested" in virtualisation.processor(ground).remedy
    put(ground, "/dev/kvm")
    assert virtualisation.processor(ground).status == "pass", "a paravirtual KVM shows no flag"


def test_no_kvm(tmp_path: Path) -> None:
    ground = make_ground(tmp_path)
    put(ground, "/proc/cpuinfo", AMD)
    found = virtualisation.kvm(ground)
    assert (found.status, found.remedy) == ("warn", "sudo modprobe kvm_amd && echo kvm_amd | sudo tee /etc/modules-load.d/banger-kvm_amd.conf")
    assert found.fix is not None
    assert found.fix.who == "root"
    put(ground, "/proc/cpuinfo", GUEST)
    assert virtualisation.kvm(ground).fix is None, "no module helps a processor that cannot"


def test_a_device_that_is_not_kvm(tmp_path: Path) -> None:
    ground = make_ground(tmp_path)
    put(ground, "/dev/kvm")
    found = virtualisation.kvm(ground)
    assert (found.status, "makes no machine" in found.detail) == ("warn", True)


@pytest.mark.skipif(os.getuid() != 0, reason="another user's view takes root")
@pytest.mark.parametrize(("gid", "mode", "remedy"), [(7, 0o660, "sudo usermod -aG lp nobody"), (0, 0o600, "sudo groupadd --force --system kvm && ")])
def test_kvm_that_this_user_may_not_open(gid: int, mode: int, remedy: str) -> None:
    with tempfile.TemporaryDirectory() as place:
        ground = make_ground(Path(place), uid=65534, user="nobody")
        os.chown(put(ground, "/dev/kvm", mode=mode), 0, gid)
        Path(place).chmod(0o755)
        child = os.fork()
        if child == 0:
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
            found = virtualisation.kvm(ground)
            os._exit(0 if found.status == "warn" and found.remedy.startswith(remedy) and "nobody may not open" in found.detail else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_programs_that_are_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "empty").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    monkeypatch.setattr("banger.host.run.SEARCH_PATH", str(tmp_path / "empty"))
    ground = make_ground(tmp_path)
    assert virtualisation.qemu(ground).status == "fail"
    assert virtualisation.disks(ground).remedy == "install what Debian calls e2fsprogs", "no apt to do it with"
    assert (tools(ground).status, "mmdebstrap" in tools(ground).detail) == ("fail", True)
    monkeypatch.undo()
    assert tools(ground).detail == ", ".join(IMAGE_TOOLS)
    found = missing_tools(["mmdebstrap", "depmod"], "no images")
    assert found.remedy == "sudo apt-get install mmdebstrap kmod"
    assert found.fix is not None
    assert found.fix.text() == "sudo apt-get install --yes mmdebstrap kmod"


def test_qemu_that_is_broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / virtualisation.QEMU
    program.write_text("#!/bin/sh\necho broken >&2; exit 3\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    found = virtualisation.qemu(make_ground(tmp_path))
    assert (found.status, "broken" in found.detail, "reinstall" in found.remedy) == ("fail", True, True)


def test_taps(tmp_path: Path) -> None:
    ground = make_ground(tmp_path)
    assert virtualisation.tun(ground).status == "skip", "only a bridge needs them"
    bridged = make_ground(tmp_path, config=BRIDGED)
    assert (virtualisation.tun(bridged).status, virtualisation.tun(bridged).remedy[:17]) == ("fail", "sudo modprobe tun")
    device = put(bridged, "/dev/net/tun", mode=0o666)
    assert virtualisation.tun(bridged).status == "pass"
    device.unlink()
    device.mkdir(mode=0o777)
    found = virtualisation.tun(bridged)
    assert (found.status, "does not open" in found.detail, found.remedy[:17]) == ("fail", True, "sudo modprobe tun")


def test_cgroups(tmp_path: Path) -> None:
    ground = make_ground(tmp_path)
    put(ground, "/proc/self/cgroup", "1:cpu:/\n2:memory:/\n")
    put(ground, "/proc/self/mountinfo", "")
    assert "mount -t cgroup2" in cgroups.groups(ground).remedy
    put(ground, "/proc/self/mountinfo", V1)
    found = cgroups.groups(ground)
    assert (found.status, "version 1: cpu, memory; not io, pids" in found.detail) == ("warn", True)


def test_who_may_bound_machines(tmp_path: Path) -> None:
    assert cgroups.limits(make_ground(tmp_path, uid=0)).status == "pass"
    ada = make_ground(tmp_path, uid=4242, user="ada")
    assert cgroups.limits(ada).status == "skip", "no systemd on this host of files"
    ada.at("/run/systemd/system").mkdir(parents=True)
    assert cgroups.limits(ada).remedy == "sudo loginctl enable-linger ada"
    ada.at("/run/user/4242/systemd").mkdir(parents=True)
    controllers = "/sys/fs/cgroup/user.slice/user-4242.slice/user@4242.service/cgroup.controllers"
    put(ada, controllers, "memory pids\n")
    found = cgroups.limits(ada)
    assert (found.status, "cpu" in found.detail, "Delegate=" in found.remedy) == ("warn", True, True)
    put(ada, controllers, "cpu io memory pids\n")
    assert cgroups.limits(ada).status == "pass"


def test_the_delegation_is_what_systemd_reads(tmp_path: Path) -> None:
    ada = make_ground(tmp_path, uid=4242, user="ada")
    ada.at("/run/user/4242/systemd").mkdir(parents=True)
    put(ada, "/sys/fs/cgroup/user.slice/user-4242.slice/user@4242.service/cgroup.controllers", "memory\n")
    text = cgroups.limits(ada).remedy.replace("sudo ", "").replace("/etc/systemd", str(tmp_path / "systemd")).partition(" && systemctl")[0]
    subprocess.run(["sh", "-c", text], check=True, stdout=subprocess.DEVNULL)
    assert (tmp_path / "systemd/system/user@.service.d/banger.conf").read_text() == "[Service]\nDelegate=cpu cpuset io memory pids\n"
