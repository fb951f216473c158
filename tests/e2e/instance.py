"""One isolated banger, driven as a user drives it: by the installed programs, in processes of their own."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

BIN = Path(sys.executable).parent
IMAGE = "debian-bookworm"
BOOT_TIMEOUT = 150.0
"""Seconds; a boot takes about 3, but the machine may be busy with much else."""


@dataclass(frozen=True)
class Done:
    """How a program ended."""

    status: int
    raw: bytes
    err: str

    @property
    def out(self) -> str:
        return self.raw.decode(errors="replace")


def wait_until(condition: Callable[[], object], what: str, timeout: float = 30.0) -> None:
    """Wait until ``condition()`` is true; the test fails with ``what`` otherwise."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, f"after {timeout:g} s still not: {what}"
        time.sleep(0.05)


def clean_environment(**extra: str) -> dict[str, str]:
    """The caller's environment without anything that steers banger."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("BANGER_", "XDG_", "PYTHON"))} | extra


@dataclass
class Instance:
    """An instance below ``home``. ``kept`` holds the ids of machines that fixtures keep alive."""

    home: Path
    program: tuple[str, ...] = (str(BIN / "banger"),)
    environment: dict[str, str] = field(default_factory=dict)
    kept: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.environment = clean_environment(BANGER_HOME=str(self.home), HOME=str(self.home), TERM="xterm") | self.environment

    @property
    def state(self) -> Path:
        return self.home / "state"

    @property
    def runtime(self) -> Path:
        return self.home / "run"

    def argv(self, *words: str) -> list[str]:
        return [*self.program, *words]

    def run(self, *words: str, stdin: bytes | None = None, timeout: float = BOOT_TIMEOUT, environment: dict[str, str] | None = None) -> Done:
        """Run ``banger WORDS`` to its end."""
        done = subprocess.run(
            self.argv(*words),
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True,
            env=self.environment | (environment or {}),
            timeout=timeout,
            cwd="/",
        )
        return Done(done.returncode, done.stdout, done.stderr.decode(errors="replace"))

    def ok(self, *words: str, stdin: bytes | None = None, timeout: float = BOOT_TIMEOUT) -> str:
        """Standard output of ``banger WORDS``, which must succeed."""
        done = self.run(*words, stdin=stdin, timeout=timeout)
        assert done.status == 0, f"banger {' '.join(words)}: status {done.status}\n{done.err}\n{done.out}"
        return done.out

    def json(self, *words: str) -> Any:
        """What ``banger WORDS --json`` says."""
        return json.loads(self.ok(*words, "--json"))

    @contextmanager
    def started(self, *words: str, **options: Any) -> Iterator[subprocess.Popen[bytes]]:
        """``banger WORDS`` running in a session of its own with pipes; killed at the end if it still runs."""
        process: subprocess.Popen[bytes]
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | options
        with subprocess.Popen(self.argv(*words), env=self.environment, cwd="/", start_new_session=True, **pipes) as process:
            try:
                yield process
            finally:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
                for stream in (process.stdin, process.stdout, process.stderr):
                    if stream is not None:
                        with contextlib.suppress(OSError):
                            stream.close()

    def daemon_pid(self) -> int | None:
        """Pid of this instance's daemon, found as ``ss`` would: whoever holds the flock of the state directory."""
        lock = self.state / "bangerd.lock"
        if not lock.exists():
            return None
        info = lock.stat()
        for line in Path("/proc/locks").read_text().splitlines():
            words = line.split()
            if words[1] == "FLOCK":  # "->" there stands for one that waits
                major, minor, inode = words[5].split(":")
                if int(inode) == info.st_ino and os.makedev(int(major, 16), int(minor, 16)) == info.st_dev and int(words[4]) > 0:
                    return int(words[4])
        return None

    def stop_daemon(self) -> None:
        """Stop the daemon if it runs, and wait until it is gone."""
        pid = self.daemon_pid()
        if pid is None:
            return
        self.run("daemon", "stop")
        with contextlib.suppress(AssertionError):
            wait_until(lambda: self.daemon_pid() is None, "the daemon has stopped", 15)
            return
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)

    def rows(self, table: str) -> list[dict[str, Any]]:
        """Rows of a table of the store, read past the daemon."""
        path = self.state / "banger.db"
        if not path.exists():
            return []
        with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
            database.row_factory = sqlite3.Row
            try:
                return [dict(row) for row in database.execute(f"SELECT * FROM {table}")]
            except sqlite3.OperationalError:
                return []

    def delete_unkept(self) -> None:
        """Remove every machine that no fixture keeps."""
        for row in self.rows("vms"):
            if row["id"] not in self.kept:
                self.run("vm", "delete", row["id"])

    def delete_everything(self) -> None:
        """Remove every machine, then stop the daemon: the end of a fixture."""
        self.kept.clear()
        self.delete_unkept()
        self.stop_daemon()

    def keep_evidence(self, folder: Path) -> None:
        """Copy the logs of the daemon and of the machines into ``folder``."""
        for source in [self.state / "bangerd.log", *self.state.glob("vms/*/*.log"), *self.state.glob("vms/*/handles.json")]:
            target = folder / source.relative_to(self.state)
            target.parent.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(OSError):
                shutil.copyfile(source, target)
