"""The main job from an installed wheel, by an ordinary user without sudo: image build in a user namespace, run, keep, delete."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import oracle
from tests.e2e.conftest import on_disk
from tests.e2e.instance import Instance

pytestmark = [
    pytest.mark.root,
    pytest.mark.timeout(420),
    pytest.mark.skipif(os.getuid() != 0, reason="the whole suite runs as an ordinary user already; making another one needs root"),
]
ROOT = Path(__file__).parents[2]


def install_for_everyone(place: Path) -> Path:
    """A virtual environment that anybody may use, with banger installed from its wheel; returns its programs' directory.

    The dependencies are those of the running environment, copied: it may lie where others cannot look.
    """
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", place, ROOT],
        check=True,
    )
    (wheel,) = place.glob("banger-*.whl")
    subprocess.run(["/usr/bin/python3", "-m", "venv", "--without-pip", place / "venv"], check=True)
    subprocess.run([sys.executable, "-m", "pip", "--python", place / "venv/bin/python", "install", "--quiet", "--no-deps", wheel], check=True)
    installed = next((place / "venv/lib").glob("python3*/site-packages"))
    skipped = shutil.ignore_patterns("banger*", "_banger*", "*.pth", "mypy*", "ruff*", "hypothesis*", "__pycache__")
    shutil.copytree(sysconfig.get_path("purelib"), place / "dependencies", ignore=skipped)
    (installed / "dependencies.pth").write_text(f"{place / 'dependencies'}\n")
    return place / "venv/bin"


@pytest.fixture(scope="module")
def user() -> Iterator[pwd.struct_passwd]:
    """A fresh ordinary user."""
    name = f"banger-test-{os.getpid() % 100000}"
    home = on_disk("banger-user-")
    subprocess.run(["useradd", "--home-dir", home / "home", "--create-home", "--shell", "/bin/sh", name], check=True, capture_output=True)
    try:
        yield pwd.getpwnam(name)
    finally:
        subprocess.run(["userdel", name], check=True, capture_output=True)
        shutil.rmtree(home)


@pytest.fixture(scope="module")
def theirs(user: pwd.struct_passwd) -> Iterator[Instance]:
    """An instance of that user, in their own XDG directories."""
    place = on_disk("banger-installed-")
    bin_directory = install_for_everyone(place)
    environment = [f"HOME={user.pw_dir}", f"USER={user.pw_name}", f"PATH={bin_directory}:/usr/bin:/bin", "LANG=C.UTF-8", f"BANGER_HOME={user.pw_dir}/instance"]
    instance = Instance(Path(user.pw_dir, "instance"), program=("runuser", "-u", user.pw_name, "--", "env", "-i", *environment, "banger"))
    try:
        yield instance
    finally:
        instance.delete_everything()
        shutil.rmtree(place)


def test_the_main_job(theirs: Instance, user: pwd.struct_passwd) -> None:
    done = theirs.run("vm", "run", "--rm", "--", "sh", "-c", "id -u; uname -s; exit 42", timeout=300)
    assert done.status == 42, done.err
    assert done.out.split() == ["0", "Linux"]
    assert oracle.leftovers(theirs) == []
    owners = {path.stat().st_uid for path in theirs.home.rglob("*")}
    assert owners == {user.pw_uid}


def test_owners_survive_the_user_namespace(theirs: Instance) -> None:
    script = "stat -c '%U:%G %a' / /etc/shadow /usr/bin/sudo /tmp; find / -xdev \\( -nouser -o -nogroup \\) | head -n 5"
    assert theirs.ok("vm", "run", "--rm", "--", "sh", "-c", script).splitlines() == ["root:root 755", "root:shadow 640", "root:root 4755", "root:root 1777"]


def test_a_kept_machine_with_network(theirs: Instance) -> None:
    theirs.ok("vm", "run", "-d", "--nat", "--name", "theirs", "--wait", "booted")
    try:
        assert theirs.ok("vm", "exec", "theirs", "--", "systemctl", "is-system-running").strip() == "running"
        assert theirs.ok("vm", "exec", "theirs", "--", "ip", "route", "show", "default").startswith("default via")
        theirs.stop_daemon()
        assert theirs.ok("vm", "exec", "theirs", "--", "hostname") == "theirs\n"
    finally:
        theirs.ok("vm", "delete", "theirs")
    assert oracle.leftovers(theirs) == []
