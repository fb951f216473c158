"""The real helper as a process of its own: root, in a network namespace where somebody else has links and tables too."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from banger.host.installation import format_installation
from banger.model.installation import Installation
from tests.fakes.privileged import PLAN

OWNER = 12345
"""A uid that nobody has."""
FOREIGN_SLOT = 200
FOREIGN_TABLES = """
table inet victim {
  set s { type ipv4_addr; elements = { 10.213.0.2, 192.0.2.1 }; }
  chain c { type filter hook forward priority 0; ip saddr @s counter accept; }
}
table ip filter { chain FORWARD { type filter hook forward priority 0; policy accept; }; }
"""


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
            "addresses": run("ip", "-4", "-n", self.name, "-br", "address"),
            "routes": run("ip", "-4", "-n", self.name, "route", "show", "table", "all"),
            "tables": run(*self.inside("nft", "--stateless", "list", "ruleset")),
            "forwarding": run(*self.inside("cat", "/proc/sys/net/ipv4/ip_forward")),
        }


@contextmanager
def namespace() -> Iterator[Namespace]:
    """One with links and tables of somebody else in it; one link bears the name of a slot's tap."""
    inside = Namespace(f"bng-hostile-{secrets.token_hex(3)}")
    run("ip", "netns", "add", inside.name)
    try:
        run("ip", "-n", inside.name, "link", "set", "lo", "up")
        for link in ("victim0", PLAN.tap(FOREIGN_SLOT)):
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
        path.unlink(missing_ok=True)


@contextmanager
def installed() -> Iterator[Path]:
    """A directory with an installation's file for ``OWNER``, who can reach what is in it."""
    directory = Path(tempfile.mkdtemp(prefix="banger-helper-"))
    installation = Installation(
        owner="nobody-has-it", uid=OWNER, gid=OWNER, home=directory, network=PLAN, version="0", installed_at="2026-11-20T10:00:00Z", reachable=()
    )
    try:
        directory.chmod(0o755)
        (directory / "install.toml").write_text(format_installation(installation))
        (directory / "install.toml").chmod(0o644)
        yield directory
    finally:
        shutil.rmtree(directory)
