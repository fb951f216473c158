"""The wire format of docs/agent-protocol.md, written a second time and in the plainest way: an oracle for the C program, independent of ``banger.guest``."""

from __future__ import annotations

import os
import socket
import struct
import subprocess
import time
import zlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

ATTACH, HELLO, PING, PONG, EVENT = 1, 2, 3, 4, 5
OPEN, OPENED, DATA, EOF, WINDOW, CONTROL, RESULT, ERROR, CANCEL = range(16, 25)
CONFIGURE, EXEC, READ, WRITE, LISTENERS, STATS, SHUTDOWN, TIME, SYNC, CONNECT = range(1, 11)
MAGIC, TRAILER = b"BGR1", b"\x52\x42\x0a\x5a"
CREDIT = 262144
PATIENCE = 20.0

Fields = Iterable[tuple[int, bytes]]


@dataclass(frozen=True)
class Frame:
    type: int
    stream: int
    payload: bytes = b""
    channel: int = 0
    epoch: int = 1

    @property
    def fields(self) -> dict[int, bytes]:
        return dict(unpack(self.payload))


def encode(frame: Frame) -> bytes:
    head = MAGIC + struct.pack("<BBHIII", frame.type, frame.channel, 0, frame.stream, len(frame.payload), frame.epoch)
    return head + struct.pack("<I", zlib.crc32(head)) + frame.payload + TRAILER


def pack(fields: Fields) -> bytes:
    return b"".join(struct.pack("<HI", tag, len(value)) + value for tag, value in fields)


def unpack(payload: bytes) -> list[tuple[int, bytes]]:
    fields = []
    while payload:
        tag, length = struct.unpack_from("<HI", payload)
        assert len(payload) >= 6 + length
        fields.append((tag, payload[6 : 6 + length]))
        payload = payload[6 + length :]
    return fields


def u8(value: int) -> bytes:
    return struct.pack("<B", value)


def u32(value: int) -> bytes:
    return struct.pack("<I", value)


def u64(value: int) -> bytes:
    return struct.pack("<Q", value)


def number(value: bytes) -> int:
    return int.from_bytes(value, "little")


@dataclass
class Outcome:
    """Everything a stream sent until its end."""

    opened: Frame | None = None
    received: dict[int, bytearray] = field(default_factory=lambda: {1: bytearray(), 2: bytearray()})
    ended: list[int] = field(default_factory=list)
    end: Frame | None = None

    @property
    def output(self) -> dict[int, bytes]:
        return {channel: bytes(content) for channel, content in self.received.items()}

    @property
    def fields(self) -> dict[int, bytes]:
        assert self.end is not None and self.end.type == RESULT, self.end
        return self.end.fields

    @property
    def status(self) -> tuple[int, int]:
        return number(self.fields[16]), number(self.fields[17])

    @property
    def code(self) -> str:
        assert self.end is not None and self.end.type == ERROR, self.end
        return self.end.fields[1].decode()


