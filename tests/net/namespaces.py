"""Network namespaces for tests: what runs in one is a thread of this process that has entered it, so sockets, taps and programs belong to it."""

from __future__ import annotations

import asyncio
import ctypes
import os
import secrets
import subprocess
import sys
import threading
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

Result = TypeVar("Result")

_libc = ctypes.CDLL(None, use_errno=True)
_CLONE_NEWNET = 0x40000000
_started = threading.local()


def _count_processes(event: str, arguments: tuple[object, ...]) -> None:
    if event == "subprocess.Popen":
        _started.processes = getattr(_started, "processes", 0) + 1


sys.addaudithook(_count_processes)


def processes_started() -> int:
    """Programs that this thread has started so far."""
    return getattr(_started, "processes", 0)


def enter(name: str) -> None:
    """Put the calling thread into the namespace (Python 3.11 has no os.setns)."""
    descriptor = os.open(f"/run/netns/{name}", os.O_RDONLY | os.O_CLOEXEC)
    try:
        if _libc.setns(descriptor, _CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), "setns")
    finally:
        os.close(descriptor)


class Namespace:
    """One namespace, with one thread in it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._thread = ThreadPoolExecutor(1, initializer=enter, initargs=(name,))
        self._workers = ThreadPoolExecutor(4, initializer=enter, initargs=(name,))
        self._loop: asyncio.AbstractEventLoop | None = None

    def call(self, work: Callable[..., Result], *args: Any) -> Result:
        """``work(*args)`` in here."""
        return self._thread.submit(work, *args).result(60)

    def do(self, coroutine: Coroutine[Any, Any, Result]) -> Result:
        """Run the coroutine in here, in an event loop whose threads are in here too, and which stays from one call to the next."""
        found: Result = self.call(self._do, coroutine)
        return found

    def _do(self, coroutine: Coroutine[Any, Any, Result]) -> Result:
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            self._loop.set_default_executor(self._workers)
        return self._loop.run_until_complete(coroutine)

    def sh(self, line: str, *, check: bool = True, stdin: str = "") -> str:
        """Output of a shell line in here."""
        done = subprocess.run(["ip", "netns", "exec", self.name, "sh", "-c", line], input=stdin, capture_output=True, text=True)
        assert not check or done.returncode == 0, f"{line}: {done.stderr}"
        return done.stdout

    def close(self) -> None:
        """End the threads."""
        if self._loop is not None:
            self.call(self._loop.close)
        self._thread.shutdown()
        self._workers.shutdown()


@contextmanager
def namespace(word: str) -> Iterator[Namespace]:
    """A new namespace with its loopback up; removed at the end."""
    name = f"bgr-{secrets.token_hex(3)}-{word}"
    subprocess.run(["ip", "netns", "add", name], check=True)
    try:
        subprocess.run(["ip", "-n", name, "link", "set", "lo", "up"], check=True)
        found = Namespace(name)
        try:
            yield found
        finally:
            found.close()
    finally:
        subprocess.run(["ip", "netns", "del", name], check=True)
