"""The synchronous exec stream: bytes, credit, exit statuses, signals."""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest

from banger.client.stream import Ended, run_stream
from banger.guest.fields import pack, text
from banger.guest.frames import INITIAL_WINDOW, STDERR, STDOUT, FrameType
from banger.model.errors import ChannelLost, GuestError
from tests.unit.client.fake_daemon import Guest
from tests.unit.client.scripts import Recorder, cat, pours, says


@contextmanager
def guest(script: Callable[[Guest], None]) -> Iterator[socket.socket]:
    """A socket whose other end behaves like ``script``."""
    near, far = socket.socketpair()
    thread = threading.Thread(target=_quietly, args=(script, far), daemon=True)
    thread.start()
    try:
        yield near
    finally:
        near.close()
        thread.join(20)
        far.close()
        assert not thread.is_alive()


def _quietly(script: Callable[[Guest], None], far: socket.socket) -> None:
    try:
        script(Guest(far))
    except (BrokenPipeError, ConnectionResetError):
        pass
    except OSError:
        return


def opened(stack: ExitStack, path: Path, flags: int = os.O_RDWR | os.O_CREAT) -> int:
    fd = os.open(path, flags, 0o600)
    stack.callback(os.close, fd)
    return fd


def pipe(stack: ExitStack) -> tuple[int, int]:
    read, write = os.pipe()
    stack.callback(_close, read)
    stack.callback(_close, write)
    return read, write


def _close(fd: int) -> None:
    with suppress(OSError):
        os.close(fd)


def test_output_goes_to_its_own_descriptor_and_the_status_comes_back(tmp_path: Path) -> None:
    with ExitStack() as stack, guest(says(b"out\n", b"err\n", number=42)) as sock:
        out, err = opened(stack, tmp_path / "out"), opened(stack, tmp_path / "err")
        assert run_stream(sock, stdin=None, stdout=out, stderr=err, tty=False) == Ended(42)
    assert (tmp_path / "out").read_bytes() == b"out\n"
    assert (tmp_path / "err").read_bytes() == b"err\n"


@pytest.mark.parametrize(
    ("kind", "number", "status"),
    [(0, 0, 0), (0, 255, 255), (1, 9, 137), (2, 2, 127), (2, 13, 126)],
    ids=["ok", "255", "killed", "not-found", "not-executable"],
)
def test_exit_statuses(tmp_path: Path, kind: int, number: int, status: int) -> None:
    with ExitStack() as stack, guest(says(kind=kind, number=number, message="exec sl: no")) as sock:
        out = opened(stack, tmp_path / "out")
        ended = run_stream(sock, stdin=None, stdout=out, stderr=out, tty=False)
    assert ended == Ended(status, "exec sl: no")


def test_many_megabytes_go_through_pipes_both_ways_unchanged() -> None:
    data = os.urandom(1 << 20) * 12
    received = bytearray()
    with ExitStack() as stack, guest(cat) as sock:
        (in_read, in_write), (out_read, out_write) = pipe(stack), pipe(stack)

        def feed() -> None:
            with os.fdopen(os.dup(in_write), "wb") as file:
                file.write(data)
            os.close(in_write)

        def drain() -> None:
            while piece := os.read(out_read, 65536):
                received.extend(piece)

        threads = [threading.Thread(target=feed), threading.Thread(target=drain)]
        for thread in threads:
            thread.start()
        assert run_stream(sock, stdin=in_read, stdout=out_write, stderr=2, tty=False) == Ended(0)
        os.close(out_write)
        for thread in threads:
            thread.join()
    assert received == data


