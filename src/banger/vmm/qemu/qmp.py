"""A small QMP client: QEMU's machine protocol, one JSON object per line (QEMU, docs/interop/qmp-spec.txt)."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Self

from ...host import sockets
from ...model.errors import VmmError

log = logging.getLogger(__name__)

_LINE_LIMIT: Final = 1024 * 1024

OnEvent = Callable[[str, dict[str, Any]], None]


class Qmp:
    """One QMP session. QEMU serves one at a time per socket, so close it when done."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, on_event: OnEvent) -> None:
        self._reader = reader
        self._writer = writer
        self._on_event = on_event
        self._pending: dict[int, asyncio.Future[Any]] = {}
        self._numbers = itertools.count(1)
        self._listener: asyncio.Task[None] | None = None

    @classmethod
    async def connect(cls, path: Path, *, deadline: float = 5.0, on_event: OnEvent = lambda name, data: None) -> Self:
        """A session with the QEMU that listens on ``path``, ready for commands.

        Raises VmmError when nobody listens, or nobody answers within ``deadline`` seconds, or what answers is not QMP.
        """
        try:
            reader, writer = await asyncio.open_unix_connection(sock=sockets.connect(path, timeout=0), limit=_LINE_LIMIT)
        except OSError as error:
            raise VmmError(f"no QEMU answers on {path}: {error}") from error
        session = cls(reader, writer, on_event)
        try:
            await session._greet(deadline)
        except BaseException:
            await session.close()
            raise
        return session

    async def execute(self, command: str, arguments: dict[str, Any] | None = None, *, deadline: float = 5.0) -> Any:
        """Run a command and give back its result. Raises VmmError when QEMU refuses, goes away or does not answer within ``deadline`` seconds."""
        if self._listener is None or self._listener.done():
            raise VmmError(f"{command}: the connection to QEMU has ended")
        number = next(self._numbers)
        reply: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._pending[number] = reply
        message = {"execute": command, "id": number} | ({"arguments": arguments} if arguments else {})
        try:
            async with asyncio.timeout(deadline):
                self._writer.write(json.dumps(message).encode() + b"\n")
                await self._writer.drain()
                return await reply
        except TimeoutError:
            raise VmmError(f"{command}: no answer from QEMU within {deadline:g} s") from None
        except ConnectionError as error:
            raise VmmError(f"{command}: the connection to QEMU has ended") from error
        finally:
            del self._pending[number]

    async def wait_closed(self) -> None:
        """Return when QEMU has closed the session."""
        if self._listener is not None:
            await asyncio.wait((self._listener,))

    async def close(self) -> None:
        """End the session; idempotent."""
        if self._listener is not None:
            self._listener.cancel()
            await asyncio.wait((self._listener,))
        self._writer.close()
        with contextlib.suppress(ConnectionError):
            await self._writer.wait_closed()

    async def _greet(self, deadline: float) -> None:
        try:
            async with asyncio.timeout(deadline):
                # Events may come before the greeting when another session has just ended.
                while "QMP" not in (message := await self._receive()):
                    self._dispatch(message)
        except (TimeoutError, EOFError) as error:
            raise VmmError("QEMU did not greet on its control socket") from error
        self._listener = asyncio.create_task(self._listen(), name="qmp")
        await self.execute("qmp_capabilities", deadline=deadline)

    async def _listen(self) -> None:
        try:
            while True:
                self._dispatch(await self._receive())
        except (EOFError, VmmError) as error:
            self._fail_all(VmmError(f"the connection to QEMU has ended: {error}"))
        except asyncio.CancelledError:
            self._fail_all(VmmError("the session with QEMU was closed"))
            raise

    async def _receive(self) -> dict[str, Any]:
        try:
            untrusted_line = await self._reader.readline()
            if not untrusted_line:
                raise EOFError("end of stream")
            message = json.loads(untrusted_line)
        except (ConnectionError, asyncio.LimitOverrunError) as error:
            raise EOFError(str(error)) from error
        except (ValueError, RecursionError) as error:  # StreamReader.readline raises ValueError for an overlong line
            raise VmmError(f"QEMU sent something that is not QMP: {error}") from error
        if not isinstance(message, dict):
            raise VmmError("QEMU sent something that is not QMP")
        return message

    def _dispatch(self, message: dict[str, Any]) -> None:
        if isinstance(event := message.get("event"), str):
            data = message.get("data")
            self._on_event(event, data if isinstance(data, dict) else {})
            return
        number = message.get("id")
        reply = self._pending.get(number) if isinstance(number, int) else None
        if reply is None or reply.done():
            log.warning("qmp: a reply nobody waits for", extra={"qmp_id": repr(number)[:80]})
        elif "return" in message:
            reply.set_result(message["return"])
        else:
            reply.set_exception(VmmError(f"QEMU refused: {_description(message.get('error'))}"))

    def _fail_all(self, error: VmmError) -> None:
        for reply in self._pending.values():
            if not reply.done():
                reply.set_exception(error)


def _description(untrusted_error: object) -> str:
    if isinstance(untrusted_error, dict):
        return str(untrusted_error.get("desc", untrusted_error))[:500]
    return repr(untrusted_error)[:500]
