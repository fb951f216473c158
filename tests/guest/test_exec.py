"""exec: programs, their streams, terminals, signals and ends."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path

import pytest

from tests.guest.wire import CANCEL, CONTROL, EOF, OPENED, Guest, is_alive, number, pack, u32, wait_until

needs_root = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")]

ENOENT, EACCES = 2, 13


def running(guest: Guest, stream: int) -> int:
    """The pid, once it runs."""
    return number(guest.await_frame(OPENED, stream).fields[1])


def await_output(guest: Guest, stream: int, words: bytes) -> bytes:
    """What the stream's stdout says until ``words`` come."""
    output = b""
    while words not in output:
        output += guest.await_frame(18, stream).payload
    return output


def test_output_error_and_status(guest: Guest) -> None:
    outcome = guest.execute("sh", "-c", "echo out; echo err >&2; exit 42")
    assert outcome.opened is not None
    assert (outcome.output[1], outcome.output[2], outcome.status) == (b"out\n", b"err\n", (0, 42))
    assert sorted(outcome.ended) == [1, 2]


@pytest.mark.parametrize("status", [0, 1, 126, 127, 128, 255])
def test_exit_statuses(guest: Guest, status: int) -> None:
    assert guest.execute("sh", "-c", f"exit {status}").status == (0, status)


@pytest.mark.parametrize("name", ["SIGKILL", "SIGTERM", "SIGSEGV", "SIGPIPE", "SIGHUP"])
def test_death_by_signal(guest: Guest, name: str) -> None:
    assert guest.execute("sh", "-c", f"kill -{name[3:]} $$").status == (1, signal.Signals[name])


