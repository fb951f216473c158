"""The owner's daemon was taken over: whatever it sends to the real helper, nothing outside its own machines changes and the helper stays as it is.

The helper runs as root in a network namespace of the test, for a uid that nobody has; the attacker is ``tests/fakes/hostile_owner.py`` with that uid.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from banger.host.installation import format_installation
from banger.host.process import start_time_of
from banger.model.installation import Installation
from tests.fakes.privileged import PLAN

pytestmark = [pytest.mark.root, pytest.mark.timeout(240)]

ROOT = Path(__file__).parents[2]
OWNER = 12345
STRANGER = 12346
SLOTS = [2, 3, 200]
FOREIGN_TABLES = """
table inet victim {
  set s { type ipv4_addr; elements = { 10.213.0.2, 192.0.2.1 }; }
  chain c { type filter hook forward priority 0; ip saddr @s counter accept; }
}
table ip filter { chain FORWARD { type filter hook forward priority 0; policy accept; }; }
"""
ALL = ["wrong", "descriptors", "processes", "programs", "network", "vmm", "flood", "half open", "linger"]


def run(*words: str | Path, text: str | None = None) -> str:
    return subprocess.run(words, check=True, input=text, capture_output=True, text=True, timeout=120).stdout


@dataclass(frozen=True)
class Namespace:
    """A network namespace with links and tables of somebody else in it."""

    name: str

    def inside(self, *words: str | Path) -> list[str | Path]:
        # Not `ip netns exec`: it mounts another /sys, without the cgroups.
        return ["nsenter", f"--net=/run/netns/{self.name}", *words]

    def snapshot(self) -> dict[str, Any]:
        """All links, addresses and tables; the counters left out."""
        links = [{key: one[key] for key in ("ifname", "ifindex", "flags", "operstate")} for one in json.loads(run("ip", "-n", self.name, "-j", "link"))]
        return {
            "links": links,
            "addresses": run("ip", "-n", self.name, "-br", "address"),
            "routes": run("ip", "-n", self.name, "route", "show", "table", "all"),
            "tables": run(*self.inside("nft", "--stateless", "list", "ruleset")),
            "forwarding": run(*self.inside("cat", "/proc/sys/net/ipv4/ip_forward")),
        }


@pytest.fixture
def namespace() -> Iterator[Namespace]:
    inside = Namespace(f"bng-hostile-{secrets.token_hex(3)}")
    run("ip", "netns", "add", inside.name)
    try:
        run("ip", "-n", inside.name, "link", "set", "lo", "up")
        for link in ("victim0", PLAN.tap(SLOTS[-1])):  # one bears the name of a slot's tap
            run("ip", "-n", inside.name, "link", "add", link, "type", "bridge")
            run("ip", "-n", inside.name, "link", "set", link, "up")
        run("ip", "-n", inside.name, "address", "add", "192.0.2.1/24", "dev", "victim0")
        run(*inside.inside("nft", "-f", "-"), text=FOREIGN_TABLES)
        yield inside
    finally:
        run("ip", "netns", "delete", inside.name)


@dataclass(frozen=True)
class Helper:
    """A helper's process and its socket."""

    process: subprocess.Popen[bytes]
    socket: Path
    log: Path

    def status(self, field: str) -> int:
        lines = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:"))

    @property
    def descriptors(self) -> int:
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    def calls(self) -> list[dict[str, Any]]:
        return [entry for entry in map(json.loads, self.log.read_text().splitlines()) if entry["message"] == "call"]

    def attacked_by(self, uid: int, attacks: list[str], victims: list[list[int]] | None = None, flood: int = 600) -> list[str]:
        """What the attacker reports: granted and not to be granted."""
        plan = {"attacks": attacks, "victims": victims or [], "flood": flood, "slots": SLOTS}
        words = [sys.executable, "-m", "tests.fakes.hostile_owner", str(self.socket), str(uid), json.dumps(plan)]
        done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=200)
        assert done.returncode == 0, done.stderr[-3000:]
        granted: list[str] = json.loads(done.stdout)
        return granted


