"""Reading releases from a web server or a directory. Everything that comes is untrusted, and no more of it is taken than was agreed."""

from __future__ import annotations

import hashlib
import ipaddress
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

from .. import __version__
from ..host.files import explain_no_space, open_regular
from ..model.errors import BadRequest, BangerError, NotFound

if TYPE_CHECKING:
    import httpx2

_REDIRECTS: Final = 5
_REDIRECT_STATUSES: Final = frozenset({301, 302, 303, 307, 308})
_STALL_SECONDS: Final = 30.0
_FILE_SECONDS: Final = 1800.0
"""For one file, however it trickles."""
_CHUNK: Final = 256 * 1024

OnBytes = Callable[[int], None]


class Source(Protocol):
    """A place with releases. Names are relative to it."""

    address: str

    def chunks(self, name: str) -> Iterator[bytes]:
        """The untrusted content, piece by piece. Raises NotFound or BangerError."""


class WebSource:
    """Below an https URL; http is for this very host alone."""

    def __init__(self, url: str) -> None:
        """Raises BadRequest for an address that must not be used."""
        import httpx2

        self.address = url.rstrip("/")
        try:
            parsed = httpx2.URL(self.address)
        except (httpx2.InvalidURL, ValueError) as error:
            raise BadRequest(f"{url!r} is not a URL: {error}", hint="for example https://example.org/banger") from error
        _check(parsed)

    def chunks(self, name: str) -> Iterator[bytes]:
        import httpx2

        url = httpx2.URL(f"{self.address}/{name}")
        until = time.monotonic() + _FILE_SECONDS
        with _explained(url), _client(proxied=not _is_loopback(url.host)) as client:
            response = _open(client, url)
            try:
                if response.status_code == 404:
                    raise NotFound(f"{url} is not there", hint="is it the right address?")
                if response.status_code != 200:
                    raise BangerError(f"{url.host} answers {response.status_code} for {url}", hint="try again later")
                for chunk in response.iter_raw(_CHUNK):
                    yield chunk
                    if time.monotonic() > until:
                        raise BangerError(f"{url} did not come within {_FILE_SECONDS:g} s", hint="try again with a better connection")
            finally:
                response.close()


class DirectorySource:
    """A directory of this host, or what is mounted there."""

    def __init__(self, directory: Path) -> None:
        self.address = str(directory)
        self._directory = directory

    def chunks(self, name: str) -> Iterator[bytes]:
        try:
            with open_regular(self._directory / name) as file:
                while chunk := file.read(_CHUNK):
                    yield chunk
        except FileNotFoundError:
            raise NotFound(f"{self._directory / name} is not there", hint="is it the right directory?") from None
        except OSError as error:
            raise BangerError(f"{self._directory / name} cannot be read: {error.strerror}") from error


def source_at(address: str) -> Source:
    """The place that a URL or a path means. Raises BadRequest."""
    if "://" in address:
        return WebSource(address)
    if not Path(address).is_dir():
        raise BadRequest(f"{address} is neither a directory nor a URL", hint="for example --from https://example.org/banger, or --from ./dist/release")
    return DirectorySource(Path(address).absolute())


def read_bounded(source: Source, name: str, limit: int) -> bytes:
    """The whole of a small file. Raises BangerError when it is longer than ``limit`` bytes."""
    untrusted = bytearray()
    for chunk in source.chunks(name):
        untrusted += chunk
        if len(untrusted) > limit:
            raise BangerError(f"{name} is larger than {limit // 1024} KiB", hint="is it the right address?")
    return bytes(untrusted)


def download(source: Source, name: str, target: Path, *, size: int, sha256: str, on_bytes: OnBytes) -> None:
    """Write a file to ``target`` (new). Raises BangerError unless it has this size and hash; ``target`` is gone then."""
    total = hashlib.sha256()
    received = 0
    try:
        with explain_no_space("downloading a release", target.parent), target.open("xb") as file:
            for chunk in source.chunks(name):
                received += len(chunk)
                if received > size:
                    raise BangerError(f"{name} is longer than the {size} bytes that it should have", hint="try again; then tell whoever makes the releases")
                total.update(chunk)
                file.write(chunk)
                on_bytes(len(chunk))
        if received < size:
            raise BangerError(f"{name} ends after {received} of {size} bytes", hint="try again")
        if total.hexdigest() != sha256:
            raise BangerError(f"{name} is not the file that was signed: its SHA-256 is {total.hexdigest()}", hint="try again; nothing was installed")
    except BaseException:
        target.unlink(missing_ok=True)
        raise


# -- the web -----------------------------------------------------------------------------------------------------------------------------------------


def _client(*, proxied: bool) -> httpx2.Client:
    import ssl

    import httpx2

    return httpx2.Client(
        verify=ssl.create_default_context(),
        timeout=httpx2.Timeout(_STALL_SECONDS),
        trust_env=proxied,
        headers={"User-Agent": f"banger/{__version__}", "Accept-Encoding": "identity"},
        follow_redirects=False,
    )


def _open(client: httpx2.Client, url: httpx2.URL) -> httpx2.Response:
    for _ in range(_REDIRECTS + 1):
        response = client.send(client.build_request("GET", url), stream=True)
        if response.status_code not in _REDIRECT_STATUSES:
            return response
        response.close()
        target = url.join(response.headers.get("location", ""))
        _check(target)
        if url.scheme == "https" and target.scheme != "https":
            raise BangerError(f"{url.host} redirects from https to {target.scheme}", hint="tell whoever runs that server")
        url = target
    raise BangerError(f"{url.host} redirects more than {_REDIRECTS} times", hint="tell whoever runs that server")


def _check(url: httpx2.URL) -> None:
    if url.scheme not in ("http", "https") or not url.host or url.userinfo:
        raise BadRequest(f"{url} is not a plain web address", hint="for example https://example.org/banger")
    if url.scheme == "http" and not _is_loopback(url.host):
        raise BadRequest(f"{url} is not encrypted", hint="use https; http is for this very host alone")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


@contextmanager
def _explained(url: httpx2.URL) -> Iterator[None]:
    """Turn what httpx2 raises into BangerError that names the host."""
    import httpx2

    try:
        yield
    except httpx2.ConnectError as error:
        raise BangerError(f"{url.host} cannot be reached: {error}", hint="is the network up, and the address right?") from error
    except httpx2.TimeoutException as error:
        raise BangerError(f"{url.host} has sent nothing for {_STALL_SECONDS:g} s", hint="try again") from error
    except (httpx2.TransportError, httpx2.InvalidURL) as error:
        raise BangerError(f"the connection to {url.host} broke: {str(error) or type(error).__name__}", hint="try again") from error
