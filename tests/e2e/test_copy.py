"""`vm cp` in both directions, and jobs, in a real machine."""

from __future__ import annotations

import io
import json
import os
import signal
import stat
import tarfile
from pathlib import Path

import pytest

from tests.e2e.instance import Instance, wait_until

pytestmark = pytest.mark.timeout(180)


def look(top: Path) -> dict[bytes, tuple[object, ...]]:
    """Everything that a copy keeps."""
    found: dict[bytes, tuple[object, ...]] = {}
    for path in [top, *top.rglob("*")]:
        info = path.lstat()
        content = os.readlink(path) if path.is_symlink() else path.read_bytes() if path.is_file() else ""
        time_ns = 0 if path.is_symlink() else info.st_mtime_ns
        found[os.fsencode(path.relative_to(top))] = (stat.S_IFMT(info.st_mode), stat.S_IMODE(info.st_mode), content, time_ns)
    return found


def in_guest(instance: Instance, box: str, script: str) -> str:
    return instance.ok("vm", "exec", box, "--", "sh", "-c", script)


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    top = tmp_path_factory.mktemp("cp") / "tree"
    (top / "dir/deep").mkdir(parents=True)
    (top / "empty").mkdir(mode=0o700)
    (top / "run").write_text("#!/bin/sh\n")
    (top / "run").chmod(0o755)
    (top / "link").symlink_to("dir/deep")
    (top / "dangling").symlink_to("/no/such thing")
    Path(os.fsdecode(os.fsencode(top) + b"/dir/a b\n\xff")).write_bytes(b"odd")
    (top / "big").write_bytes(os.urandom(1 << 20) * 20)
    (top / "same").hardlink_to(top / "run")
    with (top / "sparse").open("wb") as file:
        file.truncate(1 << 30)
        file.seek(512 << 20)
        file.write(b"island")
    os.utime(top / "dir", ns=(1, 1_400_000_000_123_456_789))
    return top


def test_there_and_back(instance: Instance, box: str, tree: Path, tmp_path: Path) -> None:
    instance.ok("vm", "cp", str(tree), f"{box}:/root/there")
    script = "cd /root/there; stat -c %a:%U:%Y dir empty run; readlink link dangling; du -k sparse | cut -f1; stat -c %h same; md5sum big | cut -d' ' -f1"
    lines = in_guest(instance, box, script).splitlines()
    assert [line.rpartition(":")[0] for line in lines[:3]] == ["755:root", "700:root", "755:root"] and lines[0].endswith(":1400000000")
    assert lines[3:5] == ["dir/deep", "/no/such thing"] and int(lines[5]) < 1000 and lines[6] == "2"
    instance.ok("vm", "cp", "-q", f"{box}:/root/there", str(tmp_path))
    assert {name: value for name, value in look(tmp_path / "there").items() if name != b"sparse"} == {
        name: value for name, value in look(tree).items() if name != b"sparse"
    }
    back = tmp_path / "there/sparse"
    assert (back.stat().st_size, back.stat().st_blocks * 512 < 1 << 20) == (1 << 30, True)
    with back.open("rb") as file:
        file.seek(512 << 20)
        assert file.read(7) == b"island\0"


def test_the_rules_of_docker_cp(instance: Instance, box: str, tree: Path, tmp_path: Path) -> None:
    in_guest(instance, box, "mkdir -p /srv/d /srv/real; ln -s real /srv/way; echo old > /srv/f")
    for source, target in (
        (tree / "run", "/srv/d"),
        (tree / "run", "/srv/f"),
        (tree / "run", "srv/way/"),
        (f"{tree}/dir/.", "/srv/d"),
        (tree / "link", "/srv/d"),
    ):
        instance.ok("vm", "cp", str(source), f"{box}:{target}")
    instance.ok("vm", "cp", "-L", str(tree / "link"), f"{box}:/srv/followed")
    found = set(in_guest(instance, box, "cd /srv; find . -mindepth 1 -print0 | tr '\\n\\0' '?\\n'").splitlines())
    assert found >= {"./d/run", "./d/deep", "./d/link", "./real/run", "./followed"} and "./d/dir" not in found
    assert in_guest(instance, box, "cat /srv/f; readlink /srv/d/link; test -d /srv/followed") == "#!/bin/sh\ndir/deep\n"
    for words in (
        (str(tree), f"{box}:/srv/f"),
        (str(tree / "run"), f"{box}:/no/where"),
        (str(tree / "run"), f"{box}:/srv/new/"),
        (f"{box}:/no", str(tmp_path)),
        ("a", "b"),
    ):
        refused = instance.run("vm", "cp", *words)
        assert refused.status == 2 and refused.err.startswith("banger: ") and "Traceback" not in refused.err, words
    assert not (tmp_path / "no").exists()


