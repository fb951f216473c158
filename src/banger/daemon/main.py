"""``bangerd``: the daemon's process. It runs in the foreground until SIGTERM, SIGINT, or the call ``daemon.stop``.

What is imported here is quick: the sockets exist, and clients can connect, before anything slow is loaded.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import resource
import socket
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

from .. import __version__
from ..host import sockets
from ..host.locks import try_lock
from ..host.logs import log_to_file
from ..host.paths import Layout, private_directory
from ..host.run import use_pidfd_child_watcher
from ..model.config import LOG_LEVELS
from ..model.errors import BangerError, NotFound, Unauthorized

if TYPE_CHECKING:
    from .attach import Opener
    from .context import Context
    from .lifetime import Compose
    from .tokens import Tokens

log = logging.getLogger(__name__)

EXIT_FAILED: Final = 1
EXIT_ALREADY_RUNNING: Final = 3
_LOCK_SECONDS: Final = 45.0
"""How long to wait for a daemon that is stopping; it takes no longer than this."""
_DESCRIPTORS: Final = 8192


class AlreadyRunning(BangerError):
    """Another daemon serves this instance."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the daemon; returns the exit status."""
    options = _parse(argv)
    os.umask(0o077)
    layout = Layout.system() if options.system else Layout.from_environment()
    try:
        if options.system:
            check_owner()
        if options.check_migrations:
            return _check_migrations(layout)
        prepare_directories(layout)
        lock = acquire(layout)
    except AlreadyRunning as error:
        return _fail(error, EXIT_ALREADY_RUNNING)
    except (BangerError, OSError) as error:
        return _fail(error, EXIT_FAILED)
    try:
        if options.restore_older:
            return _restore_older(layout)
        return _serve(layout, options.log_level, options.log_level_source)
    except (BangerError, OSError) as error:
        log.critical("the daemon failed", exc_info=error)
        return _fail(error, EXIT_FAILED)
    finally:
        os.close(lock)


def _check_migrations(layout: Layout) -> int:
    """Exit status: 0 the database fits, 1 it needs migrations, 2 it cannot be used."""
    from ..store.schema import check_migrations

    found, words = check_migrations(layout.database)
    sys.stdout.write(f"{found.name.lower().replace('_', ' ')}: {words}\n")
    return found.value


def _restore_older(layout: Layout) -> int:
    from ..store.schema import restore_older

    sys.stdout.write(f"{restore_older(layout.database) or 'nothing to restore'}\n")
    return 0


def check_owner() -> None:
    """Raises NotFound unless banger is installed on this host, Unauthorized unless we are its owner, who is never root."""
    from ..host.installation import read_installation

    installation = read_installation()
    if installation is None:
        raise NotFound("banger is not installed as a service of this host", hint="sudo banger system install --owner USER")
    if os.getuid() != installation.uid:
        message = f"the installed daemon runs as {installation.owner} (uid {installation.uid}), not as uid {os.getuid()}"
        raise Unauthorized(message, hint="systemd starts it: sudo banger system restart")


def prepare_directories(layout: Layout) -> None:
    """Make the instance's directories, or check that they are ours and private (the system's configuration is root's). Raises Unauthorized or OSError."""
    for path in (layout.state, layout.cache, layout.runtime, *(() if layout == Layout.system() else (layout.config,))):
        try:
            private_directory(path)
        except (FileExistsError, NotADirectoryError) as error:
            raise Unauthorized(f"{error.filename or path} is not a directory", hint=f"remove {error.filename or path}") from error


def acquire(layout: Layout) -> int:
    """The descriptor that holds this instance's lock. Waits for a daemon that is about to stop; raises AlreadyRunning when one answers."""
    until = time.monotonic() + _LOCK_SECONDS
    while (lock := try_lock(layout.daemon_lock)) is None:
        where = _socket_of_holder(layout)
        if _somebody_listens(where) or time.monotonic() > until:
            raise AlreadyRunning(f"bangerd already serves {layout.state} at {where}", hint=_advice(layout, where))
        time.sleep(0.05)
    # For a daemon whose runtime directory is another one (XDG_RUNTIME_DIR differs between a login, su and cron).
    os.ftruncate(lock, 0)
    os.pwrite(lock, str(layout.api_socket).encode(), 0)
    return lock


