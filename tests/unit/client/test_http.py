"""The small HTTP reader against what a peer may send."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from banger.client.http import Response, exchange
from banger.model.errors import DaemonUnreachable


@contextmanager
def answer(raw: bytes) -> Iterator[Response]:
    """The response to a request when the other side says ``raw`` and then no more."""
    near, far = socket.socketpair()
    with far:
        far.sendall(raw)
        far.shutdown(socket.SHUT_WR)
        with exchange(near, "GET", "/v1/vms", {"A": "b"}, None) as response:
            yield response


@pytest.mark.parametrize(
    "raw",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\none\ntw",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n3;x=y\r\n\ntw\r\n0\r\n\r\n",
        b"HTTP/1.0 200 OK\r\n\r\none\ntw",
    ],
    ids=["length", "chunked", "until-the-end"],
)
def test_bodies(raw: bytes) -> None:
    with answer(raw) as response:
        assert response.status == 200
        assert response.read() == b"one\ntw"
    with answer(raw) as response:
        assert list(response.lines()) == [b"one", b"tw"]


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"SSH-2.0-OpenSSH_9\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-",
        b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nshort",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab",
        b"HTTP/1.1 200 OK\r\n" + b"A%d: b\r\n" * 3 + b"x" * 70000,
        b"HTTP/1.1 200 OK\r\n" + b"".join(b"A%d: b\r\n" % n for n in range(200)) + b"\r\n",
    ],
)
def test_anything_else_is_an_error_and_never_an_endless_read(raw: bytes) -> None:
    with pytest.raises(DaemonUnreachable), answer(raw) as response:
        response.read()


def test_a_peer_that_is_gone() -> None:
    near, far = socket.socketpair()
    far.close()
    with pytest.raises(DaemonUnreachable, match="hung up"):
        exchange(near, "POST", "/v1/vms", {}, b"{}")
