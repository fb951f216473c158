"""Fixture ladder: an instance with the real image (session) -> a running machine (module) -> a fresh machine (test); the oracle after each test.

| fixture    | scope   | what                                                                       |
|------------|---------|----------------------------------------------------------------------------|
| `built`    | session | an instance whose image was built for real, by two callers at once         |
| `instance` | session | the same, for tests that make machines of their own                        |
| `box`      | module  | a booted machine                                                           |
| `fresh`    | test    | an empty instance of its own, no image                                     |
| `sibling`  | test    | an instance of its own that shares the built image                         |

BANGER_TEST_HOME=DIR keeps the session's instance in DIR and uses what was built there before: for people who write tests.
"""

from __future__ import annotations

import os
import re
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests import oracle
from tests.e2e.instance import IMAGE, Done, Instance, wait_until

RESULTS = Path(__file__).parents[2] / "test-results"


@dataclass(frozen=True)
class Built:
    """The session's instance and how its image came to be."""

    instance: Instance
    pulls: tuple[Done, ...]
    """The two concurrent pulls; empty when a kept instance was used."""
    builders_seen: int
    """Largest number of mmdebstrap processes of this instance seen at once."""


def on_disk(prefix: str) -> Path:
    """A fresh directory on a real file system (/tmp may be memory), which other users may enter."""
    path = Path(tempfile.mkdtemp(prefix=prefix, dir="/var/tmp"))
    path.chmod(0o755)
    return path


@pytest.fixture(scope="session")
def built() -> Iterator[Built]:
    kept = os.environ.get("BANGER_TEST_HOME")
    home = Path(kept) if kept else on_disk("banger-e2e-")
    instance = Instance(home / "home")
    try:
        if kept and instance.rows("images"):
            yield Built(instance, (), 0)
        else:
            yield _build(instance)
    finally:
        instance.delete_everything()
        if not kept:
            shutil.rmtree(home)


def _build(instance: Instance) -> Built:
    """Pull the image twice at the same time, watching how many builders run."""
    with instance.started("image", "pull", IMAGE) as one, instance.started("image", "pull", IMAGE) as two:
        seen, deadline = 0, time.monotonic() + 400
        while (one.poll() is None or two.poll() is None) and time.monotonic() < deadline:
            seen = max(seen, builders(instance))
            time.sleep(0.3)
        done = [process.communicate(timeout=10) for process in (one, two)]
        pulls = tuple(Done(process.returncode, out, err.decode(errors="replace")) for process, (out, err) in zip((one, two), done, strict=True))
    return Built(instance, pulls, seen)


def builders(instance: Instance) -> int:
    """How many runs of mmdebstrap work below the instance's home: those processes whose parent is not one of them."""
    pids = {pid for pid, words in oracle.processes_of(str(instance.home)) if "mmdebstrap" in words}
    return sum(oracle.parent_of(pid) not in pids for pid in pids)


@pytest.fixture(scope="session")
def instance(built: Built) -> Instance:
    assert built.instance.rows("images"), f"the image was not built: {[pull.err for pull in built.pulls]}"
    return built.instance


@pytest.fixture(scope="module")
def box(instance: Instance) -> Iterator[str]:
    """Name of a booted machine shared by the tests of a module. It is deleted afterwards."""
    name = f"box-{os.urandom(3).hex()}"
    instance.ok("vm", "run", "-d", "--name", name, "--wait", "booted")
    vm_id = instance.json("vm", "show", name)["record"]["id"]
    instance.kept.add(vm_id)
    yield name
    instance.kept.discard(vm_id)
    instance.ok("vm", "delete", name)


@pytest.fixture
def fresh() -> Iterator[Instance]:
    """An instance of its own without an image."""
    place = on_disk("banger-e2e-")
    instance = Instance(place / "home")
    yield instance
    instance.delete_everything()
    wait_until(lambda: not oracle.processes(instance), "every process of the instance has ended", 10)
    shutil.rmtree(place)


@pytest.fixture
def sibling(instance: Instance, fresh: Instance) -> Instance:
    """An instance of its own that shares the session's image and kernel (records name absolute directories)."""
    fresh.ok("image", "list")
    fresh.stop_daemon()
    with closing(sqlite3.connect(instance.state / "banger.db")) as source, closing(sqlite3.connect(fresh.state / "banger.db")) as target, target:
        for table in ("kernels", "images"):
            rows = source.execute(f"SELECT * FROM {table}").fetchall()
            target.executemany(f"INSERT INTO {table} VALUES ({', '.join('?' * len(rows[0]))})", rows)
    return fresh


@pytest.fixture(autouse=True)
def nothing_left_behind(request: pytest.FixtureRequest) -> Iterator[None]:
    """After each test the machine shows nothing of the shared instance but what fixtures keep."""
    yield
    if "instance" not in request.fixturenames:
        return
    instance: Instance = request.getfixturevalue("instance")
    deadline = time.monotonic() + 15  # `--rm` deletes after the client has gone
    while (left := [*oracle.leftovers(instance), *oracle.broken_promises(instance)]) and time.monotonic() < deadline:
        time.sleep(0.1)
    if left:
        instance.delete_unkept()  # or every test after this one would fail too
    assert not left, "left behind, or not as promised: " + "; ".join(left)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """On failure keep the logs of every instance the test used, before teardown removes them."""
    report = yield
    if report.failed:
        used = getattr(item, "funcargs", {})
        instances = {id(value): value for value in used.values() if isinstance(value, Instance)}
        folder = RESULTS / re.sub(r"[^A-Za-z0-9_.-]+", "_", item.nodeid)
        for found in instances.values():
            found.keep_evidence(folder / found.home.parent.name)
        if instances:
            report.sections.append(("evidence", f"logs are kept in {folder}"))
    return report
