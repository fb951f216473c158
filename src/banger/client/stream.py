"""A command's byte streams: the caller's stdin, stdout, stderr, terminal and signals over attach.sock (docs/agent-protocol.md, section 7).

One thread and poll(2). Nothing here blocks on one stream while another could move: stdin is read within the guest's credit, and credit for
stdout and stderr is given back as their bytes are really written, so a slow reader slows its own channel alone and memory stays bounded.

Signals. Without a tty, SIGINT, SIGTERM and SIGQUIT are forwarded to the command; a second SIGINT or SIGTERM leaves it behind. With a tty Ctrl-C
is a key like any other; SIGTERM leaves. SIGHUP always leaves, and so does any of them before the guest has begun to run the command. To
leave is to disconnect: the guest's process group gets SIGHUP.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import signal
import socket
import stat
import time
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Final

from ..guest.fields import pack, u32
from ..guest.frames import INITIAL_WINDOW, MAX_PAYLOAD, STDERR, STDIN, STDOUT, Frame, FrameReader, FrameType, encode
from ..guest.outcome import ExecOutcome, decode_refusal
from ..model.errors import BangerError, ChannelLost, GuestError, GuestTimeout
from .terminal import SignalPipe, raw_mode, window_size

_STREAM: Final = 1
_GRANT_STEP: Final = INITIAL_WINDOW // 4
_RECEIVE: Final = 256 * 1024
_BACKLOG: Final = 256 * 1024
"""Bytes waiting for the daemon's socket beyond which stdin is left alone."""
_PIPE_STEP: Final = select.PIPE_BUF
"""A write of so much does not block on a pipe that poll(2) calls writable; more may."""
_FILE_STEP: Final = 65536
_WINDOW_BYTES: Final = 4
ANSWER_SECONDS: Final = 30.0
"""How long a guest may take to begin a command; one that is frozen would keep us for ever."""
_HUNG_UP: Final = "the machine may still be running: see `banger daemon status`; what `banger vm exec -d` starts goes on without the daemon"
_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGWINCH)


@dataclass(frozen=True, slots=True)
class Ended:
    """How the session ended: exit status for the shell, and what to tell the user if the command was not started."""

    status: int
    message: str = ""


class Delivered:
    """How much of each output was really written, so that another stream can go on from there: at ``offset``, less what is ``beyond`` it."""

    def __init__(self) -> None:
        self._bytes = {STDOUT: 0, STDERR: 0}

    @property
    def offset(self) -> int:
        """Bytes that were written of both."""
        return min(self._bytes.values())

    def beyond(self, channel: int) -> int:
        """Bytes more that were written of this one."""
        return self._bytes[channel] - self.offset

    def add(self, channel: int, size: int) -> None:
        self._bytes[channel] += size


