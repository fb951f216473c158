"""The QMP client against a server that follows a script."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from banger.model.errors import VmmError
from banger.vmm.qemu.qmp import Qmp

GREETING = {"QMP": {"version": {"qemu": {"major": 7, "minor": 2, "micro": 0}}, "capabilities": []}}


class Peer:
    """The server's side of one session."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def say(self, *messages: dict[str, Any]) -> None:
        for message in messages:
            self.writer.write(json.dumps(message).encode() + b"\r\n")

    async def hear(self) -> dict[str, Any]:
        message = json.loads(await self.reader.readline())
        assert isinstance(message, dict)
        return message

    async def greet(self) -> None:
        self.say(GREETING)
        self.say({"return": {}, "id": (await self.hear())["id"]})


Script = Callable[[Peer], Awaitable[None]]


@contextlib.asynccontextmanager
async def serving(path: Path, script: Script) -> AsyncIterator[None]:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await script(Peer(reader, writer))
        finally:
            writer.close()

    server = await asyncio.start_unix_server(serve, path)
    async with server:
        yield


async def test_events_before_the_greeting_and_during_a_command_reach_the_listener(tmp_path: Path) -> None:
    async def script(peer: Peer) -> None:
        peer.say({"event": "RESUME"})
        await peer.greet()
        asked = await peer.hear()
        assert asked == {"execute": "query-block", "arguments": {"flat": True}, "id": asked["id"]}
        peer.say({"event": "STOP", "data": {"why": 1}}, {"return": [1, 2], "id": asked["id"]})
        await peer.reader.read()

    events: list[tuple[str, dict[str, Any]]] = []
    async with serving(tmp_path / "q", script):
        session = await Qmp.connect(tmp_path / "q", on_event=lambda name, data: events.append((name, data)))
        assert await session.execute("query-block", {"flat": True}) == [1, 2]
        assert events == [("RESUME", {}), ("STOP", {"why": 1})]
        await session.close()
        await session.close()
        with pytest.raises(VmmError, match="has ended"):
            await session.execute("stop")


async def test_replies_find_their_commands_in_any_order(tmp_path: Path) -> None:
    async def script(peer: Peer) -> None:
        await peer.greet()
        first, second = await peer.hear(), await peer.hear()
        peer.say({"return": "of second", "id": second["id"]}, {"return": "of nobody", "id": 99}, {"return": "of first", "id": first["id"]})
        await peer.reader.read()

    async with serving(tmp_path / "q", script):
        session = await Qmp.connect(tmp_path / "q")
        answers = await asyncio.gather(session.execute("first"), session.execute("second"))
        assert list(answers) == ["of first", "of second"]
        await session.close()


async def test_a_refused_command_raises_what_qemu_said_and_the_session_goes_on(tmp_path: Path) -> None:
    async def script(peer: Peer) -> None:
        await peer.greet()
        peer.say({"error": {"class": "CommandNotFound", "desc": "no such thing"}, "id": (await peer.hear())["id"]})
        peer.say({"return": {"status": "running"}, "id": (await peer.hear())["id"]})
        await peer.reader.read()

    async with serving(tmp_path / "q", script):
        session = await Qmp.connect(tmp_path / "q")
        with pytest.raises(VmmError, match="no such thing"):
            await session.execute("nonsense")
        assert await session.execute("query-status") == {"status": "running"}
        await session.close()


async def test_the_end_of_qemu_fails_the_commands_under_way_and_the_later_ones(tmp_path: Path) -> None:
    async def script(peer: Peer) -> None:
        await peer.greet()
        await peer.hear()

    async with serving(tmp_path / "q", script):
        session = await Qmp.connect(tmp_path / "q")
        with pytest.raises(VmmError, match="has ended"):
            await session.execute("quit")
        await session.wait_closed()
        with pytest.raises(VmmError, match="has ended"):
            await session.execute("query-status")
        await session.close()


async def test_a_command_without_an_answer_ends_at_its_deadline(tmp_path: Path) -> None:
    async def script(peer: Peer) -> None:
        await peer.greet()
        await peer.reader.read()

    async with serving(tmp_path / "q", script):
        session = await Qmp.connect(tmp_path / "q")
        with pytest.raises(VmmError, match="no answer"):
            await session.execute("stop", deadline=0.05)
        await session.close()


@pytest.mark.parametrize("untrusted", [b"", b"{}\n", b"[1]\n", b"\xff\n", b"nonsense\n", b"[" * 100_000 + b"\n", b"x" * (2 * 1024 * 1024)])
async def test_a_peer_that_does_not_greet_is_refused(tmp_path: Path, untrusted: bytes) -> None:
    async def script(peer: Peer) -> None:
        peer.writer.write(untrusted)

    async with serving(tmp_path / "q", script):
        with pytest.raises(VmmError):
            await Qmp.connect(tmp_path / "q", deadline=5)


async def test_garbage_in_the_middle_ends_the_session(tmp_path: Path) -> None:
    async def script(peer: Peer) -> None:
        await peer.greet()
        await peer.hear()
        peer.writer.write(b"}{\n")
        await peer.reader.read()

    async with serving(tmp_path / "q", script):
        session = await Qmp.connect(tmp_path / "q")
        with pytest.raises(VmmError, match="not QMP"):
            await session.execute("stop")
        await session.close()


async def test_nobody_listening(tmp_path: Path) -> None:
    with pytest.raises(VmmError, match="no QEMU answers"):
        await Qmp.connect(tmp_path / "q")
