"""The daemon's side against the real guest program, built with sanitizers and run on this host behind a pipe as lossy as a virtio port."""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
import shutil
import signal
import socket
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from banger.guest.agent import Agent, Configuration, FileToWrite, exec_request
from banger.guest.fields import pack, u32
from banger.guest.frames import INITIAL_WINDOW, MAX_PAYLOAD, STDERR, STDIN, STDOUT, Frame, FrameType, Operation
from banger.guest.outcome import ExecOutcome, decode_refusal
from banger.model.errors import GuestError, GuestTimeout

GUEST = Path(__file__).parents[3] / "guest"

pytestmark = pytest.mark.skipif(shutil.which("make") is None or shutil.which("cc") is None, reason="no C compiler")


@pytest.fixture(scope="session")
def binary() -> Path:
    """The program; make does nothing when it is up to date."""
    subprocess.run(["make", "-C", GUEST, "sanitized"], check=True, capture_output=True, timeout=50)
    return GUEST / "build/banger-guest-sanitized"


class Port:
    """What QEMU's virtio port is: the guest's end stays open; hosts come and go, and bytes are lost in between."""

    def __init__(self, guest: socket.socket, pid: int) -> None:
        self._guest = guest
        self.pid = pid
        self._host: socket.socket | None = None
        self._sending = asyncio.Lock()
        self._outwards = asyncio.create_task(self._move_outwards())
        self._inwards: list[asyncio.Task[None]] = []

    def connect(self, *, cut_after: int = -1) -> socket.socket:
        """A new host end, in place of the former one. ``cut_after``: drop it once that many bytes have gone towards the guest."""
        self.disconnect()
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        self._host = ours
        self._inwards.append(asyncio.create_task(self._move_inwards(ours, cut_after)))
        return theirs

    def disconnect(self) -> None:
        if self._host is not None:
            with suppress(OSError):
                self._host.shutdown(socket.SHUT_RDWR)
            self._host = None

    async def close(self) -> None:
        self.disconnect()
        self._outwards.cancel()
        await asyncio.gather(self._outwards, return_exceptions=True)
        for task in self._inwards:
            task.cancel()
        await asyncio.gather(*self._inwards, return_exceptions=True)
        self._guest.close()

    async def _move_inwards(self, host: socket.socket, cut_after: int) -> None:
        loop = asyncio.get_running_loop()
        try:
            while cut_after and (data := await loop.sock_recv(host, 65536 if cut_after < 0 else min(65536, cut_after))):
                cut_after -= len(data) if cut_after > 0 else 0
                await loop.sock_sendall(self._guest, data)
        finally:
            if self._host is host:
                self.disconnect()
            async with self._sending:
                host.close()

    async def _move_outwards(self) -> None:
        loop = asyncio.get_running_loop()
        while data := await loop.sock_recv(self._guest, 8192):
            async with self._sending:
                if self._host is not None:
                    with suppress(OSError):
                        await loop.sock_sendall(self._host, data)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    path = tmp_path / "root"
    (path / "tmp").mkdir(parents=True)
    return path


@pytest.fixture
def report(tmp_path: Path) -> Iterator[Path]:
    """Where the program's stderr goes; no sanitizer may have complained."""
    path = tmp_path / "program.log"
    yield path
    text = path.read_text(errors="replace")
    assert "Sanitizer" not in text, text
    assert "runtime error" not in text, text


def children_of(pid: int) -> list[int]:
    """Children that a live process has right now; none when it has ended."""
    try:
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except FileNotFoundError:
        return []