class _Left(Exception):
    """The session is over for this side, with this exit status, whatever the command does."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


class _Output:
    """Bytes of one channel on their way to a descriptor of ours."""

    def __init__(self, channel: int, fd: int, delivered: Delivered) -> None:
        self.channel = channel
        self.fd = fd
        self.open = True
        self._delivered = delivered
        self._known = delivered.beyond(channel)
        self._waiting: deque[memoryview] = deque()
        self._allowed = INITIAL_WINDOW
        self._consumed = 0
        self._step = _FILE_STEP if _never_blocks(fd) else _PIPE_STEP
        self._poll = select.poll()
        self._poll.register(fd, select.POLLOUT)

    @property
    def pending(self) -> bool:
        return bool(self._waiting)

    def put(self, untrusted_data: bytes | memoryview) -> None:
        """Queue what came. Raises GuestError when the other side sent more than it may."""
        self._allowed -= len(untrusted_data)
        if self._allowed < 0:
            raise GuestError("the guest sent more output than it was given credit for")
        known = min(self._known, len(untrusted_data)) if self.open else len(untrusted_data)
        self._known = max(0, self._known - known)
        self._consumed += known
        if known < len(untrusted_data):
            self._waiting.append(memoryview(untrusted_data)[known:])

    def write(self) -> None:
        """Write what can be written now. Raises OSError, such as BrokenPipeError when the reader has gone."""
        while self._waiting and self._poll.poll(0):
            head = self._waiting[0]
            try:
                written = os.write(self.fd, head[: self._step])
            except BlockingIOError:
                return
            self._consumed += written
            self._delivered.add(self.channel, written)
            if written < len(head):
                self._waiting[0] = head[written:]
            else:
                self._waiting.popleft()

    def drop(self) -> None:
        """Nobody reads this any more: swallow what waits and what will come."""
        self.open = False
        self._consumed += sum(map(len, self._waiting))
        self._waiting.clear()

    def grant(self) -> int:
        """Credit to give back now: nothing until it is worth a frame."""
        if self._consumed < _GRANT_STEP:
            return 0
        granted, self._consumed = self._consumed, 0
        self._allowed += granted
        return granted


def run_stream(
    sock: socket.socket, *, stdin: int | None, stdout: int, stderr: int, tty: bool, forward_signals: bool = True, delivered: Delivered | None = None
) -> Ended:
    """Move the bytes of one exec until it ends; ``sock`` is an attached stream, which stays the caller's to close.

    ``stdin`` None: the command was started without. ``tty``: the command has a terminal; if ``stdin`` is one too, it is in raw mode meanwhile.
    Without ``forward_signals`` the first signal leaves at once. ``delivered``: what was written before is left out, what is written now is added.
    A stdout that nobody reads any more ends the session with 141, as SIGPIPE would. Raises GuestError or ChannelLost.
    """
    with ExitStack() as stack:
        signals = stack.enter_context(SignalPipe(_SIGNALS))
        if tty and stdin is not None and os.isatty(stdin):
            stack.enter_context(raw_mode(stdin))
        stack.enter_context(_nonblocking(sock))
        delivered = delivered or Delivered()
        outputs = _Output(STDOUT, stdout, delivered), _Output(STDERR, stderr, delivered)
        session = _Session(sock, signals, stdin, *outputs, tty=tty, forwards=forward_signals)
        try:
            return session.run()
        except _Left as left:
            return Ended(left.status)


class _Session:
    def __init__(self, sock: socket.socket, signals: SignalPipe, stdin: int | None, stdout: _Output, stderr: _Output, *, tty: bool, forwards: bool) -> None:
        self._sock = sock
        self._signals = signals
        self._stdin = stdin
        self._credit = INITIAL_WINDOW
        self._outputs = {STDOUT: stdout, STDERR: stderr}
        self._tty = tty
        self._forwards = forwards
        self._interrupts = 0
        self._reader = FrameReader()
        self._unsent = bytearray()
        self._ended: Ended | None = None
        self._answered = False
        self._answer_by = time.monotonic() + ANSWER_SECONDS
        self._poll = select.poll()
        self._watched: dict[int, int] = {}

    def run(self) -> Ended:
        while self._ended is None or any(output.pending for output in self._outputs.values()):
            self._watch()
            ready = self._poll.poll(None if self._answered else max(0.0, self._answer_by - time.monotonic()) * 1000)
            for fd, events in ready:
                self._handle(fd, events)
            if not self._answered and time.monotonic() > self._answer_by:
                raise GuestTimeout(
                    f"the guest did not begin to run the command within {ANSWER_SECONDS:g} s",
                    hint="it may be frozen: look at its console with `banger vm logs`, or end it with `banger vm kill`",
                )
        return self._ended

    def _watch(self) -> None:
        """Ask poll(2) for exactly what we could act on."""
        wanted = {self._signals.fileno(): select.POLLIN}
        if self._ended is None:
            wanted[self._sock.fileno()] = select.POLLIN | (select.POLLOUT if self._unsent else 0)
            if self._stdin is not None and self._credit > 0 and len(self._unsent) < _BACKLOG:
                wanted[self._stdin] = select.POLLIN
        for output in self._outputs.values():
            if output.pending:
                wanted[output.fd] = wanted.get(output.fd, 0) | select.POLLOUT
        if wanted != self._watched:
            for fd in self._watched.keys() - wanted.keys():
                self._poll.unregister(fd)
            for fd, events in wanted.items():
                self._poll.register(fd, events)
            self._watched = wanted

    def _handle(self, fd: int, events: int) -> None:
        if fd == self._signals.fileno():
            for number in self._signals.take():
                self._signal(number)
        elif fd == self._sock.fileno():
            self._flush()
            self._receive()
        else:
            if fd == self._stdin and events & ~select.POLLOUT:
                self._read_stdin()
            for output in self._outputs.values():
                if output.fd == fd and output.pending:
                    self._write(output)

    def _send(self, kind: FrameType, payload: bytes = b"", channel: int = 0) -> None:
        self._unsent += encode(Frame(kind, _STREAM, payload, channel))
        self._flush()

    def _flush(self) -> None:
        while self._unsent:
            try:
                sent = self._sock.send(self._unsent)
            except BlockingIOError:
                return
            except (BrokenPipeError, ConnectionResetError):
                self._unsent.clear()  # the receiving side will say why
                return
            del self._unsent[:sent]

    def _receive(self) -> None:
        try:
            untrusted_data = self._sock.recv(_RECEIVE)
        except BlockingIOError:
            return
        except ConnectionResetError:
            untrusted_data = b""
        if not untrusted_data and self._ended is None:
            raise ChannelLost("the daemon hung up in the middle of the command, which got a hangup (SIGHUP) with it", hint=_HUNG_UP)
        for frame in self._reader.feed(untrusted_data):
            self._take(frame)

    def _take(self, frame: Frame) -> None:
        self._answered = True
        if frame.type == FrameType.DATA and frame.channel in self._outputs:
            output = self._outputs[frame.channel]
            output.put(frame.payload)
            self._write(output)
        elif frame.type == FrameType.WINDOW and frame.channel == STDIN and len(frame.payload) == _WINDOW_BYTES:
            self._credit += int.from_bytes(frame.payload, "little")
        elif frame.type == FrameType.RESULT:
            outcome = ExecOutcome.decode(frame.payload)
            self._ended = Ended(outcome.exit_status, outcome.message)
        elif frame.type == FrameType.ERROR:
            raise decode_refusal(frame.payload)

    def _read_stdin(self) -> None:
        assert self._stdin is not None
        try:
            data = os.read(self._stdin, min(self._credit, MAX_PAYLOAD))
        except BlockingIOError:
            return
        except OSError:  # a terminal that was hung up
            data = b""
        if data:
            self._credit -= len(data)
            self._send(FrameType.DATA, data, STDIN)
        else:
            self._stdin = None
            self._send(FrameType.EOF, channel=STDIN)

    def _write(self, output: _Output) -> None:
        """Write what can be written now and give credit for it."""
        try:
            output.write()
        except OSError as error:
            if output.channel == STDERR:
                output.drop()
            elif error.errno in (errno.EPIPE, errno.EIO):  # EIO: a terminal that was hung up
                raise _Left(128 + signal.SIGPIPE) from error
            else:
                raise BangerError(f"cannot write the command's output: {error.strerror}") from error
        if (granted := output.grant()) and self._ended is None:
            self._send(FrameType.WINDOW, u32(granted), output.channel)

    def _signal(self, number: int) -> None:
        if number == signal.SIGWINCH:
            if self._tty:
                rows, columns = window_size(self._outputs[STDOUT].fd)
                self._send(FrameType.CONTROL, pack((2, u32(rows)), (3, u32(columns))))
            return
        leave = number == signal.SIGHUP or not self._forwards or self._ended is not None or not self._answered or (self._tty and number == signal.SIGTERM)
        if number in (signal.SIGINT, signal.SIGTERM):
            self._interrupts += 1
        if leave or self._interrupts > 1:
            raise _Left(128 + number)
        self._send(FrameType.CONTROL, pack((1, u32(number))))


def _never_blocks(fd: int) -> bool:
    """Regular files and devices such as /dev/null take any amount at once; pipes, sockets and terminals may make us wait."""
    try:
        mode = os.fstat(fd).st_mode
    except OSError:
        return False
    return stat.S_ISREG(mode) or (stat.S_ISCHR(mode) and not os.isatty(fd))


@contextmanager
def _nonblocking(sock: socket.socket) -> Iterator[None]:
    sock.setblocking(False)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            sock.setblocking(True)