def test_programs_that_cannot_be_executed(guest: Guest, tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    plain.write_text("no program")
    cases = {
        "no-such-program": (ENOENT, "exec no-such-program: No such file or directory"),
        "/no/such/program": (ENOENT, "exec /no/such/program: No such file or directory"),
        str(plain): (EACCES, f"exec {plain}: Permission denied"),
        str(tmp_path): (EACCES, f"exec {tmp_path}: Permission denied"),
        "": (ENOENT, "exec : No such file or directory"),
    }
    for program, (errno, message) in cases.items():
        outcome = guest.execute(program)
        assert outcome.opened is None
        assert (outcome.status, outcome.fields[18].decode()) == ((2, errno), message)
    guest.await_no_children()


def test_a_script_without_an_interpreter_line_is_run_by_the_shell(guest: Guest, tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text("echo from a script: $1\n")
    script.chmod(0o755)
    assert guest.execute(str(script), "x").output[1] == b"from a script: x\n"


def test_directory(guest: Guest, tmp_path: Path) -> None:
    assert guest.execute("pwd", cwd=tmp_path).output[1].decode() == f"{tmp_path}\n"
    outcome = guest.execute("pwd", cwd="/nowhere")
    assert (outcome.status, outcome.fields[18]) == ((2, ENOENT), b"chdir /nowhere: No such file or directory")


def test_login_environment_and_overrides(guest: Guest) -> None:
    lines = guest.execute("env", env=["A=1", "B=x=y z", "HOME=/elsewhere", "A=2", "EMPTY="]).output[1].decode().splitlines()
    environment = dict(line.split("=", 1) for line in lines)
    assert environment.pop("SHELL").startswith("/")
    assert environment == {
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "USER": "root",
        "LOGNAME": "root",
        "LANG": "C.UTF-8",
        "HOME": "/elsewhere",
        "A": "2",
        "B": "x=y z",
        "EMPTY": "",
    }
    assert b"TERM=xterm" in guest.execute("env", tty=True).output[1]
    assert b"TERM=vt100" in guest.execute("env", tty=True, env=["TERM=vt100"]).output[1]


def test_the_path_of_the_request_is_searched(guest: Guest, tmp_path: Path) -> None:
    (tmp_path / "only-here").symlink_to("/bin/true")
    assert guest.execute("only-here").status == (2, ENOENT)
    assert guest.execute("only-here", env=[f"PATH={tmp_path}"]).status == (0, 0)


@pytest.mark.parametrize("fields", [[(17, b"NOVALUE")], [(17, b"=x")], [(16, b"a\0b")], [(20, b"long")], [(21, b"")]])
def test_malformed_requests(guest: Guest, fields: list[tuple[int, bytes]]) -> None:
    assert guest.call(2, (16, b"true"), *fields).code == "bad_request"


def test_nothing_of_the_agent_is_inherited(guest: Guest) -> None:
    script = "ls -l /proc/self/fd | grep -c ' -> '; grep -E '^(Sig(Blk|Ign)|ShdPnd)' /proc/self/status; umask; ulimit -n"
    lines = guest.execute("sh", "-c", script).output[1].decode().split("\n")
    assert lines[0] == "4"  # stdio and ls's own directory
    assert [line.split()[1] for line in lines[1:4]] == ["0" * 16] * 3
    assert lines[4:6] == ["0022", "1024"]


def test_its_own_session(guest: Guest) -> None:
    pid, group, session = guest.execute("sh", "-c", "cut -d' ' -f1,5,6 /proc/$$/stat").output[1].split()
    assert pid == group == session


def test_users(guest: Guest, root: Path) -> None:
    assert guest.execute("true", user="nobody-knows-him").code == "no_user"
    assert guest.execute("true", user="-1").code == "no_user"
    assert guest.execute("true", user="4294967295").code == "no_user"


@pytest.mark.parametrize("user", [pytest.param("dev", marks=needs_root), pytest.param("4321", marks=needs_root)])
def test_becoming_somebody(guest: Guest, root: Path, user: str) -> None:
    (root / "etc").mkdir()
    (root / "etc/passwd").write_text("broken\nroot:x:0:0:root:/root:/bin/bash\nempty:x::\ndev:x:4321:1234:Dev:/:/bin/sh\n")
    (root / "etc/group").write_text("dev:x:1234:\nx:bad:\nextra:x:77:root,dev\nno:x:78:deva,adev\nlast:x:79:dev")
    out = guest.execute("sh", "-c", "id -u; id -g; id -G; pwd; echo $USER $HOME $SHELL", user=user).output[1].decode().split("\n")
    assert out[:5] == ["4321", "1234", "1234 77 79", "/", "dev / /bin/sh"]


def test_a_missing_directory_is_made_on_request(guest: Guest, tmp_path: Path) -> None:
    place = tmp_path / "not/yet"
    assert guest.execute("pwd", cwd=place).status == (2, ENOENT)
    assert guest.execute("pwd", cwd=place, make_cwd=True).output[1] == f"{place}\n".encode()


@pytest.mark.parametrize("user", [pytest.param("dev:extra", marks=needs_root), pytest.param("4321:77", marks=needs_root)])
def test_a_group_of_ones_choice_is_the_only_one(guest: Guest, root: Path, user: str) -> None:
    (root / "etc").mkdir()
    (root / "etc/passwd").write_text("dev:x:4321:1234:Dev:/:/bin/sh\n")
    (root / "etc/group").write_text("dev:x:1234:\nextra:x:77:root\nlast:x:79:dev")
    assert guest.execute("sh", "-c", "id -u; id -g; id -G", user=user).output[1] == b"4321\n77\n77\n"
    assert guest.execute("true", user="dev:nobody-knows-it").code == "no_user"


@pytest.mark.parametrize("user", [pytest.param("54321", marks=needs_root)])
def test_a_number_without_an_entry(guest: Guest, user: str) -> None:
    assert guest.execute("sh", "-c", "id -u; id -G; pwd; echo $HOME", user=user).output[1] == b"54321\n54321\n/\n/\n"


def test_login_shell(guest: Guest, root: Path) -> None:
    (root / "etc").mkdir()
    (root / "etc/passwd").write_text(f"root:x:0:0::{root}:/bin/sh\n")
    (root / ".profile").write_text("echo this is a login shell\n")
    stream = guest.start(stdin=True)
    guest.data(stream, b"echo $0 in $PWD; exit 3\n")
    outcome = guest.collect(stream)
    assert outcome.output[1].decode() == f"this is a login shell\n-sh in {root}\n"
    assert outcome.status == (0, 3)


# ---- stdin ----


def test_input_is_copied_and_ended(guest: Guest) -> None:
    stream = guest.start("cat", stdin=True)
    guest.data(stream, b"hello ")
    guest.data(stream, b"")
    guest.data(stream, b"world")
    guest.send(EOF, stream)
    outcome = guest.collect(stream)
    assert (outcome.output[1], outcome.status) == (b"hello world", (0, 0))


def test_without_input_there_is_dev_null(guest: Guest) -> None:
    stream = guest.start("sh", "-c", "readlink /proc/self/fd/0; cat; echo end")
    guest.data(stream, b"nobody reads this")
    guest.send(EOF, stream)
    assert guest.collect(stream).output[1] == b"/dev/null\nend\n"


def test_a_program_that_closes_its_input_is_not_disturbed(guest: Guest) -> None:
    stream = guest.start("sh", "-c", "exec <&-; read x; sleep 0.1; echo done", stdin=True)
    outcome = guest.pump(stream, bytes(1 << 20))
    assert (outcome.output[1], outcome.status) == (b"done\n", (0, 0))


def test_a_program_that_ends_before_its_input(guest: Guest) -> None:
    stream = guest.start("head", "-c", "3", stdin=True)
    outcome = guest.pump(stream, b"abc" + bytes(200000))
    assert (outcome.output[1], outcome.status) == (b"abc", (0, 0))


# ---- terminals ----


def test_terminal(guest: Guest) -> None:
    outcome = guest.execute("sh", "-c", "tty; stty size; stty -a | grep -c iutf8; echo err >&2", tty=True, rows=33, columns=99)
    name, size, utf8, error = outcome.output[1].decode().split("\r\n")[:4]
    assert re.fullmatch("/dev/pts/[0-9]+", name)
    assert (size, utf8, error) == ("33 99", "1", "err")
    assert outcome.output[2] == b""
    assert sorted(outcome.ended) == [1, 2]


def test_terminal_resize(guest: Guest) -> None:
    stream = guest.start("sh", "-c", "trap 'stty size; exit 5' WINCH; echo ready; while :; do sleep 0.02; done", tty=True, rows=24, columns=80)
    await_output(guest, stream, b"ready")
    guest.send(CONTROL, stream, pack([(2, u32(50)), (3, u32(132))]))
    outcome = guest.collect(stream)
    assert b"50 132" in outcome.output[1]
    assert outcome.status == (0, 5)


def test_terminal_interrupt_and_end_of_file(guest: Guest) -> None:
    stream = guest.start("cat", tty=True, stdin=True)
    running(guest, stream)
    guest.data(stream, b"line\n")
    await_output(guest, stream, b"line\r\nline\r\n")
    guest.send(EOF, stream)
    assert guest.collect(stream).status == (0, 0)
    stream = guest.start("sh", "-c", "echo ready; exec sleep 1000", tty=True, stdin=True)
    await_output(guest, stream, b"ready")
    guest.data(stream, b"\x03")
    assert guest.collect(stream).status == (1, signal.SIGINT)


def test_terminal_output_is_complete(guest: Guest) -> None:
    for _ in range(5):
        outcome = guest.execute("sh", "-c", "i=0; while [ $i -lt 3000 ]; do echo $i; i=$((i+1)); done", tty=True)
        assert outcome.output[1].split() == [str(i).encode() for i in range(3000)]


def test_end_of_a_terminal_does_not_wait_for_what_is_left_behind(guest: Guest) -> None:
    outcome = guest.execute("sh", "-c", "sh -c 'trap : HUP; echo $$; while :; do sleep 1; done' & sleep 0.1; exit 7", tty=True)
    assert outcome.status == (0, 7)
    os.kill(int(outcome.output[1].split()[0]), signal.SIGKILL)
    guest.await_no_children()


# ---- signals, cancel, ends ----


def test_signals_go_to_the_process_group(guest: Guest) -> None:
    stream = guest.start("sh", "-c", "trap 'echo got it; exit 9' USR1; sleep 1000 & echo $!; wait")
    child = int(await_output(guest, stream, b"\n"))
    wait_until(lambda: Path(f"/proc/{child}/comm").read_text() == "sleep\n")
    guest.send(CONTROL, stream, pack([(1, u32(signal.SIGUSR1))]))
    outcome = guest.collect(stream)
    assert (outcome.output[1], outcome.status) == (b"got it\n", (0, 9))
    wait_until(lambda: not is_alive(child))


def test_a_signal_at_once_is_not_lost(guest: Guest) -> None:
    for _ in range(20):
        stream = guest.start("sleep", "1000")
        guest.send(CONTROL, stream, pack([(1, u32(signal.SIGTERM))]))
        assert guest.collect(stream).status == (1, signal.SIGTERM)


@pytest.mark.parametrize("payload", [pack([(1, u32(65))]), pack([(1, b"x")]), b"\1"])
def test_malformed_control_ends_the_command(guest: Guest, payload: bytes) -> None:
    stream = guest.start("sleep", "1000")
    pid = running(guest, stream)
    guest.send(CONTROL, stream, payload)
    assert guest.collect(stream).code == "bad_request"
    wait_until(lambda: not is_alive(pid))


def test_cancel_hangs_up_the_group_and_says_nothing_more(guest: Guest) -> None:
    stream = guest.start("sh", "-c", "sleep 1000 & echo $!; kill -STOP $$; wait")
    pid = running(guest, stream)
    child = int(await_output(guest, stream, b"\n"))
    wait_until(lambda: Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T")
    guest.send(CANCEL, stream)
    wait_until(lambda: not is_alive(pid) and not is_alive(child))
    guest.ping()
    assert guest.silence(0.05) == []
    guest.await_no_children()


def test_what_is_left_behind_does_not_keep_the_stream_open(guest: Guest) -> None:
    outcome = guest.execute("sh", "-c", "yes >&2 & sleep 1000 & echo $!; exit 6")
    assert outcome.status == (0, 6)
    assert int(outcome.output[1]) in guest.children(), "the agent is its new parent"
    for pid in guest.children():
        os.kill(pid, signal.SIGKILL)
    guest.await_no_children()


def test_what_was_written_before_the_end_arrives_whole(guest: Guest) -> None:
    """Even when credit comes late."""
    stream = guest.start("sh", "-c", "head -c 300000 /dev/zero | tr '\\0' x; head -c 50000 /dev/zero >&2")
    guest.stingy.add(stream)
    early = guest.silence()
    assert [frame.type for frame in early if frame.type not in (17, 18, 19)] == []
    guest.spare = early
    for channel in (1, 2):
        guest.send(20, stream, u32(1 << 20), channel)
    outcome = guest.collect(stream)
    assert (outcome.output[1], len(outcome.output[2]), outcome.status) == (b"x" * 300000, 50000, (0, 0))


def test_orphans_are_reaped(guest: Guest) -> None:
    outcome = guest.execute("sh", "-c", "for i in 1 2 3 4 5; do (sleep 0.0$i & ) ; done")
    assert outcome.status == (0, 0)
    guest.await_no_children()


def test_descriptors_and_memory_do_not_leak(guest: Guest) -> None:
    guest.execute("true")
    before = guest.open_descriptors()
    for i in range(60):
        assert guest.execute("true" if i % 2 else "no-such-program", tty=i % 3 == 0).end is not None
        guest.execute("true", cwd="/nowhere")
    guest.await_no_children()
    assert guest.open_descriptors() == before


def test_many_at_once(guest: Guest) -> None:
    streams = [guest.start("sh", "-c", f"echo {i}; exit {i}") for i in range(60)]
    for i, stream in enumerate(streams):
        outcome = guest.collect(stream)
        assert (outcome.output[1], outcome.status) == (f"{i}\n".encode(), (0, i))


def test_too_many_streams(guest: Guest) -> None:
    before = guest.open_descriptors()
    streams = [guest.start("sleep", "1000", stdin=True) for _ in range(256)]
    assert guest.execute("true").code == "too_many_streams"
    for stream in streams:
        running(guest, stream)
    for stream in streams:
        guest.send(CANCEL, stream)
    assert guest.execute("true").status == (0, 0)
    guest.await_no_children()
    assert guest.open_descriptors() == before
