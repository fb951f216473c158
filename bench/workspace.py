"""Measures of what goes in and out of a running machine: a repository, the same again, and one large file."""

from __future__ import annotations

import json
import random
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Final

from bench.hosts import machine
from bench.samples import Finding, interleaved, median, seconds
from tests.e2e.instance import Instance

FILES: Final = 10_000
FILE_BYTES: Final = 4_000
TOUCHED: Final = 10
LARGE: Final = 256 * 10**6
SETTLE_SECONDS: Final = 0.3
"""A file that was written a moment ago may change again within the same time stamp, and is therefore read twice."""


@dataclass(frozen=True)
class Courier:
    """What brings a file into the machine for the side that we are compared with: ``scp`` where `banger ssh-config` makes it work, else ``vm cp``."""

    name: str
    argv: Callable[[Path, str], list[str]]


def find_courier(instance: Instance, vm: str) -> Courier:
    copies = Courier("vm cp", lambda source, target: instance.argv("vm", "cp", "-q", str(source), f"{vm}:{target}"))
    described = instance.run("ssh-config", "--json")
    if described.status != 0:
        return copies
    config: str = json.loads(described.out)["config"]
    reached = subprocess.run(["ssh", "-F", config, f"{vm}.vm", "true"], env=instance.environment, stdin=subprocess.DEVNULL, capture_output=True)
    if reached.returncode != 0:
        return copies
    return Courier("scp", lambda source, target: ["scp", "-q", "-F", config, str(source), f"{vm}.vm:{target}"])


def workspace(instance: Instance) -> list[Finding]:
    """`vm workspace prepare` against bundle, transfer and clone; the same again after a few edits; and `vm cp` of one large file."""
    with machine(instance) as name, tempfile.TemporaryDirectory(prefix="banger-bench-", dir="/var/tmp") as place:
        repository = make_repository(Path(place, "project"))
        courier = find_courier(instance, name)
        return [first_time(instance, name, repository, courier), again(instance, name, repository), large_file(instance, name, Path(place), courier)]


def make_repository(root: Path) -> Path:
    """One commit of FILES files that look like text, in a hundred directories."""
    words = [random.Random(seed).randbytes(4).hex()[: 3 + seed % 6] for seed in range(2000)]
    chance = random.Random(7)
    for number in range(FILES):
        path = root / f"part{number // 100:03}" / f"file{number:05}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(" ".join(chance.choices(words, k=FILE_BYTES // 6)).ljust(FILE_BYTES)[: FILE_BYTES - 1] + "\n")
    for command in (["init", "-q", "-b", "main"], ["add", "-A"], ["-c", "user.name=bench", "-c", "user.email=bench@localhost", "commit", "-q", "-m", "all"]):
        git(root, *command)
    return root


def git(place: Path, *words: str) -> None:
    subprocess.run(["git", *words], cwd=place, check=True, stdin=subprocess.DEVNULL)


def first_time(instance: Instance, vm: str, repository: Path, courier: Courier) -> Finding:
    """Both ways end with a checkout of all files in a directory that was not there."""
    numbers = count()
    bundle = repository.parent / "project.bundle"

    @contextmanager
    def fresh() -> Iterator[str]:
        place = f"/root/bench-{next(numbers)}"
        try:
            yield place
        finally:
            instance.ok("vm", "exec", vm, "--cwd", "/", "--", "rm", "-rf", place, "/root/project.bundle")

    def prepare() -> float:
        with fresh() as place:
            return seconds(instance.argv("vm", "workspace", "prepare", vm, str(repository), "--guest-path", place), instance.environment)

    def clone() -> float:
        with fresh() as place:
            begun = time.perf_counter()
            git(repository, "bundle", "create", "-q", str(bundle), "HEAD", "main")
            seconds(courier.argv(bundle, "/root/project.bundle"), instance.environment)
            seconds(instance.argv("vm", "exec", vm, "--cwd", "/root", "--", "git", "clone", "-q", "project.bundle", place), instance.environment)
            return time.perf_counter() - begun

    samples = interleaved(5, prepare=prepare, clone=clone)
    ratio = median(samples["prepare"]) / median(samples["clone"])
    what = f"{FILES} files (40 MB) by `vm workspace prepare` / `git bundle` + {courier.name} + `git clone`"
    return Finding(what=what, value=ratio, unit="", limit=1.0, samples=samples)


def again(instance: Instance, vm: str, repository: Path) -> Finding:
    argv = instance.argv("vm", "workspace", "prepare", vm, str(repository))
    chance = random.Random(11)
    files = sorted(repository.glob("part*/*"))
    seconds(argv, instance.environment)

    def prepare() -> float:
        for path in chance.sample(files, TOUCHED):
            with path.open("a") as file:
                file.write("touched\n")
        time.sleep(SETTLE_SECONDS)
        return seconds(argv, instance.environment)

    samples = interleaved(7, prepare=prepare)
    return Finding(what=f"the same again after {TOUCHED} files were edited", value=median(samples["prepare"]), unit="s", limit=0.5, samples=samples)


def large_file(instance: Instance, vm: str, place: Path, courier: Courier) -> Finding:
    blob = place / "blob"
    with blob.open("wb") as file:
        for _ in range(LARGE // 10**6):
            file.write(random.randbytes(10**6))

    def taken(argv: list[str]) -> float:
        try:
            return seconds(argv, instance.environment)
        finally:
            instance.ok("vm", "exec", vm, "--cwd", "/", "--", "rm", "-f", "/root/blob")

    ways = {"vm_cp": lambda: taken(instance.argv("vm", "cp", "-q", str(blob), f"{vm}:/root/blob"))}
    if courier.name == "scp":
        ways["scp"] = lambda: taken(courier.argv(blob, "/root/blob"))
    samples = interleaved(5, **ways)
    if "scp" in samples:
        ratio = median(samples["vm_cp"]) / median(samples["scp"])
        return Finding(what="256 MB in by `vm cp` / scp", value=ratio, unit="", limit=1.0, samples=samples)
    rate = LARGE / 1e6 / median(samples["vm_cp"])
    return Finding(what="256 MB in by `vm cp` (no ssh server to compare with)", value=rate, unit="MB/s", limit=15, at_least=True, samples=samples)
