"""The tar reader, the merge and the writer against hostile bytes: only errors of ours come out, and what is accepted is a clean file system."""

from __future__ import annotations

import importlib.util
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tarfuzz import CORPUS, fix_checksums, merge, mutate, seeds, write
from tests.treemanifest import check_image

SECONDS = int(os.environ.get("BANGER_FUZZ_SECONDS", "120"))
ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.timeout(SECONDS + 300)


def test_mutated_archives(tmp_path: Path) -> None:
    """The number of the failing input is all that is needed to see it again."""
    corpus = seeds()
    until = time.monotonic() + SECONDS
    number = taken = checked = 0
    while time.monotonic() < until:
        number += 1
        content = mutate(corpus, random.Random(number))
        try:
            taken += merge(content) is not None
            if number % 20 == 0 and write(content, tmp_path / "image"):
                if number % 400 == 0:
                    check_image(tmp_path / "image")
                    checked += 1
                (tmp_path / "image").unlink()
        except Exception as error:
            raise AssertionError(f"input {number}: {error!r}") from error
    print(f"{number} archives, {taken} taken, {checked} file systems checked")
    assert taken > number // 50


@settings(max_examples=SECONDS * 20, deadline=None)
@given(st.sampled_from(seeds()), st.lists(st.tuples(st.integers(0, 6000), st.binary(min_size=1, max_size=16)), max_size=10))
def test_archives_that_hypothesis_shrinks(seed: bytes, changes: list[tuple[int, bytes]]) -> None:
    content = bytearray(seed)
    for at, new in changes:
        content[at : at + len(new)] = new
    fix_checksums(content)
    merge(bytes(content))


if importlib.util.find_spec("atheris"):

    def test_guided_by_coverage() -> None:
        words = [sys.executable, "-m", "tests.tarfuzz", f"-max_total_time={SECONDS}", str(CORPUS)]
        done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=SECONDS + 240)
        assert done.returncode == 0, done.stderr[-3000:]