def test_tar_streams(instance: Instance, box: str, tree: Path) -> None:
    out = instance.run("vm", "cp", f"{box}:/etc/os-release", "-")
    with tarfile.open(fileobj=io.BytesIO(out.raw)) as tar:
        assert tar.getnames() == ["os-release"] or tar.getmember("os-release").issym()
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        tar.add(tree / "run", "from/tar")
    instance.ok("vm", "cp", "-", f"{box}:/srv", stdin=packed.getvalue())
    assert in_guest(instance, box, "cat /srv/from/tar") == "#!/bin/sh\n"


def test_a_client_that_dies_leaves_nothing_half_written(instance: Instance, box: str, tmp_path: Path) -> None:
    big = tmp_path / "big"
    with big.open("wb") as file:
        for _ in range(200):
            file.write(os.urandom(1 << 20))
    in_guest(instance, box, "mkdir -p /srv/dies; echo whole > /srv/dies/big")
    with instance.started("vm", "cp", str(big), f"{box}:/srv/dies/big") as process:
        wait_until(lambda: "banger-" in in_guest(instance, box, "ls -A /srv/dies"), "the transfer is under way")
        process.send_signal(signal.SIGKILL)
    wait_until(lambda: in_guest(instance, box, "ls -A /srv/dies") == "big\n", "the temporary file is gone")
    assert in_guest(instance, box, "cat /srv/dies/big") == "whole\n"
    in_guest(instance, box, "head -c 200M /dev/urandom > /srv/dies/large")
    (tmp_path / "back").mkdir()
    opened = streams_opened(instance)
    with instance.started("vm", "cp", f"{box}:/srv/dies/large", str(tmp_path / "back")) as process:
        wait_until(lambda: streams_opened(instance) > opened, "the transfer is under way")
        process.send_signal(signal.SIGKILL)
    assert list((tmp_path / "back").iterdir()) == []


def test_a_full_guest(instance: Instance, box: str, tree: Path) -> None:
    in_guest(instance, box, "mkdir -p /srv/full; mount -t tmpfs -o size=2m tmpfs /srv/full")
    full = instance.run("vm", "cp", str(tree / "big"), f"{box}:/srv/full")
    assert full.status == 1 and "big: No space left on device" in full.err and "hint: free some space" in full.err
    assert in_guest(instance, box, "ls -A /srv/full; umount /srv/full") == ""


def streams_opened(instance: Instance) -> int:
    return (instance.state / "bangerd.log").read_text().count('"stream opened"')


def test_a_job_outlives_the_daemon(instance: Instance, box: str) -> None:
    in_guest(instance, box, "mkfifo /srv/gate")
    job = instance.ok("vm", "exec", "-d", box, "--", "sh", "-c", "echo begin; cat /srv/gate; echo end >&2; exit 42").strip()
    (listed,) = instance.json("vm", "jobs", box)
    assert (listed["id"], listed["state"], listed["exit_status"]) == (job, "running", None)
    pid = instance.daemon_pid()
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: instance.daemon_pid() is None, "the daemon is gone")
    assert instance.ok("vm", "job", "logs", box, job) == "begin\n"
    streams = streams_opened(instance)
    with instance.started("vm", "job", "logs", "-f", box, job) as follower, instance.started("vm", "job", "wait", box, job) as waiter:
        assert follower.stdout is not None and follower.stdout.readline() == b"begin\n"
        wait_until(lambda: streams_opened(instance) == streams + 2, "both follow the job")
        pid = instance.daemon_pid()
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: instance.daemon_pid() not in (pid, None), "one of the two has started the next daemon")
        in_guest(instance, box, "echo through > /srv/gate")
        out, err = follower.communicate(timeout=60)
        assert (out, err) == (b"through\n", b"end\n")
        assert waiter.wait(60) == 42
    assert instance.json("vm", "jobs", box)[0]["exit_status"] == 42


def test_jobs_are_signalled_and_refused(instance: Instance, box: str) -> None:
    job = json.loads(instance.ok("vm", "exec", "-d", "--json", box, "--", "sleep", "1000"))["id"]
    instance.ok("vm", "job", "kill", box, job)
    assert instance.run("vm", "job", "wait", box, job).status == 143
    assert instance.run("vm", "exec", "-d", box, "--", "no-such-program").status == 127
    unknown = instance.run("vm", "job", "logs", box, "nothing-here")
    assert unknown.status == 1 and "no job nothing-here" in unknown.err
    assert instance.run("vm", "job", "kill", box, job).status == 1
