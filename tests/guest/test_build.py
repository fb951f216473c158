"""What the Makefile makes."""

from __future__ import annotations

import subprocess
from pathlib import Path


def test_the_program_is_small_and_needs_nothing(guest_build: Path) -> None:
    content = (guest_build / "banger-guest").read_bytes()
    assert content[:4] == b"\x7fELF"
    assert b"/lib64/ld-linux" not in content, "it has an interpreter: it is not static"
    assert len(content) < 1_200_000


def test_both_builds_have_the_same_id(guest_build: Path) -> None:
    ids = {subprocess.check_output([guest_build / name, "--version"], timeout=20) for name in ("banger-guest", "banger-guest-sanitized")}
    assert len(ids) == 1
    assert len(ids.pop().strip()) == 16


def test_wrong_words_are_refused(guest_build: Path) -> None:
    for words in ([], ["--serve-fd"], ["--serve-fd", "0", "--what"]):
        assert subprocess.run([guest_build / "banger-guest-sanitized", *words], stdin=subprocess.DEVNULL, capture_output=True, timeout=20).returncode == 2
    assert subprocess.run([guest_build / "banger-guest-sanitized", "--serve-fd", "77"], capture_output=True, timeout=20).returncode == 1
