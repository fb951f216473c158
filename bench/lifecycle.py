"""Measures of the lifecycle itself: a real daemon over drivers without machines (tests/fakes), and stop and delete of real machines."""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from bench.samples import Finding, interleaved, median, seconds
from tests.e2e.instance import Instance
from tests.fakes.harness import FakeInstance, fake_instance

CREATES: Final = 96
MANY: Final = 50
IDLE_SECONDS: Final = 10.0


@contextmanager
def faked() -> Iterator[FakeInstance]:
    """A fake instance with its daemon, warmed up."""
    with tempfile.TemporaryDirectory(prefix="banger-bench-", dir="/var/tmp") as place, fake_instance(Path(place, "home")) as instance:
        instance.create("warm")
        instance.operate("vm.delete", "warm")
        yield instance


def percentile(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


def creates(_: Instance) -> list[Finding]:
    """Creates per second with so many callers at once, and how long one of them takes."""
    findings = []
    with faked() as instance:
        for callers in (1, 2, 4, 8, 16, 32):

            def create(number: int) -> float:
                begun = time.perf_counter()
                instance.create(f"vm-{number}")
                return time.perf_counter() - begun

            begun = time.perf_counter()
            with ThreadPoolExecutor(callers) as pool:
                taken = list(pool.map(create, range(CREATES)))
            rate = CREATES / (time.perf_counter() - begun)
            with ThreadPoolExecutor(8) as pool:
                list(pool.map(lambda name: instance.operate("vm.delete", name), instance.machines()))
            what = f"creates with {callers} at once (no machines; p50 {percentile(taken, 0.5) * 1000:.0f} ms, p95 {percentile(taken, 0.95) * 1000:.0f} ms)"
            findings.append(Finding(what=what, value=rate, unit="/s", limit=100 if callers == 16 else 1, at_least=True, samples={"seconds": taken}))
    return findings


@contextmanager
def crowd() -> Iterator[FakeInstance]:
    """A fake instance with many machines that run."""
    with faked() as instance:
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda number: instance.create(f"vm-{number}"), range(MANY)))
        yield instance


def recovery(_: Instance) -> list[Finding]:
    """From SIGKILL with many machines to a daemon that has adopted them."""
    whole, adopting = [], []
    with crowd() as instance:
        for _round in range(5):
            instance.end()
            begun = time.perf_counter()
            instance.start()
            whole.append(time.perf_counter() - begun)
            entries = map(json.loads, instance.layout.daemon_log.read_text().splitlines())
            adopting.append(next(entry["seconds"] for entry in reversed(list(entries)) if entry["message"] == "ready"))
            if wrong := instance.wrong():
                raise RuntimeError(f"not recovered: {wrong}")
    return [
        Finding(
            what=f"adopting {MANY} machines after SIGKILL, from first listen to ready", value=median(adopting), unit="s", limit=0.5, samples={"s": adopting}
        ),
        Finding(what="the same from the start of the process to the first answer", value=median(whole), unit="s", limit=1.5, samples={"s": whole}),
    ]


def idle(_: Instance) -> list[Finding]:
    """CPU of a daemon that has many machines and nothing to do."""
    with crowd() as instance:
        time.sleep(3)
        before = cpu_seconds(instance.pid)
        time.sleep(IDLE_SECONDS)
        used = (cpu_seconds(instance.pid) - before) / IDLE_SECONDS * 100
    return [Finding(what=f"CPU of an idle daemon with {MANY} machines", value=used, unit="%", limit=0.3)]


def cpu_seconds(pid: int) -> float:
    """User and system time of a process (proc(5), stat fields 14 and 15)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def ends(instance: Instance) -> list[Finding]:
    """`vm stop` and `vm delete` of real machines, until the command returns."""

    def delete() -> float:
        instance.ok("vm", "run", "-d", "--name", "ends", "--wait", "booted")
        return seconds(instance.argv("vm", "delete", "ends"), instance.environment)

    def stop() -> float:
        instance.ok("vm", "run", "-d", "--name", "ends", "--wait", "booted")
        taken = seconds(instance.argv("vm", "stop", "ends"), instance.environment)
        instance.ok("vm", "delete", "ends")
        return taken

    samples = interleaved(5, delete=delete, stop=stop)
    return [
        Finding(what="`vm delete` of a running machine", value=median(samples["delete"]), unit="s", limit=0.15, samples=samples),
        Finding(what="`vm stop` of a booted machine (its init powers off)", value=median(samples["stop"]), unit="s", limit=15),
    ]
