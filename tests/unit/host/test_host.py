"""Programs, processes, files, locks, sockets and directories of the real host."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import socket
import stat
import sys
from pathlib import Path

import pytest

from banger.host import process
from banger.host.files import allocated_bytes, explain_no_space, make_sparse, publish_directory, sha256_of, tail, write_atomically
from banger.host.locks import locked, locked_async, try_lock
from banger.host.logs import JsonLines
from banger.host.paths import UNIX_PATH_MAX, Layout, private_directory
from banger.host.run import find_tool, run, spawn
from banger.host.sockets import connect, listen, peer_of
from banger.model.errors import CommandFailed, MissingTool, NoSpace, Unauthorized
from banger.model.opid import current_op_id
from banger.model.records import ProcessIdentity

# -- run and spawn -------------------------------------------------------------------------------------------------------------------------------


async def test_run_returns_output_and_feeds_input() -> None:
    done = await run(["cat"], stdin=b"hello", deadline=10)
    assert (done.status, done.stdout, done.stderr) == (0, b"hello", b"")


async def test_run_starts_from_a_clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "s")
    done = await run(["env"], deadline=10, env={"EXTRA": "e"})
    names = {line.split("=")[0] for line in done.stdout.decode().splitlines()}
    assert "SECRET" not in names
    assert {"PATH", "LC_ALL", "EXTRA"} <= names


async def test_a_failure_quotes_the_command_and_its_output() -> None:
    with pytest.raises(CommandFailed, match=r"ls '/no such' failed with status 2:\n.*No such file"):
        await run(["ls", "/no such"], deadline=10)


async def test_other_statuses_can_be_allowed() -> None:
    assert (await run(["false"], deadline=10, allowed=(0, 1))).status == 1


async def test_a_deadline_kills_the_whole_session(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    script = f"import os,subprocess,time; p=subprocess.Popen(['sleep','60']); open({str(pid_file)!r},'w').write(str(p.pid)); time.sleep(60)"
    with pytest.raises(CommandFailed, match=r"did not finish within 1.5 s"):
        await run([sys.executable, "-I", "-c", script], deadline=1.5)
    grandchild = int(pid_file.read_text())
    for _ in range(100):
        if process.start_time_of(grandchild) is None:
            return
        await asyncio.sleep(0.02)
    pytest.fail("the grandchild survived")


async def test_lines_arrive_as_they_come() -> None:
    lines: list[str] = []
    await run([sys.executable, "-I", "-c", "import sys; sys.stderr.write('one\\ntwo\\r\\n')"], deadline=10, on_line=lines.append)
    assert lines == ["one", "two"]


async def test_a_missing_program_names_its_package() -> None:
    with pytest.raises(MissingTool, match="no-such-tool is not installed") as caught:
        await run(["no-such-tool"], deadline=1)
    assert caught.value.hint == "sudo apt-get install no-such-tool"
    assert find_tool("mke2fs").name == "mke2fs"


async def test_a_spawned_process_is_watched_signalled_and_reaped(tmp_path: Path) -> None:
    child = spawn(["sleep", "60"], output=tmp_path / "log")
    assert process.is_alive(child)
    assert os.getsid(child.pid) == child.pid
    waiting = asyncio.create_task(process.wait_exit(child))
    await asyncio.sleep(0.05)
    assert not waiting.done()
    assert process.send_signal(child, signal.SIGTERM)
    await asyncio.wait_for(waiting, 10)
    assert not process.is_alive(child)
    assert not Path(f"/proc/{child.pid}").exists()
    assert not process.send_signal(child, signal.SIGTERM)


async def test_spawn_writes_to_the_log_and_passes_descriptors(tmp_path: Path) -> None:
    read, write = os.pipe()
    child = spawn([sys.executable, "-I", "-c", f"import os; print('out', flush=True); os.write({write}, b'fd')"], output=tmp_path / "log", pass_fds=(write,))
    os.close(write)
    await process.wait_exit(child)
    assert os.read(read, 10) == b"fd"
    os.close(read)
    assert (tmp_path / "log").read_text() == "out\n"


async def test_ending_a_process_that_ignores_term(tmp_path: Path) -> None:
    script = "import signal,time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(60)"
    child = spawn([sys.executable, "-I", "-c", script], output=tmp_path / "log")
    while "up" not in tail(tmp_path / "log"):
        await asyncio.sleep(0.02)
    assert await process.end(child, grace=0.2)
    assert not await process.end(child)


def test_a_reused_pid_is_another_process() -> None:
    me = process.identify(os.getpid())
    assert process.is_alive(me)
    imposter = ProcessIdentity(pid=me.pid, start_time=me.start_time - 1)
    assert not process.is_alive(imposter)
    assert not process.send_signal(imposter, signal.SIGKILL)


# -- files ----------------------------------------------------------------------------------------------------------------------------------------


def test_atomic_writes_replace_or_leave(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "d" / "file"
    path.parent.mkdir()
    write_atomically(path, b"one")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600

    def fail(_fd: int) -> None:
        raise OSError("disk on fire")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="on fire"):
        write_atomically(path, b"two")
    assert path.read_bytes() == b"one"
    assert list(path.parent.iterdir()) == [path]


def test_sparse_files_take_no_space(tmp_path: Path) -> None:
    make_sparse(tmp_path / "disk", 1 << 30)
    assert (tmp_path / "disk").stat().st_size == 1 << 30
    assert allocated_bytes(tmp_path / "disk") < 1 << 20
    assert allocated_bytes(tmp_path / "missing") == 0
    with pytest.raises(FileExistsError):
        make_sparse(tmp_path / "disk", 1)


def test_publishing_a_directory(tmp_path: Path) -> None:
    (tmp_path / "x.staging").mkdir()
    (tmp_path / "x.staging" / "f").write_text("f")
    publish_directory(tmp_path / "x.staging", tmp_path / "x")
    assert (tmp_path / "x" / "f").read_text() == "f"
    assert sha256_of(tmp_path / "x" / "f").startswith("sha256:252f10c8")


def test_the_tail_of_a_console_cannot_drive_a_terminal(tmp_path: Path) -> None:
    (tmp_path / "console").write_bytes(b"x" * 5000 + b"\x1b]0;evil\x07 end\r\n\tok")
    shown = tail(tmp_path / "console", 30)
    assert len(shown) <= 30
    assert "\x1b" not in shown
    assert "\x07" not in shown
    assert shown.endswith("end\n\tok")
    assert tail(tmp_path / "missing") == ""


def test_a_full_disk_is_named(tmp_path: Path) -> None:
    with pytest.raises(NoSpace, match=f"while testing in {tmp_path}"), explain_no_space("testing", tmp_path), Path("/dev/full").open("wb", buffering=0) as full:
        full.write(b"x")


# -- locks ----------------------------------------------------------------------------------------------------------------------------------------


async def test_locks_exclude_and_waiters_can_leave(tmp_path: Path) -> None:
    held = try_lock(tmp_path / "lock")
    assert held is not None
    assert try_lock(tmp_path / "lock") is None
    with pytest.raises(TimeoutError), locked(tmp_path / "lock", deadline=0.05):
        pytest.fail("locked twice")

    async def wait() -> None:
        async with locked_async(tmp_path / "lock"):
            pass

    waiter = asyncio.create_task(wait())
    await asyncio.sleep(0.01)
    waiter.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiter
    os.close(held)
    await asyncio.wait_for(wait(), 5)


# -- sockets and directories ------------------------------------------------------------------------------------------------------------------------


def test_a_socket_deep_down_is_private_and_knows_its_peer(tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 90) / ("e" * 60)
    deep.mkdir(parents=True)
    path = deep / "s.sock"
    assert len(str(path)) > UNIX_PATH_MAX
    os.umask(os.umask(0))
    with listen(path) as server:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        with connect(path, timeout=5) as client:
            accepted, _ = server.accept()
            with accepted:
                peer = peer_of(accepted)
                assert (peer.pid, peer.uid, peer.gid) == (os.getpid(), os.getuid(), os.getgid())
                client.sendall(b"x")
                assert accepted.recv(1) == b"x"


def test_listening_replaces_a_stale_socket(tmp_path: Path) -> None:
    listen(tmp_path / "s").close()
    with pytest.raises(ConnectionRefusedError):
        connect(tmp_path / "s")
    with listen(tmp_path / "s"), connect(tmp_path / "s") as client:
        assert client.family == socket.AF_UNIX


def test_one_instance_lives_wholly_below_banger_home() -> None:
    layout = Layout.from_environment({"BANGER_HOME": "/srv/b", "XDG_STATE_HOME": "/elsewhere", "HOME": "/home/u"})
    assert {str(p) for p in (layout.config, layout.state, layout.cache, layout.runtime)} == {"/srv/b/config", "/srv/b/state", "/srv/b/cache", "/srv/b/run"}


def test_xdg_directories_and_their_defaults() -> None:
    layout = Layout.from_environment({"HOME": "/home/u", "XDG_STATE_HOME": "relative", "XDG_RUNTIME_DIR": "/run/user/7"})
    assert layout == Layout(
        config=Path("/home/u/.config/banger"),
        state=Path("/home/u/.local/state/banger"),
        cache=Path("/home/u/.cache/banger"),
        runtime=Path("/run/user/7/banger"),
    )
    assert Layout.from_environment({"HOME": "/home/u"}).runtime == Path(f"/tmp/banger-runtime-{os.getuid()}")


def test_a_private_directory_is_made_or_checked(tmp_path: Path) -> None:
    made = private_directory(tmp_path / "a" / "b")
    assert stat.S_IMODE(made.stat().st_mode) == 0o700
    assert private_directory(made) == made
    made.chmod(0o750)
    with pytest.raises(Unauthorized, match="mode 0750"):
        private_directory(made)
    made.chmod(0o700)
    (tmp_path / "link").symlink_to(made)
    with pytest.raises(Unauthorized, match="not a directory"):
        private_directory(tmp_path / "link")


def test_log_lines_are_json_with_the_op_id() -> None:
    token = current_op_id.set("op-123")
    try:
        record = logging.LogRecord("banger.x", logging.INFO, "f", 1, "hello %s", ("you",), None)
        record.vm_id = "abc"
        line = json.loads(JsonLines().format(record))
    finally:
        current_op_id.reset(token)
    assert {"level": "info", "message": "hello you", "op_id": "op-123", "vm_id": "abc", "logger": "banger.x"}.items() <= line.items()
