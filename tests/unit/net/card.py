"""A guest's network card without a guest: speaks Ethernet frames on the socket that QEMU would connect to, so it can send what no honest guest would."""

from __future__ import annotations

import socket
import struct
from pathlib import Path
from types import TracebackType
from typing import Self

from banger.host import sockets

MAC = bytes.fromhex("525400112233")
IPV4 = b"\x08\x00"
ARP = b"\x08\x06"
SYN_ACK = 0x12


def checksum(data: bytes) -> int:
    """RFC 1071."""
    total: int = sum(struct.unpack(f"!{(len(data) + 1) // 2}H", data + b"\0" * (len(data) % 2)))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def ipv4(source: str, destination: str, protocol: int, payload: bytes) -> bytes:
    header = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(payload), 1, 0, 64, protocol, 0, socket.inet_aton(source), socket.inet_aton(destination))
    return header[:10] + struct.pack("!H", checksum(header)) + header[12:] + payload


def tcp_syn(source: str, destination: str, port: int, *, source_port: int) -> bytes:
    segment = struct.pack("!HHIIBBHHH", source_port, port, 1000, 0, 0x50, 2, 65535, 0, 0)
    return ipv4(source, destination, 6, _with_checksum(segment, 16, source, destination, 6))


def udp(source: str, destination: str, port: int, data: bytes, *, source_port: int) -> bytes:
    datagram = struct.pack("!HHHH", source_port, port, 8 + len(data), 0) + data
    return ipv4(source, destination, 17, _with_checksum(datagram, 6, source, destination, 17))


def _with_checksum(segment: bytes, offset: int, source: str, destination: str, protocol: int) -> bytes:
    pseudo = socket.inet_aton(source) + socket.inet_aton(destination) + struct.pack("!BBH", 0, protocol, len(segment))
    return segment[:offset] + struct.pack("!H", checksum(pseudo + segment)) + segment[offset + 2 :]


def ethernet(kind: bytes, payload: bytes, *, to: bytes = b"\xff" * 6) -> bytes:
    return to + MAC + kind + payload


class Card:
    """The guest's end of the wire."""

    def __init__(self, path: Path) -> None:
        self._sock = sockets.connect(path, timeout=5)
        self._buffer = b""
        self.gateway = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._sock.close()

    def send(self, frame: bytes) -> None:
        self._sock.sendall(struct.pack("!I", len(frame)) + frame)

    def receive(self) -> bytes:
        """The next frame, b"" at the end of the wire."""
        while len(self._buffer) < 4 or len(self._buffer) < 4 + int.from_bytes(self._buffer[:4], "big"):
            data = self._sock.recv(65536)
            if not data:
                return b""
            self._buffer += data
        end = 4 + int.from_bytes(self._buffer[:4], "big")
        frame, self._buffer = self._buffer[4:end], self._buffer[end:]
        return frame

    def find_gateway(self, address: str, gateway: str) -> None:
        """Learn the gateway's MAC address."""
        question = struct.pack("!HHBBH6s4s6s4s", 1, 0x0800, 6, 4, 1, MAC, socket.inet_aton(address), b"", socket.inet_aton(gateway))
        self.send(ethernet(ARP, question))
        while (frame := self.receive())[12:14] != ARP:
            assert frame, "the wire ended"
        self.gateway = frame[6:12]

    def send_ip(self, packet: bytes) -> None:
        self.send(ethernet(IPV4, packet, to=self.gateway))

    def tcp_answer(self, source_port: int) -> int:
        """Flags of the next TCP segment to this port."""
        while frame := self.receive():
            if frame[12:14] == IPV4 and frame[23] == 6 and int.from_bytes(frame[36:38], "big") == source_port:
                return frame[47]
        raise AssertionError("the wire ended")
