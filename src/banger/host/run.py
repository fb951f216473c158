"""The only door to other programs: ``run`` waits for one, ``spawn`` leaves one running that outlives us.

Argument vectors, never a shell; a clean environment; standard input from /dev/null; a deadline; errors that quote the command.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, NoReturn

from ..model.errors import CommandFailed, MissingTool
from ..model.records import ProcessIdentity
from .process import identify, is_alive

if TYPE_CHECKING:
    import asyncio  # at run time only where it is used: 60 ms that a synchronous caller should not pay

log = logging.getLogger(__name__)

SEARCH_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
"""Tools such as mke2fs live in sbin, which an ordinary user's PATH lacks."""
_INHERITED: Final = (
    "HOME", "USER", "LOGNAME", "TMPDIR", "XDG_RUNTIME_DIR", "http_proxy", "https_proxy", "no_proxy",
    "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "SSL_CERT_FILE", "SSL_CERT_DIR",
)  # fmt: skip
_OUTPUT_LIMIT: Final = 4 * 1024 * 1024
_TAIL: Final = 2000

#: Program -> Debian package, for hints.
PACKAGES: Final[dict[str, str]] = {
    "qemu-system-x86_64": "qemu-system-x86",
    "mmdebstrap": "mmdebstrap",
    "mke2fs": "e2fsprogs",
    "debugfs": "e2fsprogs",
    "e2fsck": "e2fsprogs",
    "e2undo": "e2fsprogs",
    "resize2fs": "e2fsprogs",
    "passt": "passt",
    "nft": "nftables",
    "iptables": "iptables",
    "iptables-legacy": "iptables",
    "newuidmap": "uidmap",
    "unshare": "util-linux",
    "apt-get": "apt",
    "apt-cache": "apt",
    "apt-config": "apt",
    "depmod": "kmod",
    "dpkg-deb": "dpkg",
    "lz4": "lz4",
    "tar": "tar",
    "cc": "gcc libc6-dev",
    "git": "git",
    "setpriv": "util-linux",
    "flock": "util-linux",
    "ssh": "openssh-client",
    "ssh-keygen": "openssh-client",
}


@dataclass(frozen=True, slots=True)
class Completed:
    """How a program ended. A negative status is the signal that killed it."""

    argv: tuple[str, ...]
    status: int
    stdout: bytes
    stderr: bytes


def find_tool(name: str) -> Path:
    """Path of a program of the host. Raises MissingTool with the package to install."""
    found = shutil.which(name, path=f"{os.environ.get('PATH', '')}:{SEARCH_PATH}")
    if found is None:
        package = PACKAGES.get(name, name)
        raise MissingTool(f"{name} is not installed", hint=f"sudo apt-get install {package}")
    return Path(found)


