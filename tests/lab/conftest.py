"""The laboratory of a test run, and what tests need in it.

| fixture      | scope   | what                                                                                          |
|--------------|---------|-----------------------------------------------------------------------------------------------|
| `laboratory` | session | a fresh one with today's program; with BANGER_LAB_KEEP=1 that of ``./dev lab``                |
| `system`     | session | banger installed in it for an ordinary user, as that user sees it, with an image to start from |
| `box`        | module  | name of a machine of the system that runs, with NAT                                            |
| `peer`       | module  | another one, without                                                                           |
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.lab.inside import Inside
from tests.lab.laboratory import OWNER, Laboratory, kept_laboratory, obstacle, temporary_laboratory
from tests.lab.trace import trace

RESULTS = Path(__file__).parents[2] / "test-results/laboratory"


@pytest.fixture(scope="session")
def laboratory() -> Iterator[Laboratory]:
    if reason := obstacle():
        pytest.skip(reason)
    if os.environ.get("BANGER_LAB_KEEP"):
        yield kept_laboratory()
    else:
        with temporary_laboratory() as fresh:
            yield fresh


@dataclass(frozen=True)
class Installed(Inside):
    """The system's instance; ``before`` is what the host showed before it was there."""

    before: frozenset[str] = frozenset()

    def as_root(self, *words: str) -> str:
        """Output of ``sudo banger WORDS``, which must succeed."""
        return self.laboratory.ok("sudo", "banger", *words, user=self.user)

    def forget(self, name: str) -> None:
        """Delete a machine, unless it went with the installation."""
        if is_installed(self.laboratory):
            self.ok("vm", "delete", name)


def is_installed(laboratory: Laboratory) -> bool:
    return laboratory.run("test", "-e", "/etc/banger/install.toml").status == 0


@pytest.fixture(scope="session")
def system(laboratory: Laboratory) -> Iterator[Installed]:
    if is_installed(laboratory):  # of an earlier run in a kept laboratory
        laboratory.ok("banger", "system", "uninstall", "--purge", "--force")
    installed = Installed(laboratory, OWNER, before=trace(laboratory))
    installed.as_root("system", "install", "--owner", OWNER)
    installed.import_guest()
    yield installed
    keep_evidence(laboratory)


@pytest.fixture(scope="module")
def box(system: Installed) -> Iterator[str]:
    system.start("box", "--nat")
    yield "box"
    system.forget("box")


@pytest.fixture(scope="module")
def peer(system: Installed) -> Iterator[str]:
    system.start("peer")
    yield "peer"
    system.forget("peer")


def keep_evidence(laboratory: Laboratory) -> None:
    """Journal and daemon's log of the laboratory, for whoever has to find out why a test failed."""
    shutil.rmtree(RESULTS, ignore_errors=True)
    RESULTS.mkdir(parents=True)
    (RESULTS / "journal.txt").write_text(laboratory.run("journalctl", "-b", "--no-pager", "-o", "short-precise").out)
    (RESULTS / "bangerd.log").write_text(laboratory.run("cat", "/var/lib/banger/bangerd.log").out)
