"""The measures: each returns the lines that it adds to the table. Ratios are of medians taken in one interleaved run."""

from __future__ import annotations

import asyncio
import json
import os
import re
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from banger.guest.agent import Agent
from banger.host.paths import VMLayout
from banger.storage.overlay import OverlayDisk
from banger.storage.workdisk import prepare_work_disk
from bench.attach import attach
from bench.bridge import bridge
from bench.dns import dns
from bench.forward import forward
from bench.hosts import HELLO_DEADLINE, accelerator_of, bare_machine, machine, spec_like_the_default
from bench.images import images
from bench.lifecycle import creates, ends, idle, recovery
from bench.samples import Finding, interleaved, median, seconds
from bench.workspace import workspace
from tests.e2e.instance import Instance

MIB: Final = 1024 * 1024
Measure = Callable[[Instance], list[Finding]]


def cold(instance: Instance) -> list[Finding]:
    """A whole `vm run --rm -- true` against bare QEMU, both until the guest's hello; and the way from there to ready."""
    accelerator = accelerator_of(instance)
    ready: list[float] = []
    whole: list[float] = []

    def bare() -> float:
        with bare_machine(instance, accelerator) as found:
            return found.hello()

    def banger() -> float:
        hello, to_ready, total = stages_of_a_run(instance)
        ready.append(to_ready)
        whole.append(total)
        return hello

    samples = interleaved(25, banger=banger, bare=bare) | {"hello_to_ready": ready[1:], "whole_run": whole[1:]}
    medians = {name: median(values) for name, values in samples.items()}
    return [
        Finding(
            what="`banger vm run --rm -- true` / bare QEMU, both to hello", value=medians["banger"] / medians["bare"], unit="", limit=1.15, samples=samples
        ),
        Finding(what="hello to ready", value=medians["hello_to_ready"], unit="s", limit=0.3),
    ]


def stages_of_a_run(instance: Instance) -> tuple[float, float, float]:
    """Seconds from spawn to hello, from hello to ready, and from spawn to exit, of one `vm run --rm -- true`.

    The stage after hello is announced on stderr when it begins; how long it took, to ready, is in the daemon's log.
    """
    hello: float | None = None
    begun = time.perf_counter()
    with instance.started("vm", "run", "--rm", "--json", "--", "true", stdin=subprocess.DEVNULL) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if hello is None and b'"configure_guest"' in line:
                hello = time.perf_counter() - begun
        status = process.wait()
    total = time.perf_counter() - begun
    if status != 0 or hello is None:
        raise RuntimeError(f"vm run ended with status {status}")
    entries = (json.loads(line) for line in (instance.state / "bangerd.log").read_text().splitlines())
    configured = [entry["ms"] for entry in entries if entry.get("step") == "configure_guest"]
    return hello, configured[-1] / 1000, total


def exec_overhead(instance: Instance) -> list[Finding]:
    """`vm exec VM -- true` against the cheapest thing Python can do."""
    with machine(instance) as name:
        samples = interleaved(
            30,
            exec=lambda: seconds(instance.argv("vm", "exec", name, "--", "true"), instance.environment),
            python=lambda: seconds([sys.executable, "-c", "pass"], instance.environment),
        )
    extra = median(samples["exec"]) - median(samples["python"])
    return [Finding(what="`vm exec VM -- true` over `python3 -c pass`", value=extra * 1000, unit="ms", limit=100, samples=samples)]


def round_trip(instance: Instance) -> list[Finding]:
    """The agent's answer to a ping, measured where the daemon would: in the process that holds the channel."""

    async def pings(channel: socket.socket) -> list[float]:
        agent = await Agent.greet(channel, deadline=HELLO_DEADLINE)
        try:
            return [await agent.ping() for _ in range(1000)]
        finally:
            await agent.close()

    with bare_machine(instance, accelerator_of(instance)) as found:
        channel = found.agent.dup()
        channel.setblocking(False)
        samples = asyncio.run(pings(channel))
    return [Finding(what="agent round trip (p50)", value=median(samples) * 1000, unit="ms", limit=3, samples={"ping": samples})]


