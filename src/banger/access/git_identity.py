"""The committer's identity: what the host's ``git config --global`` says, as the guest's /root/.gitconfig.

That file is ours for as long as it is exactly as we wrote it: its first line holds the hash of the rest. So a later start brings the host's new identity, and
a file that somebody in the guest, or its image, has made or changed is never touched; no note has to be kept anywhere.
"""

from __future__ import annotations

import hashlib
import logging
import os
from typing import Final

from ..guest.agent import Agent, FileToWrite
from ..host.run import run
from ..model.errors import BangerError, GuestError, MissingTool

log = logging.getLogger(__name__)

PATH: Final = "/root/.gitconfig"
_MARK: Final = b"# banger keeps this file as the host's `git config --global` has it until you change it: "
_KEYS: Final = ("user.name", "user.email")
_DEADLINE: Final = 10.0
_LIMIT: Final = 64 * 1024


async def host_identity() -> dict[str, str]:
    """``user.name`` and ``user.email`` as far as this user has them; nothing when git is not installed or its configuration is broken."""
    env = {name: os.environ[name] for name in ("XDG_CONFIG_HOME", "GIT_CONFIG_GLOBAL") if name in os.environ}
    try:
        words = ["git", "config", "--global", "--includes", "-z", "--get-regexp", r"^user\.(name|email)$"]
        found = await run(words, deadline=_DEADLINE, env=env, allowed=(0, 1))
    except MissingTool:
        return {}
    except BangerError as error:
        log.warning("git's configuration cannot be read, machines get no identity", extra={"error": str(error)})
        return {}
    pairs = (entry.partition("\n") for entry in found.stdout.decode(errors="replace").split("\0") if entry)
    return {key: value for key, _, value in pairs if key in _KEYS and value}


def gitconfig(identity: dict[str, str]) -> bytes:
    """The file for a guest."""
    lines = "".join(f"\t{key.removeprefix('user.')} = {_quoted(value)}\n" for key, value in sorted(identity.items()))
    body = f"[user]\n{lines}".encode()
    return _marked(body) + body


def is_ours(untrusted: bytes) -> bool:
    """Whether the file is as we wrote it once."""
    first, _, rest = untrusted.partition(b"\n")
    return first + b"\n" == _marked(rest)


async def deliver(agent: Agent, content: bytes) -> None:
    """Make the guest's file so unless it is somebody's own. Raises GuestError."""
    try:
        present = await agent.read_file(PATH, limit=_LIMIT)
    except GuestError as error:
        if error.guest_code != "not_found":
            log.info("the guest's .gitconfig is left alone", extra={"error": str(error)})
            return
    else:
        if present == content or not is_ours(present):
            return
    await agent.write_file(FileToWrite(path=PATH, content=content), parents=True)


def _marked(body: bytes) -> bytes:
    return _MARK + hashlib.sha256(body).hexdigest().encode() + b"\n"


def _quoted(value: str) -> str:
    escaped = value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("\t", "\\t")
    return f'"{escaped}"'