def clean_environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment every child gets: a fixed PATH and locale, a few variables of ours, and ``extra``."""
    env = {name: os.environ[name] for name in _INHERITED if name in os.environ}
    return env | {"PATH": SEARCH_PATH, "LC_ALL": "C.UTF-8"} | dict(extra or {})


async def run(
    argv: Sequence[str | Path],
    *,
    deadline: float,
    stdin: bytes | None = None,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    allowed: Iterable[int] = (0,),
    on_line: Callable[[str], None] | None = None,
    pass_fds: Iterable[int] = (),
    uid: int = -1,
) -> Completed:
    """Run a program to its end.

    ``deadline`` is in seconds. ``uid`` >= 0 also sets the gid to the same number and leaves it no other groups. ``on_line`` gets
    each line of stderr as it comes. Output beyond 4 MiB per stream is dropped from the front.
    Raises CommandFailed when the status is not in ``allowed`` or the deadline passes; the program's whole session is killed then, and on cancellation.
    """
    import asyncio

    words = [str(find_tool(str(argv[0])) if "/" not in str(argv[0]) else argv[0]), *map(str, argv[1:])]
    log.debug("run", extra={"command": shlex.join(words)})
    process = await asyncio.create_subprocess_exec(
        *words,
        stdin=subprocess.DEVNULL if stdin is None else subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=clean_environment(env),
        cwd=cwd,
        start_new_session=True,
        limit=1024 * 1024,
        pass_fds=tuple(pass_fds),
        user=uid if uid >= 0 else None,
        group=uid if uid >= 0 else None,
        extra_groups=[] if uid >= 0 else None,
    )
    try:
        async with asyncio.timeout(deadline):
            out, err, _ = await asyncio.gather(_collect(process.stdout, None), _collect(process.stderr, on_line), _feed(process.stdin, stdin))
            status = await process.wait()
    except TimeoutError:
        await _kill_session(process)
        raise CommandFailed(f"{shlex.join(words)} did not finish within {deadline:g} s") from None
    except BaseException:
        await _kill_session(process)
        raise
    if status not in set(allowed):
        raise command_failed(words, status, err or out)
    return Completed(tuple(words), status, out, err)


def command_failed(argv: Sequence[str], status: int, output: bytes) -> CommandFailed:
    """The error for a program that ended with a bad status; quotes the command and the end of its output."""
    how = f"was killed by {signal.Signals(-status).name}" if status < 0 else f"failed with status {status}"
    tail = output.decode(errors="replace").strip()[-_TAIL:]
    return CommandFailed(f"{shlex.join(argv)} {how}" + (f":\n{tail}" if tail else ""))


async def _collect(stream: asyncio.StreamReader | None, on_line: Callable[[str], None] | None) -> bytes:
    assert stream is not None
    kept = bytearray()
    pending = b""
    while chunk := await stream.read(65536):
        kept += chunk
        if len(kept) > _OUTPUT_LIMIT:
            del kept[: len(kept) - _OUTPUT_LIMIT]
        if on_line is not None:
            *lines, pending = (pending + chunk).split(b"\n")
            pending = pending[-65536:]
            for line in lines:
                on_line(line.decode(errors="replace").rstrip("\r"))
    return bytes(kept)


async def _feed(stream: asyncio.StreamWriter | None, data: bytes | None) -> None:
    if stream is None or data is None:
        return
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        stream.write(data)
        await stream.drain()
        stream.close()
        await stream.wait_closed()


async def _kill_session(process: asyncio.subprocess.Process) -> None:
    import asyncio

    with contextlib.suppress(ProcessLookupError):
        # Not process.kill(): Popen reaps there, and asyncio, which reaps too, then reports a status that is not the process's.
        os.killpg(process.pid, signal.SIGKILL)
    await asyncio.shield(process.wait())


def spawn(
    argv: Sequence[str | Path],
    *,
    output: Path | int,
    pass_fds: Iterable[int] = (),
    uid: int = -1,
    groups: Sequence[int] = (),
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> ProcessIdentity:
    """Start a program in a session of its own that outlives this process; its stdout and stderr are appended to ``output``.

    ``uid`` >= 0 also sets the gid to the same number and leaves it no supplementary groups but ``groups``. The caller watches it with ``host.process``.
    Raises MissingTool, or OSError when it cannot be started.
    """
    words = [str(find_tool(str(argv[0])) if "/" not in str(argv[0]) else argv[0]), *map(str, argv[1:])]
    log.debug("spawn", extra={"command": shlex.join(words)})
    own = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600) if isinstance(output, Path) else os.dup(output)
    try:
        process = subprocess.Popen(  # noqa: S603
            words,
            stdin=subprocess.DEVNULL,
            stdout=own,
            stderr=own,
            env=clean_environment(env),
            cwd=cwd,
            start_new_session=True,
            pass_fds=tuple(pass_fds),
            user=uid if uid >= 0 else None,
            group=uid if uid >= 0 else None,
            extra_groups=list(groups) if uid >= 0 else None,
        )
    finally:
        os.close(own)
    identity = identify(process.pid)
    _wait_for_arguments(identity)
    # It outlives this object by design and is reaped through its pidfd; without this, Popen's finaliser warns and polls it.
    process.returncode = 0
    return identity


def _wait_for_arguments(child: ProcessIdentity) -> None:
    """Until the process list shows the child's arguments: they come a moment after the exec that Popen waits for, and it is found by them."""
    shown = Path(f"/proc/{child.pid}/cmdline")
    with contextlib.suppress(OSError):
        until = time.monotonic() + 1.0
        while not shown.read_bytes() and is_alive(child) and time.monotonic() < until:
            time.sleep(0.0002)


def become(argv: Sequence[str | Path]) -> NoReturn:
    """Replace this process by a program that is the user's own to talk to: it keeps their environment, terminal and signals, and its status is ours.

    Raises MissingTool, or OSError when it cannot be executed.
    """
    program = find_tool(str(argv[0]))
    os.execv(program, list(map(str, argv)))  # noqa: S606


def use_pidfd_child_watcher() -> None:
    """On Python 3.11 asyncio starts a thread per child unless told to use pidfds (bpo-98023); later versions do so themselves. Call before the loop starts."""
    if sys.version_info < (3, 12):
        import asyncio

        asyncio.set_child_watcher(asyncio.PidfdChildWatcher())
