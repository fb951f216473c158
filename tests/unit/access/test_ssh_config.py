"""The generated ssh_config, as OpenSSH itself reads it: paths with everything in them that has a meaning there."""

from __future__ import annotations

import os
import shlex
import subprocess
from pathlib import Path

import pytest

from banger.access.known_hosts import HostPins
from banger.access.ssh_config import command_for_env, include_line, instance_words, program, proxy_command, quoted, render
from banger.host.paths import Layout
from banger.model.errors import BadRequest

HOSTILE = "a b'c\"d%n e\\f#g=h$i`j;k*l?[m]~n&"


def effective(config: Path, host: str = "box.vm") -> dict[str, str]:
    """What ``ssh -G`` makes of a configuration."""
    done = subprocess.run(["ssh", "-F", config, "-G", host], capture_output=True, text=True, check=True)
    return {key: value for key, _, value in (line.partition(" ") for line in done.stdout.splitlines())}


@pytest.mark.parametrize("name", ["plain", HOSTILE])
def test_ssh_understands_it(tmp_path: Path, name: str) -> None:
    layout = Layout.from_environment({"BANGER_HOME": str(tmp_path / name)})
    layout.ssh.mkdir(parents=True)
    layout.ssh_config.write_text(render(layout))
    options = effective(layout.ssh_config)
    assert (options["user"], options["port"], options["identitiesonly"], options["stricthostkeychecking"]) == ("root", "22", "yes", "true")
    assert (options["passwordauthentication"], options["preferredauthentications"], options["updatehostkeys"]) == ("no", "publickey", "false")
    assert options["globalknownhostsfile"] == "/dev/null"
    assert effective(layout.ssh_config, "other.example")["user"] != "root" or os.getuid() == 0


def test_ssh_runs_exactly_these_words(tmp_path: Path) -> None:
    """Through ssh's own expansion and the user's shell to a program that notes what it got."""
    place = tmp_path / HOSTILE
    place.mkdir()
    script = place / "note"
    script.write_text('#!/bin/sh\nprintf "%s\\n" "$BANGER_HOME" "$0" "$@" >"$(dirname "$0")/words"\n')
    script.chmod(0o755)
    command = proxy_command(("/usr/bin/env", "-u", "BANGER_SOCKET", f"BANGER_HOME={place}", *command_for_env((str(script),))))
    known = place / "known_hosts"
    config = tmp_path / "config"
    config.write_text(f"Host *.vm\n  UserKnownHostsFile {quoted(known)}\n  ProxyCommand {command}\n")
    done = subprocess.run(["ssh", "-F", config, "-o", "BatchMode=yes", "-p", "2022", "box.vm", "true"], capture_output=True, text=True, timeout=20)
    assert done.returncode == 255, done.stderr
    assert (place / "words").read_text().splitlines() == [str(place), str(script), "vm", "connect", "box.vm", "2022"]


def test_include_finds_the_file_whatever_its_name(tmp_path: Path) -> None:
    place = tmp_path / HOSTILE
    place.mkdir()
    (place / "config").write_text("Host *.vm\n  User found\n")
    own = tmp_path / "own"
    own.write_text(include_line(place / "config") + "\nHost *\n  Port 77\n")
    assert effective(own)["user"] == "found"
    other = effective(own, "elsewhere")
    assert other["port"] == "77" and other["user"] != "found"  # what comes after the Include is not inside of its Host


@pytest.mark.parametrize("name", ["a\nb", "a\rb", "a${HOME}b"])
def test_what_ssh_cannot_name_is_refused(name: str) -> None:
    with pytest.raises(BadRequest):
        render(Layout.from_environment({"BANGER_HOME": f"/tmp/{name}"}))


def layout_of(environment: dict[str, str]) -> Layout:
    return Layout.from_environment(environment)


@pytest.mark.parametrize(
    "environment",
    [
        {"BANGER_HOME": "/srv/my banger"},
        {"HOME": "/home/x"},
        {"HOME": "/home/x", "XDG_RUNTIME_DIR": "/run/user/7"},
        {"HOME": "/home/x", "XDG_STATE_HOME": "/s", "XDG_CONFIG_HOME": "/c", "XDG_CACHE_HOME": "/k", "XDG_RUNTIME_DIR": "/r"},
    ],
)
def test_the_words_mean_the_instance_whatever_the_caller_has_set(environment: dict[str, str]) -> None:
    layout = layout_of(environment)
    env, *words = instance_words(layout)
    assert env == "/usr/bin/env"
    theirs = {"HOME": "/elsewhere", "BANGER_HOME": "/b", "BANGER_SOCKET": "/b/s", "XDG_STATE_HOME": "/o", "XDG_RUNTIME_DIR": "/o/r"}
    seen = subprocess.run([env, *words, "env", "-0"], env=theirs, capture_output=True, text=True, check=True).stdout
    after = dict(pair.split("=", 1) for pair in seen.split("\0") if pair)
    assert layout_of(after) == layout and "BANGER_SOCKET" not in after


def test_the_program_is_absolute() -> None:
    assert Path(program()[0]).is_absolute()
    assert shlex.join(program())


def test_pins_come_and_go(tmp_path: Path) -> None:
    path = tmp_path / "known_hosts"
    pins = HostPins(path)
    pins.pin("1", "box", "ssh-ed25519 AAAA")
    pins.pin("2", "able", "ssh-ed25519 BBBB")
    assert path.read_text() == "able.vm ssh-ed25519 BBBB\nbox.vm ssh-ed25519 AAAA\n"
    assert path.stat().st_mode & 0o777 == 0o600
    pins.forget("1")
    pins.forget("unknown")
    assert path.read_text() == "able.vm ssh-ed25519 BBBB\n"
    pins.pin("3", "box", "ssh-ed25519 CCCC")  # a new machine of the same name
    assert "box.vm ssh-ed25519 CCCC\n" in path.read_text()
    pins.load({"3": ("box", "ssh-ed25519 CCCC")})
    assert path.read_text() == "box.vm ssh-ed25519 CCCC\n"
    found = subprocess.run(["ssh-keygen", "-F", "box.vm", "-f", path], capture_output=True, text=True)
    assert found.returncode in (0, 1)  # the file is one that OpenSSH reads, though these are no keys
