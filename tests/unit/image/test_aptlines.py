"""Reading the lines of apt, dpkg and mmdebstrap: progress, and what went wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from banger.image.aptprogress import AptProgress
from banger.image.complaints import Complaints
from banger.model.errors import CommandFailed, NoSpace


def a_round(*packages: str) -> list[str]:
    return [
        f"0 upgraded, {len(packages)} newly installed, 0 to remove and 0 not upgraded.",
        *(f"Get:{n} http://deb.debian.org/debian bookworm/main amd64 {p} amd64 1.0 [5 kB]" for n, p in enumerate(packages, 1)),
        *(f"Unpacking {p}:amd64 (1.0) ..." for p in packages),
        *(f"Setting up {p}:amd64 (1.0) ..." for p in packages),
    ]


def test_progress_grows_from_nothing_to_all() -> None:
    progress = AptProgress()
    seen, messages = [progress.fraction], []
    lines = ["I: running apt-get update...", "Get:1 http://deb.debian.org/debian bookworm InRelease [151 kB]"]
    for line in [*lines, *a_round("dash", "libc6"), *a_round("git", "curl", "sudo")]:
        if progress.feed(line):
            messages.append(progress.message)
        seen.append(progress.fraction)
    assert seen == sorted(seen)
    assert (seen[0], seen[2], seen[-1]) == (0.0, 0.0, 1.0)
    assert seen[3 + 6] == pytest.approx(0.40)
    assert {"downloading dash", "unpacking libc6", "setting up sudo"} <= set(messages)


@pytest.mark.parametrize("line", ["", "Get:", "Unpacking ", "Setting up ", "0 upgraded, x newly installed,", "Get:1 a", "\N{REPLACEMENT CHARACTER}"])
def test_odd_lines_do_not_harm(line: str) -> None:
    progress = AptProgress()
    for text in (line, *a_round("dash"), line):
        progress.feed(text)
    assert 0.0 <= progress.fraction <= 1.0


def test_more_steps_than_announced_do_not_exceed_all() -> None:
    progress = AptProgress()
    for line in [*a_round("a"), *a_round("b"), *a_round("c")[1:], *a_round("d")[1:]]:
        progress.feed(line)
    assert progress.fraction == 1.0


def test_the_first_complaint_is_told(tmp_path: Path) -> None:
    complaints = Complaints()
    with pytest.raises(CommandFailed) as caught, complaints.explain("building image x", tmp_path):
        for line in (
            "Err:1 http://mirror",
            "E: Failed to fetch http://mirror  Temporary failure resolving 'mirror'",
            "E: Some index files failed to download.",
        ):
            complaints.feed(line)
        raise CommandFailed("mmdebstrap failed with status 100:\n" + "noise\n" * 100)
    assert caught.value.message == "building image x failed: Failed to fetch http://mirror  Temporary failure resolving 'mirror'"
    assert "network" in caught.value.hint


def test_a_package_that_does_not_exist_is_no_trouble_of_the_network(tmp_path: Path) -> None:
    complaints = Complaints()
    with pytest.raises(CommandFailed) as caught, complaints.explain("building image x", tmp_path):
        complaints.feed("E: Unable to locate package ngnix")
        raise CommandFailed("mmdebstrap failed")
    assert ("package's name" in caught.value.hint, "network" in caught.value.hint) == (True, False)


@pytest.mark.parametrize(
    "line",
    [
        " cannot copy extracted data for './usr/bin/x' to '/usr/bin/x.dpkg-new': failed to write (No space left on device)",
        "E: You don't have enough free space in /var/cache/apt/archives/.",
        "dd: error writing: Disk quota exceeded",
    ],
)
def test_a_full_disk_is_recognised_wherever_it_is_said(tmp_path: Path, line: str) -> None:
    complaints = Complaints()
    with pytest.raises(NoSpace, match=f"building image x in {tmp_path}"), complaints.explain("building image x", tmp_path):
        for text in ("E: something else first", line, "E: run_chroot failed"):
            complaints.feed(text)
        raise CommandFailed("mmdebstrap failed")


def test_without_a_complaint_the_failure_is_left_as_it_is(tmp_path: Path) -> None:
    with pytest.raises(CommandFailed, match="as it is"), Complaints().explain("x", tmp_path):
        raise CommandFailed("as it is")
