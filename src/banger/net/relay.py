"""Carries Ethernet frames between QEMU and passt, and drops those with which a guest could reach the host's loopback.

passt up to at least 2023-03 connects to whatever destination a frame names. ``--no-map-gw`` closes the gateway's address, but a guest
that sends frames to 127.0.0.1 or 0.0.0.0 (root in the guest can) reaches listeners on the host's 127.0.0.1: measured. So every
frame from the guest passes here first.

Runs as a program of its own that outlives the daemon: isolated Python, standard library only, no import of this package. It listens from
birth on a socket that it inherits, starts passt, says one line on its ready descriptor once passt answers, and ends when either side ends.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import struct
import sys
import threading
from collections.abc import Callable
from typing import Final

FRAME_MAX: Final = 65536 + 4096
"""Longest frame that QEMU passes on (net/net.h, NET_BUFSIZE)."""
_CHUNK: Final = 1024 * 1024
_LENGTH: Final = 4
_ARP: Final = b"\x08\x06"
_IPV4: Final = b"\x08\x00"
_SOURCE: Final = 26
_DESTINATION: Final = 30
"""Offsets of an IPv4 packet's addresses in an Ethernet frame."""
_NOT_OURS: Final = frozenset((0, 127))
"""First bytes of 0.0.0.0/8 (which means "this host" to connect(2)) and of 127.0.0.0/8."""


def may_pass(untrusted: memoryview | bytes) -> bool:
    """Whether a frame from the guest may reach passt: ARP, or IPv4 that neither goes to nor claims to come from the host's loopback.

    DHCP comes from 0.0.0.0, so a source in 0/8 passes.
    """
    kind = untrusted[12:14]
    if kind == _ARP:
        return True
    return kind == _IPV4 and len(untrusted) >= _DESTINATION + 4 and untrusted[_DESTINATION] not in _NOT_OURS and untrusted[_SOURCE] != 127


class FrameFilter:
    """Cuts a stream of frames, each after its length in 4 bytes (passt(1); QEMU's ``-netdev stream``), and keeps what may pass. Bounded memory."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, untrusted: bytes) -> bytes:
        """The whole frames among these bytes that may pass. Raises ValueError for a length that no frame has."""
        data = self._rest + untrusted if self._rest else untrusted
        view = memoryview(data)
        kept: list[memoryview] = []
        start = position = 0  # frames in start..position pass
        while position + _LENGTH <= len(data):
            length = int.from_bytes(view[position : position + _LENGTH], "big")
            if not 0 < length <= FRAME_MAX:
                raise ValueError(f"a frame of {length} bytes")
            end = position + _LENGTH + length
            if end > len(data):
                break
            if not may_pass(view[position + _LENGTH : end]):
                kept.append(view[start:position])
                start = end
            position = end
        kept.append(view[start:position])
        self._rest = data[position:]
        return data[:position] if len(kept) == 1 else b"".join(kept)


def carry_filtered(guest: socket.socket, passt: socket.socket) -> None:
    """Guest to passt, until either ends."""
    frames = FrameFilter()
    while data := guest.recv(_CHUNK):
        passt.sendall(frames.feed(data))


def carry(passt: socket.socket, guest: socket.socket) -> None:
    """passt to guest, until either ends."""
    buffer = memoryview(bytearray(_CHUNK))
    while count := passt.recv_into(buffer):
        guest.sendall(buffer[:count])


def drop_privileges(uid: int) -> None:
    """Become ``uid`` (and gid) for good, with no groups."""
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)


def wait_until_passt_answers(passt: socket.socket, mac: bytes, address: bytes, gateway: bytes) -> bool:
    """Ask passt for its gateway's MAC as the guest would (ARP, RFC 826); False when passt ends instead."""
    question = b"\xff" * 6 + mac + _ARP + struct.pack("!HHBBH6s4s6s4s", 1, 0x0800, 6, 4, 1, mac, address, b"", gateway)
    try:
        passt.sendall(struct.pack("!I", len(question)) + question)
        header = _read(passt, _LENGTH)
        return bool(header and _read(passt, int.from_bytes(header, "big")))
    except ConnectionError:
        return False


def _read(sock: socket.socket, count: int) -> bytes:
    data = sock.recv(count, socket.MSG_WAITALL)
    return data if len(data) == count else b""


def start_passt(argv: list[str], name: str, passt_end: socket.socket) -> int:
    """Start passt with its end of the connection, which it does not outlive; returns its pid. Its name makes it recognisable in the process list."""
    passt_end.set_inheritable(True)
    words = [f"passt-{name}", *argv[1:], "--fd", str(passt_end.fileno())]
    pid = os.posix_spawn(argv[0], words, os.environ)
    passt_end.close()
    return pid


def main(arguments: list[str]) -> None:
    """``NAME LISTENER READY UID MAC ADDRESS GATEWAY PASST [ARGUMENT...]``: numbers of inherited descriptors, hexadecimal MAC, dotted addresses."""
    name, listener_fd, ready_fd, uid, mac, address, gateway, *passt_argv = arguments
    for fd in (listener_fd, ready_fd):
        os.set_inheritable(int(fd), False)
    if int(uid) >= 0:
        drop_privileges(int(uid))
    passt, passt_end = socket.socketpair()
    pid = start_passt(passt_argv, name, passt_end)
    signal.signal(signal.SIGTERM, lambda number, frame: _hang_up(passt))
    if wait_until_passt_answers(passt, bytes.fromhex(mac), socket.inet_aton(address), socket.inet_aton(gateway)):
        os.write(int(ready_fd), b"ready\n")
        os.close(int(ready_fd))
        threading.Thread(target=_serve, args=(socket.socket(fileno=int(listener_fd)), passt)).start()
    os.waitpid(pid, 0)
    os._exit(0)


def _serve(listener: socket.socket, passt: socket.socket) -> None:
    with listener:
        guest, _ = listener.accept()
    threading.Thread(target=_until_end, args=(lambda: carry(passt, guest), passt)).start()
    _until_end(lambda: carry_filtered(guest, passt), passt)


def _until_end(body: Callable[[], None], passt: socket.socket) -> None:
    try:
        body()
    except (OSError, ValueError) as error:
        sys.stderr.write(f"relay: {error}\n")
    finally:
        _hang_up(passt)


def _hang_up(passt: socket.socket) -> None:
    # passt ends at the end of its connection, and then so does this process, whichever side began.
    with contextlib.suppress(OSError):
        passt.shutdown(socket.SHUT_RDWR)


if __name__ == "__main__":
    main(sys.argv[1:])