class Wire:
    """The host's side of one connection. Gives credit back at once, except to the streams in ``stingy``."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.sock.settimeout(PATIENCE)
        self.buffer = bytearray()
        self.epoch = 1
        self.stingy: set[int] = set()
        self.next_stream = 1
        self.spare: list[Frame] = []

    def send(self, type: int, stream: int = 0, payload: bytes = b"", channel: int = 0, epoch: int | None = None) -> None:
        self.sock.sendall(encode(Frame(type, stream, payload, channel, self.epoch if epoch is None else epoch)))

    def _take_frame(self) -> Frame | None:
        at = self.buffer.find(MAGIC)
        if at < 0:
            del self.buffer[:-3]
            return None
        del self.buffer[:at]
        if len(self.buffer) < 24:
            return None
        head = bytes(self.buffer[:24])
        type, channel, reserved, stream, length, epoch, checksum = struct.unpack_from("<BBHIIII", head, 4)
        if checksum != zlib.crc32(head[:20]) or reserved or length > 65504:
            del self.buffer[:1]
            return self._take_frame()
        if len(self.buffer) < 28 + length:
            return None
        if self.buffer[24 + length : 28 + length] != TRAILER:
            del self.buffer[:1]
            return self._take_frame()
        frame = Frame(type, stream, bytes(self.buffer[24 : 24 + length]), channel, epoch)
        del self.buffer[: 28 + length]
        return frame

    def receive(self) -> Frame:
        """The next frame of any stream; credit for its bytes goes back at once."""
        while (frame := self._take_frame()) is None:
            piece = self.sock.recv(1 << 20)
            if not piece:
                raise ConnectionError("the guest program closed the connection")
            self.buffer += piece
        if frame.type == DATA and frame.stream not in self.stingy:
            self.send(WINDOW, frame.stream, u32(len(frame.payload)), frame.channel)
        return frame

    def await_frame(self, type: int, stream: int = 0) -> Frame:
        """The next frame of that kind; others are kept for later calls."""
        for i, frame in enumerate(self.spare):
            if (frame.type, frame.stream) == (type, stream):
                return self.spare.pop(i)
        while (frame := self.receive()).type != type or frame.stream != stream:
            self.spare.append(frame)
        return frame

    def silence(self, seconds: float = 0.2) -> list[Frame]:
        """What arrives until nothing has come for so long."""
        frames, self.spare = self.spare, []
        self.sock.settimeout(seconds)
        try:
            while True:
                frames.append(self.receive())
        except TimeoutError:
            return frames
        finally:
            self.sock.settimeout(PATIENCE)

    def ping(self, payload: bytes = b"are you there") -> None:
        """Everything sent before has been handled when this returns."""
        self.send(PING, 0, payload)
        assert self.await_frame(PONG).payload == payload

    def open(self, operation: int, *fields: tuple[int, bytes]) -> int:
        stream, self.next_stream = self.next_stream, self.next_stream + 1
        self.send(OPEN, stream, pack([(1, u32(operation)), *fields]))
        return stream

    def data(self, stream: int, content: bytes) -> None:
        """Sends content on channel 0, within one initial credit."""
        for start in range(0, len(content), 65504):
            self.send(DATA, stream, content[start : start + 65504])

    def collect(self, stream: int, outcome: Outcome | None = None) -> Outcome:
        """Reads until the stream ends; frames of other streams are kept."""
        outcome = outcome or Outcome()
        kept, self.spare = self.spare, []
        while outcome.end is None:
            frame = kept.pop(0) if kept else self.receive()
            if frame.stream != stream:
                self.spare.append(frame)
            elif frame.type == OPENED:
                outcome.opened = frame
            elif frame.type == DATA:
                assert frame.channel not in outcome.ended
                outcome.received[frame.channel] += frame.payload
            elif frame.type == EOF:
                outcome.ended.append(frame.channel)
            elif frame.type in (RESULT, ERROR):
                outcome.end = frame
        self.spare += kept
        return outcome

    def call(self, operation: int, *fields: tuple[int, bytes]) -> Outcome:
        return self.collect(self.open(operation, *fields))

    def start(self, *arguments: str, **options: object) -> int:
        """Opens an exec. Options: env (list), cwd, user, tty, rows, columns, stdin, make_cwd."""
        fields = [(16, argument.encode()) for argument in arguments]
        env = options.get("env", [])
        assert isinstance(env, list)
        fields += [(17, variable.encode()) for variable in env]
        fields += [(tag, str(options[name]).encode()) for tag, name in ((18, "cwd"), (19, "user")) if name in options]
        fields += [(tag, u8(1)) for tag, name in ((20, "tty"), (23, "stdin"), (24, "make_cwd")) if options.get(name)]
        fields += [(tag, u32(int(str(options[name])))) for tag, name in ((21, "rows"), (22, "columns")) if name in options]
        return self.open(EXEC, *fields)

    def execute(self, *arguments: str, **options: object) -> Outcome:
        return self.collect(self.start(*arguments, **options))

    def pump(self, stream: int, content: bytes) -> Outcome:
        """Sends content on channel 0 as credit allows, ends it, and reads until the stream ends."""
        outcome, credit, sent, closed = Outcome(), CREDIT, 0, False
        while outcome.end is None:
            while credit and sent < len(content):
                piece = content[sent : sent + min(credit, 65504)]
                self.send(DATA, stream, piece)
                sent, credit = sent + len(piece), credit - len(piece)
            if sent == len(content) and not closed:
                self.send(EOF, stream)
                closed = True
            frame = self.receive()
            if frame.stream != stream:
                continue
            if frame.type == WINDOW:
                credit += number(frame.payload)
            elif frame.type == DATA:
                outcome.received[frame.channel] += frame.payload
            elif frame.type in (RESULT, ERROR):
                outcome.end = frame
        return outcome

    def attach(self, nonce: int, *, version: int = 1) -> Frame:
        self.sock.sendall(bytes(65536))
        self.send(ATTACH, 0, pack([(1, u64(nonce)), (2, u32(version))]), epoch=0)
        while True:
            hello = self.await_frame(HELLO)
            if number(hello.fields[1]) == nonce:
                self.epoch = hello.epoch
                self.spare.clear()
                return hello


class Guest(Wire):
    """The sanitized program on one end of a socketpair; leaving the context ends it and checks that no sanitizer complained."""

    def __init__(self, program: Path, root: Path, *, configured: bool = True) -> None:
        ours, theirs = socket.socketpair()
        words: list[str | Path] = [program, "--serve-fd", str(theirs.fileno()), "--root", root]
        if not configured:
            words.append("--unconfigured")
        self.log = root.parent / f"{root.name}.log"
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(words, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, stderr=log, cwd="/")
        theirs.close()
        super().__init__(ours)

    def __enter__(self) -> Guest:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.sock.close()
        try:
            status = self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            status = self.process.wait()
        complaints = self.log.read_text(errors="replace")
        if error is None or "Sanitizer" in complaints or "runtime error" in complaints:
            assert (status, "Sanitizer" in complaints, "runtime error" in complaints) == (0, False, False), complaints

    def greet(self) -> Frame:
        return self.await_frame(HELLO)

    def children(self) -> list[int]:
        return [int(pid) for pid in Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()]

    def await_no_children(self) -> None:
        wait_until(lambda: not self.children())

    def open_descriptors(self) -> int:
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    def resident(self) -> int:
        """Bytes of memory in use, as the kernel counts them."""
        return int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]) * 4096


def wait_until(condition: object, patience: float = PATIENCE) -> None:
    assert callable(condition)
    end = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.005)


def is_alive(pid: int) -> bool:
    """Whether the process exists and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
