"""A real registry: Debian's docker-registry on loopback, open, with basic authentication, or with a token service of our own; filled by skopeo."""

from __future__ import annotations

import base64
import http.server
import json
import re
import select
import subprocess
import threading
import time
import urllib.parse
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

USER = "tester"
PASSWORD = "secret-word"
IDENTITY_TOKEN = "an-identity-token"
_PASSWORD_LINE = "tester:$2y$04$OlhtUnq8VJkwCkD4iWMUzuDKOS7m50uq1Sg6kQeAcoNl9K097ClEi\n"  # bcrypt, which is all that docker-registry takes
_START_SECONDS = 20.0

Authentication = Literal["none", "basic", "token"]


class Registry:
    """Started by ``start``; ``host`` is its address then."""

    def __init__(self, directory: Path, *, auth: Authentication = "none") -> None:
        self.directory = directory
        self.auth = auth
        self.host = ""
        self.tokens: TokenService | None = None
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it on a free port."""
        self.directory.mkdir(parents=True, exist_ok=True)
        if self.auth == "token":
            self.tokens = TokenService(self.directory)
            self.tokens.start()
        config = self.directory / "config.yml"
        config.write_text(json.dumps(self._config()))  # YAML holds JSON
        self._process = subprocess.Popen(
            ["docker-registry", "serve", config], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, cwd=self.directory, bufsize=0
        )
        self.host = self._read_address()
        assert self._process.stderr is not None
        # It blocks when nobody reads what it logs.
        threading.Thread(target=_drain, args=(self._process.stderr,), daemon=True).start()

    def stop(self) -> None:
        """Stop it and its token service; safe to call twice."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            assert self._process.stderr is not None
            self._process.stderr.close()
            self._process = None
        if self.tokens is not None:
            self.tokens.stop()
            self.tokens = None

    def push(self, source: Path | str, name: str) -> str:
        """Copy ``oci:SOURCE`` (a directory, perhaps with ``:TAG``), with all platforms, to ``name`` (``repository:tag``); returns its reference."""
        login = [] if self.auth == "none" else ["--dest-creds", f"{USER}:{PASSWORD}"]
        command = ["skopeo", "copy", "--insecure-policy", "--all", "--preserve-digests", "--dest-tls-verify=false", *login, f"oci:{source}"]
        done = subprocess.run([*command, f"docker://{self.host}/{name}"], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        return f"docker://{self.host}/{name}"

    def _config(self) -> dict[str, Any]:
        config: dict[str, Any] = {
            "version": "0.1",
            "log": {"level": "info", "accesslog": {"disabled": True}},
            "storage": {"filesystem": {"rootdirectory": str(self.directory / "storage")}},
            "http": {"addr": "127.0.0.1:0"},
        }
        if self.auth == "basic":
            (self.directory / "htpasswd").write_text(_PASSWORD_LINE)
            config["auth"] = {"htpasswd": {"realm": "tests", "path": str(self.directory / "htpasswd")}}
        elif self.tokens is not None:
            tokens = {"realm": self.tokens.url, "service": TokenService.SERVICE, "issuer": TokenService.ISSUER}
            config["auth"] = {"token": tokens | {"rootcertbundle": str(self.tokens.certificate)}}
        return config

    def _read_address(self) -> str:
        assert self._process is not None and self._process.stderr is not None
        seen, until = b"", time.monotonic() + _START_SECONDS
        while time.monotonic() < until and select.select([self._process.stderr], [], [], until - time.monotonic())[0]:
            line = self._process.stderr.readline()
            seen += line
            if match := re.search(rb"listening on (127\.0\.0\.1:[0-9]+)", line):
                return match[1].decode()
            if not line:
                break
        self.stop()
        raise AssertionError(f"docker-registry did not start: {seen.decode(errors='replace')}")


class TokenService:
    """The token service of distribution's specification: names that begin with ``public/`` are for all to read, the rest for USER."""

    ISSUER = "tests"
    SERVICE = "registry-of-the-tests"

    def __init__(self, directory: Path) -> None:
        self.key = directory / "token-key.pem"
        self.certificate = directory / "token-certificate.pem"
        self.seconds = 300
        """How long a token is good."""
        self.requests: list[tuple[str, dict[str, str], str]] = []
        """Method, parameters and Authorization of each request."""
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}/token"

    def start(self) -> None:
        command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=tests", "-days", "30"]
        subprocess.run([*command, "-keyout", self.key, "-out", self.certificate], check=True, stdin=subprocess.DEVNULL, capture_output=True)
        self._thread.start()

    def stop(self) -> None:
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join()
        self._server.server_close()

    def grant(self, parameters: dict[str, str], authorization: str) -> str | None:
        """A token for the scope that was asked for; None = the credentials are wrong."""
        known = authorization == "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode() or parameters.get("refresh_token") == IDENTITY_TOKEN
        if not known and (authorization or "refresh_token" in parameters):
            return None
        access = []
        if scope := parameters.get("scope"):
            kind, name, actions = scope.split(":")
            allowed = actions.split(",") if known else ["pull"] if name.startswith("public/") else []
            access = [{"type": kind, "name": name, "actions": allowed}]
        return self._sign(access)

    def _sign(self, access: list[dict[str, Any]]) -> str:
        chain = "".join(line for line in self.certificate.read_text().splitlines() if "-----" not in line)
        now = int(time.time())
        claims = {"iss": self.ISSUER, "sub": USER, "aud": self.SERVICE, "exp": now + self.seconds, "nbf": now - 10, "iat": now, "jti": "1", "access": access}
        signed = b".".join(_url64(json.dumps(part).encode()) for part in ({"typ": "JWT", "alg": "RS256", "x5c": [chain]}, claims))
        signature = subprocess.run(["openssl", "dgst", "-sha256", "-sign", self.key], input=signed, check=True, capture_output=True).stdout
        return (signed + b"." + _url64(signature)).decode()

    def _handler(self) -> type[http.server.BaseHTTPRequestHandler]:
        service = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self._answer(urllib.parse.urlsplit(self.path).query)

            def do_POST(self) -> None:
                self._answer(self.rfile.read(int(self.headers["Content-Length"])).decode())

            def _answer(self, query: str) -> None:
                parameters = dict(urllib.parse.parse_qsl(query))
                authorization = self.headers.get("Authorization", "")
                service.requests.append((self.command, parameters, authorization))
                token = service.grant(parameters, authorization)
                body = json.dumps({"token": token, "access_token": token, "expires_in": service.seconds} if token else {"errors": []}).encode()
                self.send_response(200 if token else 401)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                """Nothing on stderr."""

        return Handler


@contextmanager
def running_registry(directory: Path, *, auth: Authentication = "none") -> Iterator[Registry]:
    """A registry for as long as the block lasts."""
    registry = Registry(directory, auth=auth)
    try:
        registry.start()
        yield registry
    finally:
        registry.stop()


def _url64(content: bytes) -> bytes:
    return base64.urlsafe_b64encode(content).rstrip(b"=")


def _drain(stream: Any) -> None:
    try:
        while stream.read(65536):
            pass
    except (ValueError, OSError):
        pass  # closed by stop