def test_a_file_as_stdin_is_sent_with_its_end(tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(b"hello" * 100_000)
    with ExitStack() as stack, guest(cat) as sock:
        out = opened(stack, tmp_path / "out")
        assert run_stream(sock, stdin=opened(stack, tmp_path / "in"), stdout=out, stderr=2, tty=False) == Ended(0)
    assert (tmp_path / "out").read_bytes() == b"hello" * 100_000


def test_a_closed_stdin_is_an_empty_one(tmp_path: Path) -> None:
    with ExitStack() as stack, guest(cat) as sock:
        out = opened(stack, tmp_path / "out")
        assert run_stream(sock, stdin=999, stdout=out, stderr=2, tty=False) == Ended(0)


def test_a_reader_that_does_not_read_holds_the_guest_back() -> None:
    sent: list[int] = []
    size = 4 * INITIAL_WINDOW
    with ExitStack() as stack, guest(pours(size, sent=sent)) as sock:
        out_read, out_write = pipe(stack)
        results: list[Ended] = []
        session = threading.Thread(target=lambda: results.append(run_stream(sock, stdin=None, stdout=out_write, stderr=2, tty=False)))
        session.start()
        first = os.read(out_read, 1)
        # The pipe (64 KiB) and one window: nothing more may be under way while we do not read.
        session.join(0.3)
        assert session.is_alive()
        assert sum(sent) <= INITIAL_WINDOW + 65536 + 65536
        total = len(first)
        while total < size:
            total += len(os.read(out_read, 1 << 20))
        session.join(20)
        assert results == [Ended(0)]


def test_a_slow_stdout_does_not_hold_stderr_back(tmp_path: Path) -> None:
    def script(far: Guest) -> None:
        far.send(FrameType.DATA, b"x" * 65000, STDOUT)
        far.send(FrameType.DATA, b"x" * 65000, STDOUT)
        far.send(FrameType.DATA, b"on time", STDERR)
        says()(far)

    with ExitStack() as stack, guest(script) as sock:
        out_read, out_write = pipe(stack)
        err_read, err_write = pipe(stack)
        session = threading.Thread(target=run_stream, args=(sock,), kwargs={"stdin": None, "stdout": out_write, "stderr": err_write, "tty": False})
        session.start()
        assert os.read(err_read, 100) == b"on time"
        total = 0
        while total < 130_000:
            total += len(os.read(out_read, 65536))
        session.join(20)
        assert not session.is_alive()


def test_a_reader_that_left_ends_the_session_like_a_pipe_victim() -> None:
    with ExitStack() as stack, guest(pours(10 << 20)) as sock:
        out_read, out_write = pipe(stack)
        os.close(out_read)
        assert run_stream(sock, stdin=None, stdout=out_write, stderr=2, tty=False) == Ended(128 + signal.SIGPIPE)


def test_a_closed_stderr_alone_does_not_end_the_command(tmp_path: Path) -> None:
    with ExitStack() as stack, guest(pours(2 << 20, channel=STDERR)) as sock:
        err_read, err_write = pipe(stack)
        os.close(err_read)
        assert run_stream(sock, stdin=None, stdout=1, stderr=err_write, tty=False) == Ended(0)


def test_too_much_output_is_refused_before_it_fills_the_memory() -> None:
    def script(far: Guest) -> None:
        for _ in range(6):
            far.send(FrameType.DATA, b"x" * 65000, STDOUT)

    with ExitStack() as stack, guest(script) as sock:
        _, out_write = pipe(stack)
        with pytest.raises(GuestError, match="credit"):
            run_stream(sock, stdin=None, stdout=out_write, stderr=2, tty=False)


def test_errors_of_the_stream_are_raised() -> None:
    def lost(far: Guest) -> None:
        far.send(FrameType.ERROR, pack((1, text("channel_lost")), (2, text("the machine died"))))

    with guest(lost) as sock, pytest.raises(ChannelLost, match="the machine died"):
        run_stream(sock, stdin=None, stdout=1, stderr=2, tty=False)
    with guest(lambda far: far.sock.shutdown(socket.SHUT_RDWR)) as sock, pytest.raises(ChannelLost, match="hung up"):
        run_stream(sock, stdin=None, stdout=1, stderr=2, tty=False)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGQUIT])
def test_signals_are_forwarded_and_the_command_decides(number: signal.Signals) -> None:
    recorder = Recorder()
    before = signal.getsignal(number)
    with ExitStack() as stack, guest(recorder) as sock:
        out_read, out_write = pipe(stack)

        def interrupt() -> None:
            os.read(out_read, 100)
            os.kill(os.getpid(), number)

        thread = threading.Thread(target=interrupt)
        thread.start()
        assert run_stream(sock, stdin=None, stdout=out_write, stderr=2, tty=False) == Ended(128 + number)
        thread.join()
    assert recorder.signals == [number]
    assert signal.getsignal(number) is before


def test_a_second_interrupt_leaves_a_command_that_does_not_obey() -> None:
    recorder = Recorder(obedient=False)
    with ExitStack() as stack, guest(recorder) as sock:
        out_read, out_write = pipe(stack)

        def interrupt() -> None:
            os.read(out_read, 100)
            os.kill(os.getpid(), signal.SIGINT)
            recorder.wait(lambda: recorder.signals == [signal.SIGINT])
            os.kill(os.getpid(), signal.SIGINT)

        thread = threading.Thread(target=interrupt)
        thread.start()
        assert run_stream(sock, stdin=None, stdout=out_write, stderr=2, tty=False) == Ended(130)
        thread.join()
    assert recorder.closed.is_set()