@contextmanager
def running(namespace: Namespace, directory: Path) -> Iterator[Helper]:
    """The real helper, started by hand."""
    file, path, log = directory / "install.toml", directory / "helper.sock", directory / "helper.log"
    with log.open("wb") as output:
        words = namespace.inside(sys.executable, "-m", "banger.helper.main", "--socket", path, "--install-file", file)
        process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
    try:
        until = time.monotonic() + 30
        while not path.exists() or "serving" not in log.read_text():
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < until, log.read_text()
            time.sleep(0.02)
        yield Helper(process, path, log)
    finally:
        process.terminate()
        process.wait(30)


@pytest.fixture
def helper(namespace: Namespace) -> Iterator[Helper]:
    directory = Path(tempfile.mkdtemp(prefix="banger-hostile-"))
    installation = Installation(
        owner="nobody-has-it", uid=OWNER, gid=OWNER, home=directory, network=PLAN, version="0", installed_at="2026-11-20T10:00:00Z", reachable=()
    )
    try:
        directory.chmod(0o755)
        (directory / "install.toml").write_text(format_installation(installation))
        (directory / "install.toml").chmod(0o644)
        with running(namespace, directory) as started:
            yield started
    finally:
        shutil.rmtree(directory)


@contextmanager
def victims() -> Iterator[list[list[int]]]:
    """Processes of root and of somebody else, with the start times that a pid gate asks for."""
    processes = [subprocess.Popen(["sleep", "600"], user=uid, group=uid, extra_groups=[]) for uid in (0, STRANGER)]
    try:
        yield [[one.pid, start_time_of(one.pid) or 0] for one in processes]
        assert [one.poll() for one in processes] == [None, None]
    finally:
        for one in processes:
            one.kill()
            one.wait()


def settled(helper: Helper, descriptors: int) -> int:
    """Open descriptors, once what the attacker left behind has timed out."""
    until = time.monotonic() + 30
    while helper.descriptors > descriptors and time.monotonic() < until:
        time.sleep(0.1)
    return helper.descriptors


def test_nothing_of_others_changes_and_the_helper_stays_as_it_is(helper: Helper, namespace: Namespace) -> None:
    assert helper.attacked_by(OWNER, ALL) == []  # the first time it loads what it needs
    assert helper.attacked_by(OWNER, ["network"]) == []
    before, descriptors, memory = namespace.snapshot(), settled(helper, 0 + helper.descriptors), helper.status("VmRSS")
    with victims() as targets:
        assert helper.attacked_by(OWNER, ALL, targets, flood=3000) == []
    assert settled(helper, descriptors) <= descriptors
    assert helper.status("VmRSS") - memory < 6 * 1024
    assert helper.status("Threads") <= 8
    assert namespace.snapshot() == before
    assert [one["ifname"] for one in before["links"]] == ["lo", "victim0", PLAN.tap(SLOTS[-1])]
    assert "table inet victim" in before["tables"]
    assert PLAN.bridge not in before["tables"]
    assert json.loads(helper.attacked_by(OWNER, ["info"])[0])["ok"]["pid"] == helper.process.pid


def test_every_call_has_one_line_with_its_op_id(helper: Helper) -> None:
    helper.attacked_by(OWNER, ["info"])
    (line,) = helper.calls()
    assert (line["verb"], line["result"], line["op_id"], line["peer_uid"]) == ("info", "ok", "op-0123456789ab", OWNER)


def test_another_user_is_refused_twice(helper: Helper) -> None:
    assert helper.socket.stat().st_mode & 0o777 == 0o600
    with pytest.raises(AssertionError, match="PermissionError"):
        helper.attacked_by(STRANGER, ["info"])
    helper.socket.chmod(0o666)
    assert json.loads(helper.attacked_by(STRANGER, ["info"])[0]).get("ok") is None
    assert [(one["result"], one["peer_uid"]) for one in helper.calls()] == [("unauthorized", STRANGER)]


def test_sigterm_ends_it_at_once_also_while_descriptors_linger(helper: Helper) -> None:
    helper.attacked_by(OWNER, ["linger", "half open"])
    helper.process.send_signal(signal.SIGTERM)
    assert helper.process.wait(30) == 0
    assert "stopped" in helper.log.read_text()