@asynccontextmanager
async def running(binary: Path, root: Path, report: Path, *options: str) -> AsyncIterator[Port]:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    with theirs, report.open("wb") as log:
        argv: list[str | Path] = [binary, "--serve-fd", str(theirs.fileno()), "--root", root, *options]
        process = subprocess.Popen(argv, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    port = Port(ours, process.pid)
    try:
        yield port
        assert process.poll() is None, "the program has died"
        await port.close()
        assert await asyncio.to_thread(process.wait, 20) == 0
    finally:
        for pid in children_of(process.pid):
            os.kill(pid, signal.SIGKILL)
        process.kill()
        process.wait()
        await port.close()


@asynccontextmanager
async def greeted(binary: Path, root: Path, report: Path, *options: str) -> AsyncIterator[tuple[Agent, Port]]:
    async with running(binary, root, report, *options) as port:
        agent = await Agent.greet(port.connect(), deadline=20)
        try:
            yield agent, port
        finally:
            await agent.close()


class Command:
    """A client of one exec stream: collects output and gives credit back for it."""

    def __init__(self, agent: Agent, *argv: str, stdin: bool = False, tty: bool = False, reading: bool = True, env: dict[str, str] | None = None) -> None:
        self._frames: asyncio.Queue[Frame | None] = asyncio.Queue()
        self.output = {STDOUT: bytearray(), STDERR: bytearray()}
        self.credit = INITIAL_WINDOW
        self.changed = asyncio.Event()
        self.opened = asyncio.Event()
        self.outcome: ExecOutcome | GuestError | None = None
        request = exec_request(argv=argv, env=env or {}, cwd="", user="", tty=tty, rows=24, columns=80, stdin=stdin)
        self.stream = agent.forward(Operation.EXEC, request, self._frames.put_nowait, lambda: self._frames.put_nowait(None))
        self._reading = asyncio.create_task(self._read(reading))

    async def _read(self, reading: bool) -> None:
        while (frame := await self._frames.get()) is not None:
            if frame.type == FrameType.DATA:
                self.output[frame.channel] += frame.payload
                if reading:
                    await self.stream.send(Frame(FrameType.WINDOW, 1, u32(len(frame.payload)), frame.channel))
            elif frame.type == FrameType.WINDOW:
                self.credit += int.from_bytes(frame.payload, "little")
            elif frame.type == FrameType.OPENED:
                self.opened.set()
            elif frame.type == FrameType.RESULT:
                self.outcome = ExecOutcome.decode(frame.payload)
            elif frame.type == FrameType.ERROR:
                self.outcome = decode_refusal(frame.payload)
            self.changed.set()
            if self.outcome is not None:
                return

    async def type(self, content: bytes, *, end: bool = True) -> None:
        """Send standard input, within credit."""
        for start in range(0, len(content), MAX_PAYLOAD):
            chunk = content[start : start + MAX_PAYLOAD]
            while self.credit < len(chunk) and self.outcome is None:
                self.changed.clear()
                await self.changed.wait()
            self.credit -= len(chunk)
            await self.stream.send(Frame(FrameType.DATA, 1, chunk, STDIN))
        if end:
            await self.stream.send(Frame(FrameType.EOF, 1, b"", STDIN))

    async def until(self, words: bytes) -> None:
        """Return when standard output contains ``words``."""
        while words not in self.output[STDOUT]:
            assert self.outcome is None, (self.outcome, self.output)
            self.changed.clear()
            await self.changed.wait()

    async def end(self) -> ExecOutcome:
        await self._reading
        assert isinstance(self.outcome, ExecOutcome), self.outcome
        return self.outcome

    async def gone(self) -> None:
        """The channel has ended under it."""
        await self._reading
        assert self.outcome is None


async def test_exec_output_and_status(binary: Path, root: Path, report: Path) -> None:
    async with greeted(binary, root, report) as (agent, _):
        assert agent.hello.state >= 2
        command = Command(agent, "/bin/sh", "-c", 'echo out; echo "err $K" >&2; exit 42', env={"K": "v"})
        assert (await command.end()).exit_status == 42
        assert command.output == {STDOUT: b"out\n", STDERR: b"err v\n"}
        killed = Command(agent, "/bin/sh", "-c", "kill -9 $$")
        assert (await killed.end()).exit_status == 137
        absent = Command(agent, "/no/such/program")
        assert (await absent.end()).exit_status == 127
        plain = Command(agent, "/etc/passwd")
        assert (await plain.end()).exit_status == 126
        assert await agent.ping() > 0


async def test_signals_and_terminals(binary: Path, root: Path, report: Path) -> None:
    async with greeted(binary, root, report) as (agent, _):
        asleep = Command(agent, "/bin/sh", "-c", "trap 'exit 9' TERM; echo up; while :; do sleep 0.05; done")
        await asleep.until(b"up")
        await asleep.stream.send(Frame(FrameType.CONTROL, 1, pack((1, u32(15)))))
        assert (await asleep.end()).exit_status == 9
        terminal = Command(agent, "/bin/sh", "-c", "stty size; read x; stty size; echo got $x", tty=True, stdin=True)
        await terminal.until(b"24 80")
        await terminal.stream.send(Frame(FrameType.CONTROL, 1, pack((2, u32(50)), (3, u32(132)))))
        await terminal.type(b"hi\n", end=False)
        assert (await terminal.end()).exit_status == 0
        assert b"50 132" in terminal.output[STDOUT]
        assert b"got hi" in terminal.output[STDOUT]


async def test_bulk_both_ways(binary: Path, root: Path, report: Path) -> None:
    content = random.Random(1).randbytes(8 << 20)
    async with greeted(binary, root, report) as (agent, _):
        command = Command(agent, "/bin/cat", stdin=True)
        await command.type(content)
        assert (await command.end()).exit_status == 0
        assert hashlib.sha256(command.output[STDOUT]).digest() == hashlib.sha256(content).digest()


async def test_a_stream_that_nobody_reads_blocks_itself_alone(binary: Path, root: Path, report: Path) -> None:
    async with greeted(binary, root, report) as (agent, _):
        flood = Command(agent, "/bin/sh", "-c", "exec yes", reading=False)
        while len(flood.output[STDOUT]) < INITIAL_WINDOW:
            flood.changed.clear()
            await flood.changed.wait()
        stuffed = Command(agent, "/bin/sh", "-c", "exec sleep 1000", stdin=True)
        await stuffed.stream.send(Frame(FrameType.DATA, 1, bytes(60000), STDIN))
        for _ in range(3):
            assert (await Command(agent, "/bin/echo", "well").end()).exit_status == 0
        assert len(flood.output[STDOUT]) == INITIAL_WINDOW
        await flood.stream.send(Frame(FrameType.WINDOW, 1, u32(1000), STDOUT))
        while len(flood.output[STDOUT]) < INITIAL_WINDOW + 1000:
            flood.changed.clear()
            await flood.changed.wait()
        for command in (flood, stuffed):
            command.stream.cancel()
            command._reading.cancel()


async def test_files(binary: Path, root: Path, report: Path) -> None:
    content = random.Random(2).randbytes(3 << 20)
    async with greeted(binary, root, report) as (agent, _):
        await agent.write_file(FileToWrite(path="/tmp/deep/er/file", content=content, mode=0o640, uid=os.getuid(), gid=os.getgid()), parents=True)
        written = root / "tmp/deep/er/file"
        assert written.read_bytes() == content
        assert written.stat().st_mode & 0o7777 == 0o640
        assert await agent.read_file("/tmp/deep/er/file", limit=4 << 20) == content
        with pytest.raises(GuestError, match="longer than"):
            await agent.read_file("/tmp/deep/er/file", limit=1 << 20)
        for path, code in (("/none", "not_found"), ("/tmp", "not_a_file")):
            with pytest.raises(GuestError) as caught:
                await agent.read_file(path, limit=100)
            assert caught.value.guest_code == code
        assert sorted(path.name for path in (root / "tmp/deep/er").iterdir()) == ["file"]


async def test_questions(binary: Path, root: Path, report: Path) -> None:
    async with greeted(binary, root, report) as (agent, _):
        with socket.create_server(("127.0.0.1", 0)) as listening:
            port = listening.getsockname()[1]
            mine = [one for one in await agent.listeners() if one.port == port and one.protocol == "tcp"]
        assert [(one.address, one.pid in (0, os.getpid())) for one in mine] == [("127.0.0.1", True)]
        stats = await agent.stats()
        assert 0 < stats.memory_available <= stats.memory_total
        assert stats.processes > 0
        assert (await agent.time()).uptime_us > 0
        await agent.sync()


async def test_everything_but_ping_is_refused_before_configure(binary: Path, root: Path, report: Path) -> None:
    async with greeted(binary, root, report, "--unconfigured") as (agent, _):
        assert agent.hello.state == 0
        with pytest.raises(GuestError) as caught:
            await agent.stats()
        assert caught.value.guest_code == "not_ready"
        assert await agent.ping() > 0


async def test_configure_is_accepted_once(binary: Path, root: Path, report: Path) -> None:
    big = FileToWrite(path="/etc/big", content=random.Random(4).randbytes(1 << 20), mode=0o600, uid=os.getuid(), gid=os.getgid())
    configuration = Configuration(hostname="box", root_mode=1, work_disk=False, card=None, files=(big,), time_ns=0, entropy=bytes(32))
    (root / "etc").mkdir()
    async with greeted(binary, root, report, "--unconfigured") as (agent, _):
        configured = await agent.configure(configuration)
        assert configured.uptime_us > 0
        assert configured.init
        await agent.wait_booted()
        assert (root / "etc/big").read_bytes() == big.content
        with pytest.raises(GuestError) as caught:
            await agent.configure(configuration)
        assert caught.value.guest_code == "already_configured"


async def cut_in_the_middle(port: Port, dice: random.Random, mark: Path) -> None:
    """A host that goes away in the middle of bulk data in both directions, and its successor, which waits for the SIGHUP."""
    agent = await Agent.attach(port.connect(cut_after=70000 + dice.randrange(300000)), deadline=20)
    # Without its own stderr the shell would report the hangup of its child to a pipe that is closed by then.
    script = f"exec 2>/dev/null; trap 'echo hup >{mark}.new; mv {mark}.new {mark}; exit' HUP; echo up; while :; do sleep 0.02; done"
    waiting = Command(agent, "/bin/sh", "-c", script)
    await waiting.until(b"up")
    bulk = Command(agent, "/bin/cat", stdin=True)
    feeding = asyncio.create_task(bulk.type(dice.randbytes(1000) * 2000))
    await agent.wait_closed()
    await waiting.gone()
    await bulk.gone()
    feeding.cancel()
    await asyncio.gather(feeding, return_exceptions=True)
    agent = await Agent.attach(port.connect(), deadline=20)
    assert (await Command(agent, "/bin/echo", "again").end()).exit_status == 0
    while not mark.exists():
        await asyncio.sleep(0.01)
    await agent.close()


async def test_attach_after_a_cut_at_any_byte(binary: Path, root: Path, report: Path) -> None:
    """The next host always gets through, and old commands get SIGHUP."""
    dice = random.Random(20261120)
    async with running(binary, root, report) as port:
        await (await Agent.greet(port.connect(), deadline=20)).close()
        for turn in range(25):
            await cut_in_the_middle(port, dice, root / f"tmp/hup-{turn}")


async def test_a_command_that_is_cancelled_at_once_does_not_stay(binary: Path, root: Path, report: Path) -> None:
    async with greeted(binary, root, report) as (agent, port):
        request = exec_request(argv=("/bin/sleep", "1000"), env={}, cwd="", user="", tty=False, rows=0, columns=0, stdin=False)
        for _ in range(30):
            agent.forward(Operation.EXEC, request, lambda frame: None, lambda: None).cancel()
        await agent.ping()
        while children_of(port.pid):
            await asyncio.sleep(0.01)


async def test_attach_when_the_output_was_cut(binary: Path, root: Path, report: Path) -> None:
    """Bytes from the guest are lost in mid-frame; the new host skips the rest and old frames, and nothing of the old stream comes out."""
    dice = random.Random(7)
    async with running(binary, root, report) as port:
        agent = await Agent.greet(port.connect(), deadline=20)
        for _ in range(15):
            flood = Command(agent, "/bin/sh", "-c", "exec yes")
            while len(flood.output[STDOUT]) < dice.randrange(400000):
                flood.changed.clear()
                await flood.changed.wait()
            port.disconnect()
            await asyncio.sleep(dice.random() * 0.005)
            agent = await Agent.attach(port.connect(), deadline=20)
            await flood.gone()
            assert (await Command(agent, "/bin/echo", "again").end()).exit_status == 0
        await agent.close()


async def test_noise_does_no_harm(binary: Path, root: Path, report: Path) -> None:
    dice = random.Random(3)
    async with running(binary, root, report) as port:
        await (await Agent.greet(port.connect(), deadline=20)).close()
        for _ in range(10):
            noisy = port.connect()
            with noisy:
                noisy.sendall(dice.randbytes(dice.randrange(50000)) + b"BGR1" * dice.randrange(100))
                await asyncio.sleep(0.005)
            agent = await Agent.attach(port.connect(), deadline=20)
            assert await agent.ping() > 0
            await agent.close()
        with pytest.raises(GuestTimeout):
            await Agent.greet(port.connect(), deadline=0.05)
