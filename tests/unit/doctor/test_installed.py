"""Checks of an installation: on a host made of files, and a whole one on a host of its own."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from banger.doctor import installed
from banger.doctor.ground import Ground
from banger.host.installation import read_installation
from banger.model.errors import Unauthorized
from tests.unit.doctor.grounds import INSTALLATION, make_ground, put, put_installation
from tests.unit.system.private_host import OWNER, PrivateHost

ROOT = pytest.mark.skipif(os.getuid() != 0, reason="files of root's take root")


def test_without_an_installation_nothing_of_it_is_looked_for(tmp_path: Path) -> None:
    ground = make_ground(tmp_path)
    assert installed.interpreter(ground).status == "pass"
    assert {look(ground).status for _, _, look in installed.CHECKS[1:]} == {"skip"}


def test_a_file_that_others_may_write(tmp_path: Path) -> None:
    ground = make_ground(tmp_path)
    put_installation(ground)
    file = ground.at("/etc/banger/install.toml")
    assert read_installation(file, trusted_uid=os.getuid()) == INSTALLATION
    file.chmod(0o666)
    with pytest.raises(Unauthorized) as raised:
        read_installation(file, trusted_uid=os.getuid())
    found = installed.install_file(make_ground(tmp_path, installation_error=raised.value))
    assert (found.status, found.remedy) == ("fail", f"chmod go-w {file}")


@pytest.fixture
def with_code(tmp_path: Path) -> Ground:
    ground = make_ground(tmp_path, installation=INSTALLATION)
    put(ground, "/usr/local/lib/banger/versions/1/banger/cli.py")
    put(ground, "/usr/local/bin/bangerd", "#!/usr/bin/python3 -IS\n", 0o755)
    put(ground, "/etc/systemd/system/bangerd.service")
    return ground


@ROOT
def test_root_s_code(with_code: Ground) -> None:
    assert installed.code(with_code).status == "pass"
    unsafe = with_code.at("/usr/local/lib/banger/versions/1/banger")
    unsafe.chmod(0o777)
    found = installed.code(with_code)
    assert (found.status, found.remedy) == ("fail", f"sudo chown --no-dereference root: {unsafe} && sudo chmod go-w {unsafe}")
    unsafe.chmod(0o755)
    os.chown(with_code.at("/etc/systemd/system/bangerd.service"), 4242, 0)
    assert "bangerd.service" in installed.code(with_code).detail


def test_the_interpreter(with_code: Ground) -> None:
    assert "is gone" in installed.interpreter(with_code).detail
    put(with_code, "/usr/bin/python3")
    assert installed.interpreter(with_code).status == "pass"
    with_code.at("/usr/local/bin/bangerd").unlink()
    assert "is missing" in installed.interpreter(with_code).detail


def doctor(host: PrivateHost, *, uid: int) -> dict[str, dict[str, Any]]:
    done = host.banger("doctor", "--json", uid=uid, python=("/usr/local/bin/banger",))
    assert done.status in (0, 1, 2), done.err
    assert done.out, done.err
    return {check["id"]: check for check in json.loads(done.out)}


@ROOT
@pytest.mark.timeout(180)
def test_an_installed_system(tmp_path: Path) -> None:
    with PrivateHost(tmp_path) as host:
        assert host.banger("system", "install", "--owner", "ada").status == 0
        start_helper(host)
        check_all_is_well(host)
        check_what_has_broken(host)
        assert host.banger("system", "uninstall", "--force", "--purge", python=("/usr/local/bin/banger",)).status == 0


def start_helper(host: PrivateHost) -> None:
    """The systemctl that stands in opens no sockets; without one the helper opens its own."""
    host.run("mkdir", "-p", "-m", "711", "/run/banger-helper")
    host.run("sh", "-c", "setsid /usr/local/lib/banger/bin/banger-helper --socket /run/banger-helper/helper.sock >/run/standin/helper.log 2>&1 &")
    until = time.monotonic() + 30
    while not host.path("/run/banger-helper/helper.sock").exists() and time.monotonic() < until:
        time.sleep(0.05)
    assert host.path("/run/banger-helper/helper.sock").exists(), host.path("/run/standin/helper.log").read_text()


def check_all_is_well(host: PrivateHost) -> None:
    before = host.snapshot()
    for uid in (0, OWNER[1]):
        found = doctor(host, uid=uid)
        trouble = {ident: check for ident, check in found.items() if ident.startswith("installation.") and check["status"] != "pass"}
        assert {ident for ident in trouble if trouble[ident]["status"] != "skip"} == set(), trouble
        assert found["installation.units"]["status"] == "pass"
        assert found["installation.code"]["status"] == "pass"
        assert "answers" in found["installation.helper"]["detail"]
        assert "for ada" in found["installation.install-file"]["detail"]
        assert found["installation.daemon"]["detail"].startswith("pid "), "root asks the owner's daemon too"
        assert "bridge banger0" in found["network.mode"]["detail"]
    after = host.snapshot()
    assert {name for name in before.keys() | after.keys() if before.get(name) != after.get(name) and not _daemons_own(name)} == set()


def _daemons_own(name: str) -> bool:
    """What the daemon writes by itself: its log, its database."""
    return name.startswith(("/var/lib/banger/banger", "/var/cache/banger"))


def check_what_has_broken(host: PrivateHost) -> None:
    host.run("chmod", "777", "/usr/local/lib/banger")
    host.run("chmod", "666", "/run/banger-helper/helper.sock")
    found = doctor(host, uid=0)
    assert [found[f"installation.{word}"]["status"] for word in ("code", "sockets")] == ["fail", "fail"]
    done = host.banger("doctor", "--json", "--fix", "--yes", python=("/usr/local/bin/banger",))
    fixed = {check["id"]: check for check in json.loads(done.out)}
    for word in ("code", "sockets"):
        assert (fixed[f"installation.{word}"]["fix"], fixed[f"installation.{word}"]["status"]) == ("fixed", "pass")
    host.run("systemctl", "stop", "bangerd.service")
    found = doctor(host, uid=OWNER[1])
    assert (found["installation.daemon"]["status"], found["installation.daemon"]["remedy"]) == ("fail", "sudo banger system restart")
    assert found["installation.units"]["remedy"] == "sudo banger system restart"
