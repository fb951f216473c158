#!/usr/bin/python3 -IS
"""Stands in for systemctl on a host of the tests: reads the installed units and does what they say, as far as banger's installation depends on it.

Each call is a line of /run/standin/calls. The state of the units is in /run/standin/UNIT: the pid of the process, or 0 for a socket.
"""

from __future__ import annotations

import configparser
import contextlib
import os
import pwd
import signal
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path

STATE = Path("/run/standin")
UNITS = Path("/etc/systemd/system")


def unit(name: str) -> dict[str, dict[str, str]]:
    parser = configparser.RawConfigParser(strict=False)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read(UNITS / name)
    return {section: dict(parser[section]) for section in parser.sections()}


def pid_of(name: str) -> int | None:
    try:
        pid = int((STATE / name).read_text())
    except FileNotFoundError:
        return None
    if pid and not alive(pid):
        return None
    return pid


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def directories(service: dict[str, str], account: pwd.struct_passwd) -> None:
    for key, top in (("StateDirectory", "/var/lib"), ("CacheDirectory", "/var/cache"), ("RuntimeDirectory", "/run")):
        if key in service:
            path = Path(top, service[key])
            path.mkdir(exist_ok=True)
            path.chmod(int(service[key + "Mode"], 8))
            os.chown(path, account.pw_uid, account.pw_gid)


def start(name: str) -> None:
    if not (UNITS / name).exists():
        sys.exit(5)
    if pid_of(name) is not None:
        return
    if name.endswith(".socket"):
        (STATE / name).write_text("0")
        return
    service = unit(name)["Service"]
    account = pwd.getpwnam(service.get("User", "root"))
    directories(service, account)
    notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    path = STATE / (name + ".notify")
    path.unlink(missing_ok=True)
    notify.bind(str(path))
    path.chmod(0o666)
    notify.settimeout(0.1)
    pid = os.fork()
    if not pid:
        run(service, account, path)
    (STATE / name).write_text(str(pid))
    until = time.monotonic() + 30
    while time.monotonic() < until:
        try:
            if b"READY=1" in notify.recv(1000):
                return
        except TimeoutError:
            if os.waitpid(pid, os.WNOHANG)[0]:
                break
    (STATE / name).unlink()
    sys.stderr.write(f"Job for {name} failed.\n")
    sys.exit(1)


def run(service: dict[str, str], account: pwd.struct_passwd, notify: Path) -> None:
    os.setsid()
    os.umask(0o077)
    null = os.open("/dev/null", os.O_RDWR)
    log = os.open(STATE / "journal", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for number, fd in enumerate((null, log, log)):
        os.dup2(fd, number)
    os.initgroups(account.pw_name, int(service.get("Group", account.pw_gid)))
    os.setgid(account.pw_gid)
    os.setuid(account.pw_uid)
    words = service["ExecStart"].split()
    os.execve(words[0], words, {"PATH": "/usr/bin:/bin", "HOME": account.pw_dir, "NOTIFY_SOCKET": str(notify)})


def stop(name: str) -> None:
    pid = pid_of(name)
    if pid:
        os.kill(pid, signal.SIGTERM)
        until = time.monotonic() + 30
        while alive(pid) and time.monotonic() < until:
            time.sleep(0.02)
    (STATE / name).unlink(missing_ok=True)
    if pid is None and not (UNITS / name).exists():
        sys.exit(5)


def wants(name: str) -> Iterator[Path]:
    for wanted in unit(name)["Install"]["WantedBy"].split():
        yield UNITS / f"{wanted}.wants" / name


def enable(name: str) -> None:
    for link in wants(name):
        link.parent.mkdir(exist_ok=True)
        if not link.is_symlink():
            link.symlink_to(UNITS / name)


def disable(name: str) -> None:
    if not (UNITS / name).exists():
        sys.exit(1)
    for link in wants(name):
        link.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            link.parent.rmdir()


def show(name: str) -> None:
    there = (UNITS / name).exists()
    pid = pid_of(name)
    enabled = there and "Install" in unit(name) and all(link.is_symlink() for link in wants(name))
    print(f"LoadState={'loaded' if there else 'not-found'}")
    print(f"ActiveState={'inactive' if pid is None else 'active'}")
    print(f"SubState={'dead' if pid is None else 'running' if pid else 'listening'}")
    print(f"UnitFileState={'' if not there else 'enabled' if enabled else 'disabled'}")
    print(f"MainPID={pid or 0}")


def main() -> None:
    verb, *names = [word for word in sys.argv[1:] if not word.startswith("--")]
    STATE.mkdir(exist_ok=True)
    if verb != "show":
        with (STATE / "calls").open("a") as calls:
            calls.write(" ".join([verb, *names]) + "\n")
    for name in names:
        if verb == "restart" or (verb == "try-restart" and pid_of(name)):
            if pid_of(name) is not None:
                stop(name)
            start(name)
        elif verb in ("start", "stop", "enable", "disable", "show"):
            {"start": start, "stop": stop, "enable": enable, "disable": disable, "show": show}[verb](name)


main()
