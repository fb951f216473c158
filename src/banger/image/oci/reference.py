"""Names of container images, in skopeo's words.

The grammar of names is that of the distribution project (``reference`` in the distribution specification): HOST[:PORT]/PATH[:TAG][@DIGEST].
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from typing import Final, Literal

from ...model.errors import BadRequest

Transport = Literal["docker", "oci", "docker-archive"]

_WITH_PATH: Final[tuple[Transport, ...]] = ("oci", "docker-archive")
DOCKER_HUB: Final = "docker.io"
_HUB_ALIASES: Final = frozenset({"docker.io", "index.docker.io", "registry-1.docker.io"})
_HUB_API: Final = "registry-1.docker.io"
_LONGEST_NAME: Final = 255
_LONGEST_TEXT: Final = 4096

_LABEL: Final = r"[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?"
_HOST: Final = re.compile(rf"(?:{_LABEL}(?:\.{_LABEL})*|\[(?P<ipv6>[0-9A-Fa-f:.]+)\])(?::(?P<port>[0-9]{{1,5}}))?")
_WORD: Final = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_REPOSITORY: Final = re.compile(rf"{_WORD}(?:/{_WORD})*")
_TAG: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_DIGEST: Final = re.compile(r"sha256:[0-9a-f]{64}")
_LAYOUT_TAG: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:/@+-]{0,254}")
_UNSUPPORTED: Final = re.compile(r"(dir|docker-daemon|containers-storage|oci-archive|ostree|sif|tarball|https?):")
_HINT: Final = "write [docker://][HOST[:PORT]/]NAME[:TAG][@sha256:...], oci:DIR[:TAG] or docker-archive:FILE[:NAME:TAG]"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """Where an image is. ``str()`` is its canonical form, which ``parse`` gives back."""

    transport: Transport
    host: str = ""
    """Registry, with its port when it has one; only for ``docker``."""
    repository: str = ""
    """Only for ``docker``."""
    tag: str = ""
    """For ``docker-archive`` a whole name with its tag; "" = what there is, when there is only one. For ``docker`` only "" when there is a digest."""
    digest: str = ""
    """``sha256:...``; pins what ``tag`` may have moved away from. Only for ``docker``."""
    path: str = ""
    """Directory of an OCI layout, or file; "" for ``docker``."""

    def __str__(self) -> str:
        tag = f":{self.tag}" if self.tag else ""
        if self.transport != "docker":
            return f"{self.transport}:{self.path}{tag}"
        return f"docker://{self.host}/{self.repository}{tag}" + (f"@{self.digest}" if self.digest else "")

    @property
    def api_host(self) -> str:
        """Host and port that serve the registry's API: Docker Hub's differs from its name."""
        return _HUB_API if self.host == DOCKER_HUB else self.host


def parse(text: str) -> Reference:
    """The reference that ``text`` means; ``docker://`` when it names no transport. Raises BadRequest."""
    if len(text) > _LONGEST_TEXT:
        raise BadRequest(f"the image reference is {len(text)} characters long", hint=_HINT)
    if text.startswith("docker://"):
        return _parse_docker(text.removeprefix("docker://"), text)
    for transport in _WITH_PATH:
        if text.startswith(f"{transport}:"):
            return _parse_path(transport, text.removeprefix(f"{transport}:"), text)
    if match := _UNSUPPORTED.match(text):
        raise _bad(text, f"{match[1]}: is no place that images are taken from")
    return _parse_docker(text, text)


def is_digest(text: str) -> bool:
    """Whether ``text`` is a digest as it is written everywhere here: ``sha256:`` and 64 lower-case hexadecimal digits."""
    return _DIGEST.fullmatch(text) is not None


def host_name(host: str) -> str:
    """The host without its port and brackets."""
    name = host.rpartition(":")[0] if re.search(r":[0-9]+$", host) and not host.endswith("]") else host
    return name.strip("[]")


def is_loopback(host: str) -> bool:
    """Whether this host (with or without a port) is this machine by its very name; nothing is looked up."""
    name = host_name(host)
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return name == "localhost" or name.endswith(".localhost")


def _parse_docker(name: str, text: str) -> Reference:
    rest, at, digest = name.partition("@")
    if at and not is_digest(digest):
        raise _bad(text, "what follows the @ is not sha256: and 64 lower-case hexadecimal digits")
    slash = rest.rfind("/")
    colon = rest.find(":", slash + 1)
    path, tag = (rest[:colon], rest[colon + 1 :]) if colon >= 0 else (rest, "")
    if colon >= 0 and not _TAG.fullmatch(tag):
        raise _bad(text, f"{tag!r} is not a tag")
    host, repository = _split_host(path, text)
    if not _REPOSITORY.fullmatch(repository):
        raise _bad(text, f"{repository!r} is not a name" + (": names are lower case" if repository != repository.lower() else ""))
    if len(host) + 1 + len(repository) > _LONGEST_NAME:
        raise _bad(text, f"the name is longer than {_LONGEST_NAME} characters")
    return Reference(transport="docker", host=host, repository=repository, tag=tag or ("" if digest else "latest"), digest=digest)


def _split_host(path: str, text: str) -> tuple[str, str]:
    """Registry and repository: the first part is a host when it has a dot, a colon or a bracket, or is localhost (docker's rule)."""
    first, slash, rest = path.partition("/")
    if not slash or not (set(first) & set(".:[") or first == "localhost"):
        return DOCKER_HUB, path if slash else f"library/{path}"
    _check_host(first, text)
    if first in _HUB_ALIASES:
        return DOCKER_HUB, rest if "/" in rest else f"library/{rest}"
    return first.lower(), rest


def _check_host(host: str, text: str) -> None:
    match = _HOST.fullmatch(host)
    if match is None or (match["port"] is not None and not 0 < int(match["port"]) < 65536):
        raise _bad(text, f"{host!r} is not a host")
    if match["ipv6"] is not None:
        try:
            ipaddress.IPv6Address(match["ipv6"])
        except ValueError:
            raise _bad(text, f"{host!r} is not a host") from None


def _parse_path(transport: Transport, rest: str, text: str) -> Reference:
    path, colon, tag = rest.partition(":")
    if not path or not path.isprintable():
        raise _bad(text, "a path follows the transport, without colons and control characters")
    if colon and not _LAYOUT_TAG.fullmatch(tag):
        raise _bad(text, f"{tag!r} is not a tag")
    if tag and transport == "docker-archive":
        tag = archive_name(_parse_docker(tag, text))
    return Reference(transport=transport, path=path.rstrip("/") or "/", tag=tag)


def archive_name(reference: Reference) -> str:
    """How ``docker save`` and skopeo could have written this name into an archive, in full: ``docker.io/library/alpine:latest``."""
    return str(reference).removeprefix("docker://")


def _bad(text: str, why: str) -> BadRequest:
    return BadRequest(f"{text!r} is not an image reference: {why}", hint=_HINT)
