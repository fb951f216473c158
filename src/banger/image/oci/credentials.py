"""Names and passwords for registries, where docker, podman and skopeo keep them. They never go into a log, a message or a file of ours.

Formats: config.json of docker (docs.docker.com, "docker login") with the credential helper protocol (docker-credential-helpers), and
containers-auth.json(5). Trouble with them is no failure, because most images need none; ``Keychain.problems`` explains a refusal that may follow.
"""

from __future__ import annotations

import base64
import binascii
import logging
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import msgspec

from ...host.files import open_regular
from ...host.run import run
from ...model.errors import BangerError
from .reference import DOCKER_HUB

log = logging.getLogger(__name__)

_HUB_KEY: Final = "https://index.docker.io/v1/"
_HUB_NAMES: Final = frozenset({"docker.io", "index.docker.io", "registry-1.docker.io"})
_HELPER_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_HELPER_SECONDS: Final = 30.0
_FILE_LIMIT: Final = 4 * 1024 * 1024
_TOKEN_USER: Final = "<token>"  # noqa: S105 - the word that marks a token, no secret


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """Either a name with a password, or an identity token."""

    username: str = ""
    password: str = field(default="", repr=False)
    identity_token: str = field(default="", repr=False)
    source: str = ""
    """The file or helper that they come from, for messages."""


class _Entry(msgspec.Struct, frozen=True):
    auth: str = ""
    identitytoken: str = ""
    username: str = ""
    password: str = ""


class _File(msgspec.Struct, frozen=True, rename="camel"):
    auths: dict[str, _Entry] | None = None
    cred_helpers: dict[str, str] | None = None
    creds_store: str | None = None


class _Answer(msgspec.Struct, frozen=True, rename="pascal"):
    username: str
    secret: str


class Keychain:
    """The user's credentials; files are read anew at each question."""

    def __init__(self, environment: Mapping[str, str] | None = None, *, named: Path | None = None) -> None:
        """``named``: the caller's own file, asked before those that ``environment`` (default: this process's) leads to."""
        self._named = named
        self._environment = dict(os.environ if environment is None else environment)
        self.problems: list[str] = []
        """What could not be used, in words."""

    async def find(self, host: str, repository: str) -> Credentials | None:
        """Credentials for this repository, of the first file that has some; None = go without. Never raises for what the files hold."""
        self.problems.clear()
        for path in self._paths():
            if (file := self._read(path)) and (found := await self._look(file, path, host, repository)):
                return found
        return None

    def _paths(self) -> Iterator[Path]:
        env = self._environment
        if self._named is not None:
            yield self._named
        if named := env.get("REGISTRY_AUTH_FILE"):
            yield Path(named)
            return
        home = Path(env.get("HOME") or Path.home())
        if runtime := env.get("XDG_RUNTIME_DIR"):
            yield Path(runtime) / "containers/auth.json"
        yield Path(env.get("XDG_CONFIG_HOME") or home / ".config") / "containers/auth.json"
        yield Path(env.get("DOCKER_CONFIG") or home / ".docker") / "config.json"

    def _read(self, path: Path) -> _File | None:
        try:
            with open_regular(path) as file:
                return msgspec.json.decode(file.read(_FILE_LIMIT), type=_File)
        except (FileNotFoundError, NotADirectoryError):
            if path == self._named:
                self._complain(f"{path}, which REGISTRY_AUTH_FILE or DOCKER_CONFIG leads to, is not there")
            return None
        except OSError as error:
            self._complain(f"{path} cannot be read: {error.strerror}")
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            # msgspec names the place and the type, never a value.
            self._complain(f"{path} is not understood: {error}")
        return None

    async def _look(self, file: _File, path: Path, host: str, repository: str) -> Credentials | None:
        helper = _of_host(file.cred_helpers or {}, host) or file.creds_store
        if helper and (found := await self._ask(helper, host, path)):
            return found
        auths = {_normal(key): entry for key, entry in (file.auths or {}).items()}
        for key in _keys(host, repository):
            if key in auths and (found := self._decode(auths[key], path)):
                return found
        return None

    def _decode(self, entry: _Entry, path: Path) -> Credentials | None:
        if entry.identitytoken:
            return Credentials(identity_token=entry.identitytoken, source=str(path))
        if entry.username and entry.password:
            return Credentials(username=entry.username, password=entry.password, source=str(path))
        if not entry.auth:
            return None  # docker leaves an empty entry where a helper keeps the secret
        try:
            name, colon, password = base64.b64decode(entry.auth, validate=True).decode().partition(":")
        except (binascii.Error, ValueError):
            name = colon = password = ""
        if not colon or not name:
            self._complain(f"an entry of {path} is not the base64 of NAME:PASSWORD")
            return None
        return Credentials(username=name, password=password.rstrip("\0"), source=str(path))

    async def _ask(self, helper: str, host: str, path: Path) -> Credentials | None:
        if not _HELPER_NAME.fullmatch(helper):
            self._complain(f"{path} names a credential helper {helper!r}, which is no program's name")
            return None
        program = f"docker-credential-{helper}"
        server = _HUB_KEY if host == DOCKER_HUB else host
        try:
            # The user's own program finds its key ring by the user's own variables.
            done = await run([program, "get"], deadline=_HELPER_SECONDS, stdin=f"{server}\n".encode(), env=self._environment, allowed=range(-64, 256))
        except (BangerError, OSError) as error:
            self._complain(f"{program}, which {path} names, cannot be used: {error}")
            return None
        if done.status:
            self._refused(program, done.stdout + done.stderr)
            return None
        return self._answer(program, done.stdout)

    def _refused(self, program: str, untrusted: bytes) -> None:
        text = untrusted.decode(errors="replace").strip()
        if "credentials not found" not in text.lower():  # the protocol's own words for "I have none"
            first = "".join(c for c in text.split("\n", 1)[0] if c.isprintable())
            self._complain(f"{program} failed: {first[:200]}")

    def _answer(self, program: str, untrusted: bytes) -> Credentials | None:
        try:
            answer = msgspec.json.decode(untrusted, type=_Answer)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            self._complain(f"{program} gave an answer that is not understood")
            return None
        if answer.username == _TOKEN_USER:
            return Credentials(identity_token=answer.secret, source=program)
        return Credentials(username=answer.username, password=answer.secret, source=program)

    def _complain(self, problem: str) -> None:
        log.warning("credentials are not used: %s", problem)
        self.problems.append(problem)


def _normal(key: str) -> str:
    """The key of an entry without what old dockers put around it: ``https://index.docker.io/v1/`` is ``docker.io``."""
    key = key.removeprefix("https://").removeprefix("http://").rstrip("/")
    key = re.sub(r"/v[12]\Z", "", key)
    host, slash, rest = key.partition("/")
    return (DOCKER_HUB if host in _HUB_NAMES else host) + slash + rest


def _keys(host: str, repository: str) -> Iterator[str]:
    """Keys that fit, the most particular first (containers-auth.json(5))."""
    words = [host, *repository.split("/")]
    for count in range(len(words), 0, -1):
        yield "/".join(words[:count])


def _of_host(helpers: Mapping[str, str], host: str) -> str | None:
    return next((helper for key, helper in helpers.items() if _normal(key) == host), None)