def _socket_of_holder(layout: Layout) -> Path:
    """Where the daemon that holds the lock listens, as it noted in the lock's file."""
    return Path(layout.daemon_lock.read_text(errors="replace") or layout.api_socket)


def _advice(layout: Layout, where: Path) -> str:
    if where == layout.api_socket:
        return "banger daemon status shows it, banger daemon stop ends it"
    return f"set XDG_RUNTIME_DIR as it was for that daemon, or use BANGER_SOCKET={where}"


def _somebody_listens(where: Path) -> bool:
    try:
        sockets.connect(where, timeout=1.0).close()
    except OSError:
        return False
    return True


def _serve(layout: Layout, log_level: str, source: str) -> int:
    """Serve until asked to stop. The log level holds from here on, unless ``source`` is "builtin" and the configuration says otherwise."""
    log_to_file(layout.daemon_log, log_level)
    _raise_descriptor_limit()
    use_pidfd_child_watcher()
    with sockets.listen(layout.api_socket) as api_socket, sockets.listen(layout.attach_socket) as attach_socket:
        log.info("starting", extra={"version": __version__, "pid": os.getpid(), "socket": str(layout.api_socket)})
        with asyncio.Runner() as runner:
            compose = partial(_compose, log_level=None if source == "builtin" else (log_level, source))
            failure = runner.run(_run(layout, compose, api_socket, attach_socket))
    return 0 if failure is None else _fail(failure, EXIT_FAILED)


async def _run(layout: Layout, compose: Compose, api_socket: socket.socket, attach_socket: socket.socket) -> BangerError | None:
    from .lifetime import Daemon

    return await Daemon(layout, compose).run(api_socket, attach_socket)


def _compose(layout: Layout, tokens: Tokens[Opener], *, log_level: tuple[str, str] | None) -> Context:
    """``app.compose``, imported only when it is called: by then the daemon serves."""
    from . import app

    return app.compose(layout, tokens, log_level=log_level)


def _raise_descriptor_limit() -> None:
    """Each client and each machine needs a few descriptors; the usual soft limit of 1024 is for programs that use select(2)."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _DESCRIPTORS if hard == resource.RLIM_INFINITY else min(_DESCRIPTORS, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bangerd", description="The daemon of banger. The banger command starts it when it is needed.")
    parser.add_argument("--version", action="version", version=f"bangerd {__version__}")
    parser.add_argument("--system", action="store_true", help="serve the machines of this host's owner (banger system install); started by systemd")
    parser.add_argument(
        "--check-migrations", action="store_true", help="only look at the database: status 0 it fits, 1 it needs migrations, 2 it cannot be used"
    )
    parser.add_argument("--restore-older", action="store_true", help="put back the copy of a database that a newer version has migrated, and end")
    parser.add_argument("--log-level", choices=LOG_LEVELS, help="default: $BANGER_LOG_LEVEL, else log_level in config.toml, else info")
    options = parser.parse_args(argv)
    from_environment = os.environ.get("BANGER_LOG_LEVEL", "").lower()
    options.log_level_source = "option" if options.log_level else "env" if from_environment else "builtin"
    options.log_level = options.log_level or from_environment or "info"
    if options.log_level not in LOG_LEVELS:
        parser.error(f"BANGER_LOG_LEVEL: {options.log_level!r} is not one of {', '.join(LOG_LEVELS)}")
    return options


def _fail(error: BaseException, status: int) -> int:
    hint = f" ({error.hint})" if isinstance(error, BangerError) and error.hint else ""
    sys.stderr.write(f"bangerd: {error}{hint}\n")
    return status


if __name__ == "__main__":
    sys.exit(main())
