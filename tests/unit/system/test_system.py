"""An installation's whole life on a host of its own, with the real daemon run as the owner by a systemctl that stands in."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from banger import __version__
from tests.unit.system.private_host import OTHER, OWNER, PrivateHost, other_version

pytestmark = [
    pytest.mark.root,
    pytest.mark.timeout(240),
    pytest.mark.skipif(os.getuid() != 0, reason="a host of one's own takes root"),
]
MAKE_NETWORK = """
import asyncio
import sys
sys.path.insert(0, "/usr/local/lib/banger/current")
from banger.helper.main import compose
from banger.host.installation import read_installation
asyncio.run(compose(read_installation()).ops.network.ensure_network())
"""


@pytest.fixture
def host(tmp_path: Path) -> Iterator[PrivateHost]:
    with PrivateHost(tmp_path) as host:
        yield host


def uninstall(host: PrivateHost, *words: str) -> None:
    """By the installed program, while there is one."""
    there = host.path("/usr/local/bin/banger").exists()
    done = host.banger("system", "uninstall", *words, python=("/usr/local/bin/banger",) if there else None)
    assert done.status == 0, done.err


def _python() -> str:
    return sys.executable


def test_a_life(host: PrivateHost, tmp_path: Path) -> None:
    untouched = host.snapshot()
    planned = host.banger("system", "install", "--owner", "ada", "--dry-run")
    assert planned.status == 0, planned.err
    assert host.snapshot() == untouched
    assert host.calls() == []
    steps = planned.out.splitlines()
    assert steps.index("write /etc/systemd/system/bangerd.service (0644)") < steps.index("run systemctl daemon-reload")
    assert steps[-1] == "wait until the daemon answers"

    done = host.banger("system", "install", "--owner", "ada", "--reachable", "192.168.7.0/24")
    assert (done.status, done.out) == (0, f"installed banger {__version__} for ada\n"), done.err
    assert host.calls()[:2] == ["daemon-reload", "enable banger-helper.socket bangerd.service"]
    check_who_talks_to_whom(host)
    check_nothing_can_be_written(host)

    # Once more: nothing is to be done, and nothing is.
    installed = host.snapshot()
    again = host.banger("system", "install")
    assert (again.status, again.out) == (0, f"banger {__version__} is installed for ada, and nothing had to be changed\n")
    assert host.calls() == []
    assert host.snapshot() == installed
    # The installed program can do it too.
    assert json.loads(host.banger("system", "install", "--json", python=("/usr/local/bin/banger",)).out)["steps"] == []

    check_status(host)
    pid = daemon(host)["pid"]
    assert host.banger("system", "restart").status == 0
    assert daemon(host)["pid"] != pid

    check_upgrade(host, tmp_path)
    check_uninstall(host, untouched)


def daemon(host: PrivateHost) -> dict[str, object]:
    found: dict[str, object] = json.loads(host.banger("daemon", "status", "--json", uid=OWNER[1]).out)
    return found


def check_who_talks_to_whom(host: PrivateHost) -> None:
    shown = daemon(host)
    assert (shown["socket"], shown["state_directory"]) == ("/run/banger/bangerd.sock", "/var/lib/banger")
    assert host.path(f"/proc/{shown['pid']}").exists()
    assert json.loads(host.banger("vm", "list", "--json", uid=OWNER[1]).out) == []
    # Another user has an instance of their own, and sees nothing of this one; nor has root.
    theirs = host.banger("daemon", "status", "--json", uid=OTHER[1])
    assert json.loads(theirs.out)["socket"].startswith("/tmp/banger-runtime-4243/")
    assert json.loads(host.banger("daemon", "status", "--json", python=("/usr/local/bin/banger",)).out)["socket"] == "/tmp/banger-runtime-0/bangerd.sock"
    for path in ("/run/banger", "/var/lib/banger", "/var/cache/banger"):
        assert host.run("ls", path, uid=OTHER[1]).status == 2
    refused = host.run("env", "BANGER_SOCKET=/run/banger/bangerd.sock", "/usr/local/bin/banger", "vm", "list", uid=OTHER[1])
    assert refused.status == 1
    # Nobody but systemd starts this daemon, and never as somebody else.
    for uid in (0, OTHER[1]):
        assert "runs as ada (uid 4242)" in host.run("/usr/local/bin/bangerd", "--system", uid=uid).err


def check_nothing_can_be_written(host: PrivateHost) -> None:
    """What root executes or believes belongs to root, up to the top."""
    for top in ("/usr/local/lib/banger", "/usr/local/bin", "/etc/banger"):
        for path in (host.path(top), *host.path(top).rglob("*")):
            info = path.lstat()
            assert info.st_uid == 0, path
            assert path.is_symlink() or not info.st_mode & 0o022, path
    for name in ("/usr/local/bin/banger", "/usr/local/bin/bangerd", "/usr/local/lib/banger/bin/banger-helper"):
        hostile = host.run("env", "PYTHONPATH=/run/homes/ada", "PYTHONSTARTUP=/run/homes/ada/x", name, "--version", uid=OWNER[1])
        assert __version__ in hostile.out, hostile.err
    evil = host.path("/run/homes/ada/socket.py")
    evil.write_text("raise SystemExit('evil')")
    done = host.run("sh", "-c", "cd /run/homes/ada && exec /usr/local/lib/banger/bin/banger-helper --version")
    assert __version__ in done.out, done.err
    evil.unlink()


def check_status(host: PrivateHost) -> None:
    shown = json.loads(host.banger("system", "status", "--json").out)
    assert shown["installation"]["reachable"] == ["192.168.7.0/24"]
    assert shown["daemon"]["pid"] == daemon(host)["pid"]
    assert [(one["name"], one["active"], one["enabled"]) for one in shown["units"]] == [
        ("banger-helper.socket", "active", "enabled"),
        ("banger-helper.service", "inactive", "disabled"),
        ("bangerd.service", "active", "enabled"),
    ]
    text = host.banger("system", "status", uid=OWNER[1]).out
    assert "owner" in text
    assert "bangerd.service" in text
    # For a daemon that has died: the status says so, the owner's commands name the remedy, and a restart heals it.
    pid = daemon(host)["pid"]
    host.run("kill", "-KILL", str(pid))
    dead = host.banger("system", "status")
    assert (dead.status, "does not answer" in dead.out) == (1, True)
    assert "sudo banger system restart" in host.banger("vm", "list", uid=OWNER[1]).err
    assert host.banger("system", "restart").status == 0


def check_upgrade(host: PrivateHost, scratch: Path) -> None:
    before = daemon(host)
    source = host.path(f"/usr/local/lib/banger/versions/{__version__}")
    newer = other_version(source, scratch / "newer", "98.0")
    done = host.banger("system", "install", python=newer)
    assert (done.status, done.out) == (0, "installed banger 98.0 for ada\n"), done.err
    after = daemon(host)
    assert (after["version"], after["pid"] != before["pid"]) == ("98.0", True)
    assert os.readlink(host.path("/usr/local/lib/banger/current")) == "versions/98.0"
    assert 'version = "98.0"' in host.path("/etc/banger/install.toml").read_text()
    assert '"192.168.7.0/24"' in host.path("/etc/banger/install.toml").read_text()

    installed = host.snapshot()
    host.calls()
    broken = host.banger("system", "install", python=other_version(source, scratch / "broken", "99.0", broken=True))
    assert broken.status == 1
    assert "bangerd.service does not start" in broken.err
    assert {name: what for name, what in host.snapshot().items() if not changes_by_itself(name)} == {
        name: what for name, what in installed.items() if not changes_by_itself(name)
    }
    assert daemon(host)["version"] == "98.0"


def changes_by_itself(name: str) -> bool:
    """What the daemon writes whenever it runs."""
    return name.startswith(("/var/lib/banger/", "/run/banger/"))


def check_uninstall(host: PrivateHost, untouched: dict[str, str]) -> None:
    config = host.path("/etc/banger/config.toml")
    config.write_text('log_level = "debug"\n')
    assert "use the installed program" in host.banger("system", "uninstall").err
    pid = int(str(daemon(host)["pid"]))
    made = host.run("/usr/bin/python3", "-IS", "-c", MAKE_NETWORK)
    assert made.status == 0, made.err
    assert host.run("ip", "link", "show", "banger0").status == 0
    before = host.snapshot()
    planned = host.run(_python(), "-m", "banger.cli.main", "system", "uninstall", "--dry-run")
    assert planned.out.splitlines()[0].startswith("stop and disable")
    assert host.snapshot() == before
    uninstall(host)
    ended = host.path(f"/proc/{pid}/cmdline")
    assert not ended.exists() or ended.read_bytes() == b"", "what has ended and waits for its parent has no words"
    assert host.run("ip", "link", "show", "banger0").status == 1
    assert "banger" not in host.run("nft", "list", "tables").out
    left = {name for name in host.snapshot() if not name.startswith("/var/lib/banger/")} - set(untouched)
    assert left == {"/etc/banger", "/etc/banger/config.toml", "/var/lib/banger", "/var/cache/banger"}
    uninstall(host, "--purge")
    assert host.snapshot() == untouched
    assert host.banger("system", "uninstall").out == "nothing is installed\n"
    assert host.banger("system", "status").status == 1


def test_an_installation_that_fails_leaves_nothing(host: PrivateHost, tmp_path: Path) -> None:
    untouched = host.snapshot()
    assert host.banger("system", "install", "--owner", "ada", "--root", str(tmp_path / "staged")).status == 0
    source = tmp_path / "staged/usr/local/lib/banger/versions" / __version__
    assert host.snapshot() == untouched
    broken = other_version(source, tmp_path / "broken", "99.0", broken=True)
    done = host.banger("system", "install", "--owner", "ada", python=broken)
    assert done.status == 1
    assert "bangerd.service does not start" in done.err
    left = {name: what for name, what in host.snapshot().items() if not name.startswith(("/var/", "/run/"))}
    assert left == {name: what for name, what in untouched.items() if not name.startswith(("/var/", "/run/"))}


@pytest.mark.parametrize(
    ("prepare", "words", "message"),
    [
        ("true", ("--owner", "nobody-here"), "there is no user 'nobody-here'"),
        ("true", ("--owner", "root"), "root, which cannot be the owner"),
        ("true", (), "nothing says whose machines"),
        ("true", ("--owner", "ada", "--subnet", "8.8.8.0/24"), "cannot be the machines' subnet"),
        ("true", ("--owner", "ada", "--bridge", "no/bridge"), "cannot name a bridge"),
        ("true", ("--owner", "ada", "--reachable", "x"), "--reachable"),
        ("mount -o remount,ro /etc", ("--owner", "ada"), "/etc is on a read-only file system"),
        ("rmdir /run/systemd/system", ("--owner", "ada"), "not run by systemd"),
        ("chown 4242 /usr/local/bin", ("--owner", "ada"), "ada could change /usr/local/bin"),
        ("chmod 777 /usr/local/lib", ("--owner", "ada"), "ada could change /usr/local/lib"),
        ("echo hello > /usr/local/bin/banger", ("--owner", "ada"), "was not put there by `banger system install`"),
        ("mkdir -p /var/lib/banger; chown 4243 /var/lib/banger", ("--owner", "ada"), "belongs to uid 4243"),
        ("mkdir /etc/banger; echo x > /etc/banger/install.toml", ("--owner", "ada"), "not an installation's file"),
    ],
)
def test_what_is_refused(host: PrivateHost, prepare: str, words: tuple[str, ...], message: str) -> None:
    assert host.run("sh", "-c", prepare).status == 0
    before = host.snapshot()
    done = host.banger("system", "install", *words)
    assert done.status in (1, 2)
    assert message in done.err
    assert "hint: " in done.err
    assert host.snapshot() == before
    assert not any(call.startswith("enable") for call in host.calls())


def test_nobody_but_the_first_owner(host: PrivateHost) -> None:
    assert host.banger("system", "install", "--owner", "ada").status == 0
    before = host.snapshot()
    second = host.banger("system", "install", "--owner", "bob")
    assert second.status == 1
    assert "for ada (uid 4242)" in second.err
    assert "system uninstall" in second.err
    for verb in ("install", "restart", "uninstall"):
        refused = host.banger("system", verb, uid=OWNER[1])
        assert (refused.status, "only root" in refused.err) == (1, True)
    assert host.snapshot().keys() == before.keys()


def test_killed_in_the_middle_and_run_again(host: PrivateHost) -> None:
    """A run that was killed at any point is finished by the next one, and can be uninstalled."""
    untouched = host.snapshot()
    program = (
        "import os, signal, sys; from banger.system import install; made = [0]\n"
        "def make(change, was=install._make):\n"
        "    made[0] += 1\n"
        f"    if made[0] == int(os.environ['STOP_AT']): os.kill(os.getpid(), {signal.SIGKILL.value})\n"
        "    return was(change)\n"
        "install._make = make; from banger.cli.main import main; sys.exit(main())"
    )
    for stop_at in (1, 8, 14, 30):
        killed = host.run("env", f"STOP_AT={stop_at}", _python(), "-c", program, "system", "install", "--owner", "ada")
        assert killed.status in (-9, 137)
    done = host.banger("system", "install", "--owner", "ada")
    assert done.status == 0, done.err
    uninstall(host, "--purge")
    assert host.snapshot() == untouched
