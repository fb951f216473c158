"""The owner's daemon was taken over: whatever it sends to the real helper, nothing outside its own machines changes and the helper stays as it is.

The helper runs as root in a network namespace of the test, for a uid that nobody has; the attacker is ``tests/fakes/hostile_owner.py`` with that uid.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from banger.host.process import start_time_of
from tests.fakes.helper_process import FOREIGN_SLOT, OWNER, Helper, Namespace, installed, namespace, running
from tests.fakes.privileged import PLAN

pytestmark = [pytest.mark.root, pytest.mark.timeout(240)]

ROOT = Path(__file__).parents[2]
STRANGER = 12346
SLOTS = [2, 3, FOREIGN_SLOT]
ALL = ["wrong", "descriptors", "processes", "programs", "network", "vmm", "flood", "half open", "linger"]


@pytest.fixture
def place() -> Iterator[Namespace]:
    with namespace() as inside:
        yield inside


@pytest.fixture
def helper(place: Namespace) -> Iterator[Helper]:
    with installed() as directory, running(place, directory) as started:
        yield started


def attack(helper: Helper, uid: int, attacks: list[str], victims: list[list[int]] | None = None, flood: int = 600) -> list[str]:
    """What the attacker reports: granted and not to be granted."""
    plan = {"attacks": attacks, "victims": victims or [], "flood": flood, "slots": SLOTS}
    words = [sys.executable, "-m", "tests.fakes.hostile_owner", str(helper.socket), str(uid), json.dumps(plan)]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr[-3000:]
    granted: list[str] = json.loads(done.stdout)
    return granted


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


def test_nothing_of_others_changes_and_the_helper_stays_as_it_is(helper: Helper, place: Namespace) -> None:
    assert attack(helper, OWNER, ALL) == []  # the first time it loads what it needs
    assert attack(helper, OWNER, ["network"]) == []
    before, descriptors, memory = place.snapshot(), settled(helper, helper.descriptors), helper.status("VmRSS")
    with victims() as targets:
        assert attack(helper, OWNER, ALL, targets, flood=3000) == []
    assert settled(helper, descriptors) <= descriptors
    assert helper.status("VmRSS") - memory < 6 * 1024
    assert helper.status("Threads") <= 8
    assert place.snapshot() == before
    assert [one["ifname"] for one in before["links"]] == ["lo", "victim0", PLAN.tap(FOREIGN_SLOT)]
    assert "table inet victim" in before["tables"]
    assert PLAN.bridge not in before["tables"]
    assert json.loads(attack(helper, OWNER, ["info"])[0])["ok"]["pid"] == helper.process.pid


def test_every_call_has_one_line_with_its_op_id(helper: Helper) -> None:
    attack(helper, OWNER, ["info"])
    (line,) = helper.calls()
    assert (line["verb"], line["result"], line["op_id"], line["peer_uid"]) == ("info", "ok", "op-0123456789ab", OWNER)


def test_another_user_is_refused_twice(helper: Helper) -> None:
    assert helper.socket.stat().st_mode & 0o777 == 0o600
    with pytest.raises(AssertionError, match="PermissionError"):
        attack(helper, STRANGER, ["info"])
    helper.socket.chmod(0o666)
    assert json.loads(attack(helper, STRANGER, ["info"])[0]).get("ok") is None
    assert [(one["result"], one["peer_uid"]) for one in helper.calls()] == [("unauthorized", STRANGER)]


def test_sigterm_ends_it_at_once_also_while_descriptors_linger(helper: Helper) -> None:
    attack(helper, OWNER, ["linger", "half open"])
    helper.process.send_signal(signal.SIGTERM)
    assert helper.process.wait(30) == 0
    assert "stopped" in helper.log.read_text()
