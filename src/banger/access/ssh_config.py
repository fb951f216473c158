"""The ssh_config of an instance: how OpenSSH's client (and what uses it: scp, sftp, rsync, git, editors) reaches ``NAME.vm``."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from ..host.own_program import is_installed, own_program
from ..host.paths import Layout
from ..model.errors import BadRequest
from .known_hosts import DOMAIN

_HEAD: Final = "# Written by banger, which replaces it when it starts. `banger ssh-config --install` includes it in your own configuration.\n"
_GLOB: Final = re.compile(r"([\\*?\[\]{}])")


def render(layout: Layout) -> str:
    """The file's content (ssh_config(5)). Raises BadRequest for paths that such a file cannot name."""
    options = (
        ("User", "root"),
        ("Port", "22"),
        ("IdentityFile", quoted(layout.ssh_identity)),
        ("IdentitiesOnly", "yes"),
        ("PreferredAuthentications", "publickey"),
        ("PubkeyAuthentication", "yes"),
        ("PasswordAuthentication", "no"),
        ("KbdInteractiveAuthentication", "no"),
        ("UserKnownHostsFile", quoted(layout.ssh_known_hosts)),
        ("GlobalKnownHostsFile", "/dev/null"),
        ("StrictHostKeyChecking", "yes"),
        ("UpdateHostKeys", "no"),
        ("CanonicalizeHostname", "no"),
        ("ProxyCommand", proxy_command((*instance_words(layout), *program()))),
    )
    return _HEAD + f"Host *.{DOMAIN}\n" + "".join(f"    {name} {value}\n" for name, value in options)


def program() -> tuple[str, ...]:
    """The ``banger`` that belongs to this process."""
    beside = Path(sys.executable).with_name("banger")
    words = (str(beside),) if beside.exists() and not is_installed() else own_program("banger")
    return command_for_env(words)


def command_for_env(words: tuple[str, ...]) -> tuple[str, ...]:
    """``words`` for the end of env's command line: it would take a program with a ``=`` in its path for a variable."""
    return ("/bin/sh", "-c", 'exec "$0" "$@"', *words) if "=" in words[0] else words


def instance_words(layout: Layout) -> tuple[str, ...]:
    """``env`` and what makes the words after it mean this instance, whatever the caller's environment says."""
    places = (layout.config, layout.state, layout.cache, layout.runtime)
    if tuple(place.name for place in places) == ("config", "state", "cache", "run") and len({place.parent for place in places}) == 1:
        return ("/usr/bin/env", "-u", "BANGER_SOCKET", f"BANGER_HOME={layout.state.parent}")
    names = ("XDG_CONFIG_HOME", "XDG_STATE_HOME", "XDG_CACHE_HOME")
    settings = [f"{name}={place.parent}" for name, place in zip(names, places, strict=False)]
    unset = ["-u", "BANGER_SOCKET", "-u", "BANGER_HOME"]
    if layout.runtime.name == "banger":
        settings.append(f"XDG_RUNTIME_DIR={layout.runtime.parent}")
    else:
        unset += ["-u", "XDG_RUNTIME_DIR"]
    return ("/usr/bin/env", *unset, *settings)


def proxy_command(words: Sequence[str]) -> str:
    """A ProxyCommand that runs ``words`` and lets them connect: the rest of the line goes to the user's shell once ssh has put in what ``%`` stands for."""
    return _one_line(shlex.join(words).replace("%", "%%")) + " vm connect %n %p"


def quoted(path: Path) -> str:
    """A path as an argument that ssh expands ``%`` in."""
    return _argument(str(path).replace("%", "%%"))


def include_line(path: Path) -> str:
    """The line that includes the file ``path``. It is a pattern of glob(7); a ``%``, which some versions of ssh expand, is matched as any character."""
    return "Include " + _argument(_GLOB.sub(r"\\\1", str(path)).replace("%", "?"))


def _argument(text: str) -> str:
    if "${" in text:
        raise BadRequest(f"ssh cannot use the path {text!r}: it would replace the variable in it", hint="set BANGER_HOME to another directory")
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{_one_line(escaped)}"'


def _one_line(text: str) -> str:
    if "\n" in text or "\r" in text:
        raise BadRequest(f"ssh cannot use a path with a line break in it: {text!r}", hint="set BANGER_HOME to another directory")
    return text
