"""``doctor``: what is shown, its exit status, and --fix."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from banger.client import start as start_module
from banger.doctor import run as run_module
from banger.doctor.ground import Ground
from banger.doctor.outcome import Result, commands, failed, passed, skipped, warned
from banger.doctor.run import Probe
from tests.unit.cli.conftest import Shell
from tests.unit.client.fake_daemon import FakeDaemon, Reply, failure

KVM = {"id": "virtualisation.kvm", "name": "kvm", "status": "pass", "detail": "a test guest runs", "remedy": ""}


@pytest.fixture
def probes(monkeypatch: pytest.MonkeyPatch) -> list[Probe]:
    """Fill it with what shall be looked at."""
    chosen: list[Probe] = []
    monkeypatch.setattr(run_module.run_checks, "__defaults__", (chosen,))
    return chosen


def probe(ident: str, name: str, result: Result) -> Probe:
    return Probe(ident, name, lambda _: result)


def test_what_is_shown(home: Path, banger: Shell, probes: list[Probe]) -> None:
    probes += [
        probe("network.a", "a card", skipped("no bridge")),
        probe("network.b", "another", skipped("no bridge")),
        probe("host.disk-space", "disk space", warned("little\x1b[31m", "free some")),
        probe("host.memory", "memory", passed("plenty")),
    ]
    result = banger("doctor")
    assert result.status == 1
    assert result.out.splitlines() == [
        "host",
        "  WARN  disk space  little\N{REPLACEMENT CHARACTER}[31m",
        "                    -> free some",
        "  PASS  memory      plenty",
        "network",
        "  SKIP  no bridge (a card, another)",
    ]
    assert not home.exists()


@pytest.mark.parametrize(("result", "status"), [(passed("yes"), 0), (skipped("no"), 0), (warned("hm", "do"), 1), (failed("no", "do"), 2)])
def test_the_exit_status(home: Path, banger: Shell, probes: list[Probe], result: Result, status: int) -> None:
    probes.append(probe("host.x", "x", result))
    assert banger("doctor").status == status
    (check,) = banger("doctor", "--json").json
    assert (check["id"], check["group"], check["status"], check["fixable"]) == ("host.x", "host", result.status, False)


def test_no_daemon_is_started(home: Path, banger: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(start_module, "start_daemon", lambda _: pytest.fail("started"))
    checks = {check["id"]: check for check in banger("doctor", "--json").json}
    assert checks["installation.daemon"]["status"] == "pass"
    assert not home.exists()


def test_the_daemon_is_asked(daemon: FakeDaemon, banger: Shell, probes: list[Probe]) -> None:
    probes.append(probe("virtualisation.kvm", "kvm", warned("you may not open it", "usermod")))
    daemon.routes["GET /v1/doctor"] = Reply([KVM])
    assert banger("doctor").out == "virtualisation\n  PASS  kvm  a test guest runs\n"
    daemon.routes["GET /v1/doctor"] = failure(500, "internal", "broken")
    result = banger("doctor")
    assert (result.status, "FAIL  daemon's checks  broken" in result.out) == (2, True)


def test_fix_asks_and_says_what_it_does(home: Path, tmp_path: Path, banger: Shell, probes: list[Probe]) -> None:
    made = tmp_path / "made"

    def look(_: Ground) -> Result:
        return passed("there") if made.exists() else failed("not there", commands(f"mkdir {made}", who="owner"))

    probes.append(Probe("host.made", "made", look))
    asked = banger("doctor", "--fix")
    assert (asked.status, made.exists()) == (2, False)
    assert f"mkdir {made}" in asked.err
    assert "nobody to ask here: --yes agrees" in asked.err
    fixed = banger("doctor", "--fix", "--yes")
    assert (fixed.status, made.is_dir()) == (0, True)
    assert fixed.out.endswith("host\n  PASS  made  there\n")


def test_what_belongs_to_others_is_never_fixed_unasked(home: Path, tmp_path: Path, banger: Shell, probes: list[Probe]) -> None:
    probes.append(probe("network.firewalls", "other firewalls", warned("drops", commands(f"mkdir {tmp_path}/x", who="owner", foreign=True))))
    (check,) = banger("doctor", "--fix", "--yes", "--json").json
    assert (check["fix"], check["fixable"]) == ("declined", True)
    assert not (tmp_path / "x").exists()


def test_what_needs_root_is_printed_with_sudo(home: Path, banger: Shell, probes: list[Probe], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    probes.append(probe("virtualisation.tun", "taps", failed("none", commands("modprobe tun"))))
    result = banger("doctor", "--fix", "--yes")
    assert "needs root: sudo modprobe tun" in result.err
    assert banger("doctor", "--fix", "--yes", "--json").json[0]["fix"] == "not allowed"


def test_yes_alone_is_refused(home: Path, banger: Shell) -> None:
    assert (banger("doctor", "--yes").status, "--fix" in banger("doctor", "--yes").err) == (2, True)
