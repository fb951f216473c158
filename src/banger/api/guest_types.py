"""Request and reply types about files and jobs inside a machine."""

from __future__ import annotations

from typing import Literal

import msgspec

from .messages import Reply, Request


class Unpack(Request, frozen=True):
    """``POST /v1/vms/{ref}/unpack``: make the files of a tree stream beneath a directory. ``uid`` and ``gid`` override the stream's owners."""

    destination: str
    uid: int | None = None
    gid: int | None = None
    parents: bool = False
    """Make the destination when it is missing."""
    replace: bool = False
    """A file may take the place of a directory, and the reverse."""
    real: bool = False
    """No symbolic link beneath the destination is followed: one that is on the way to an entry is an error."""


class Pack(Request, frozen=True):
    """``POST /v1/vms/{ref}/pack``: send what is at a path as a tree stream. ``name``: what the stream calls it (default: its own name)."""

    path: str
    name: str = ""
    follow: bool = False
    contents: bool = False
    """Only what is in the directory."""
    xattrs: bool = False


class StatPath(Request, frozen=True):
    """``POST /v1/vms/{ref}/stat``: what is at an absolute path."""

    path: str
    follow: bool = False


class StartJob(Request, frozen=True):
    """``POST /v1/vms/{ref}/jobs``: a command that goes on without its caller. ``id``: 1 to 64 of a-z, 0-9 and -; a fresh one when omitted.

    ``label`` is what lists show as its command, at most 1000 bytes of it; its words when omitted.
    """

    argv: tuple[str, ...]
    env: dict[str, str] = msgspec.field(default_factory=dict)
    cwd: str = ""
    user: str = ""
    id: str = ""
    label: str = ""


class SignalJob(Request, frozen=True):
    """``POST /v1/vms/{ref}/jobs/{id}/signal``: a name or number."""

    signal: str = "TERM"


class JobOutput(Request, frozen=True):
    """``POST /v1/vms/{ref}/jobs/{id}/output``: what it wrote from ``offset`` on; with ``follow`` until it ends. ``none`` only waits for that."""

    which: Literal["both", "stdout", "stderr", "none"] = "both"
    offset: int = 0
    follow: bool = False


class PathStatus(Reply, frozen=True):
    """What is at a path of a guest. ``target`` is what a symbolic link says, ``real_path`` the path without links."""

    kind: Literal["missing", "other", "directory", "file", "symlink"]
    mode: int = 0
    size: int = 0
    uid: int = 0
    gid: int = 0
    mtime_ns: int = 0
    target: str = ""
    real_path: str = ""


class Job(Reply, frozen=True):
    """A detached command. ``lost``: the machine went down while it ran. Times are seconds since 1970."""

    id: str
    pid: int
    state: Literal["running", "ended", "lost"]
    exit_status: int | None
    started_at: float
    ended_at: float | None
    command: str
    user: str
    stdout_bytes: int
    stderr_bytes: int
    truncated: bool


class StartedJob(Reply, frozen=True):
    """A job that runs; or, with ``exit_status`` 126 or 127, one whose command could not be started, and why."""

    id: str
    pid: int = 0
    exit_status: int | None = None
    message: str = ""