def quick_reads(instance: Instance) -> list[Finding]:
    """What a shell waits for a listing of a hundred machines, and for help."""
    ids = [instance.json("vm", "create", "--no-start", "--disk-size", "64M", "--system-overlay-size", "64M")["id"] for _ in range(100)]
    try:
        samples = interleaved(
            30,
            list=lambda: seconds(instance.argv("vm", "list"), instance.environment),
            help=lambda: seconds(instance.argv("--help"), instance.environment),
        )
    finally:
        for vm_id in ids:
            instance.ok("vm", "delete", vm_id)
    return [
        Finding(what="`vm list` with 100 machines", value=median(samples["list"]) * 1000, unit="ms", limit=120, samples={"list": samples["list"]}),
        Finding(what="`banger --help`", value=median(samples["help"]) * 1000, unit="ms", limit=90, samples={"help": samples["help"]}),
    ]


def daemon_memory(instance: Instance) -> list[Finding]:
    """Resident memory of the daemon with one running machine, after a few commands."""
    with machine(instance) as name:
        for _ in range(5):
            instance.ok("vm", "exec", name, "--", "true")
        resident = resident_mib(instance)
    return [Finding(what="daemon's memory with one machine", value=resident, unit="MB", limit=60, samples={"resident": [resident]})]


def resident_mib(instance: Instance) -> float:
    status = Path(f"/proc/{instance.daemon_pid()}/status").read_text()
    match = re.search(r"^VmRSS:\s+([0-9]+) kB", status, re.MULTILINE)
    assert match
    return int(match[1]) * 1024 / 1e6


def disks(_: Instance) -> list[Finding]:
    """Making both disks of a machine of the default size."""
    spec = spec_like_the_default()

    async def make(directory: Path) -> float:
        files = VMLayout(directory)
        begun = time.perf_counter()
        await OverlayDisk().prepare(files, directory / "base", spec, -1)
        await prepare_work_disk(files, spec, -1)
        return time.perf_counter() - begun

    def one() -> float:
        with tempfile.TemporaryDirectory(prefix="banger-disks-", dir="/var/tmp") as name:
            return asyncio.run(make(Path(name)))

    samples = interleaved(30, disks=one)
    return [Finding(what="disks of a machine made", value=median(samples["disks"]) * 1000, unit="ms", limit=15, samples=samples)]


def throughput(instance: Instance) -> list[Finding]:
    """64 MiB through `exec -- cat` both ways, and what the daemon's memory makes of it."""
    size = 64 * MIB
    rates: list[float] = []
    with machine(instance) as name, blob(size) as path:
        instance.ok("vm", "exec", name, "--", "cat", stdin=path.read_bytes()[:MIB])
        before = resident_mib(instance)
        for _ in range(5):
            with path.open("rb") as source, tempfile.TemporaryFile(dir="/var/tmp") as sink:
                begun = time.perf_counter()
                subprocess.run(instance.argv("vm", "exec", name, "--", "cat"), env=instance.environment, stdin=source, stdout=sink, check=True)
                rates.append(size / 1e6 / (time.perf_counter() - begun))
                if sink.tell() != size and os.fstat(sink.fileno()).st_size != size:
                    raise RuntimeError("bytes were lost")
        grown = resident_mib(instance) - before
    return [
        Finding(what="64 MiB through `exec -- cat`, both ways at once", value=median(rates), unit="MB/s", limit=15, at_least=True, samples={"rate": rates}),
        Finding(what="daemon's memory gained by that", value=grown, unit="MB", limit=5),
    ]


@contextmanager
def blob(size: int) -> Iterator[Path]:
    """A file of random bytes."""
    with tempfile.NamedTemporaryFile(dir="/var/tmp") as file:
        file.write(os.urandom(size))
        file.flush()
        yield Path(file.name)


MEASURES: Final[dict[str, Measure]] = {
    "cold": cold,
    "exec": exec_overhead,
    "round-trip": round_trip,
    "reads": quick_reads,
    "memory": daemon_memory,
    "disks": disks,
    "throughput": throughput,
    "creates": creates,
    "recovery": recovery,
    "idle": idle,
    "ends": ends,
    "workspace": workspace,
    "images": images,
    "forward": forward,
    "attach": attach,
    "bridge": bridge,
    "dns": dns,
}
