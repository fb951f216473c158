"""Started by a test with a resolv.conf of its own that names 127.0.0.77: a guest asks the forwarder, a resolver there answers."""

from __future__ import annotations

import asyncio
import socket
import sys
from pathlib import Path

from banger.host.paths import VMLayout
from banger.net.protocol import NetworkPlace
from banger.net.user import UserNetwork
from tests.unit.net.card import IPV4, Card, udp

VM = "forwarder"


async def main(directory: Path) -> None:
    files, network = VMLayout(directory), UserNetwork()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as resolver:
        resolver.bind(("127.0.0.77", 53))
        resolver.settimeout(10)
        attachment = await network.attach(VM, files, NetworkPlace(), nat=True, uid=-1)
        assert attachment.card is not None
        try:
            ask(files.network_socket, attachment.card.nameservers[0], resolver)
        finally:
            await network.detach(VM, files, NetworkPlace())


def ask(path: Path, nameserver: str, resolver: socket.socket) -> None:
    with Card(path) as card:
        card.find_gateway("10.0.2.15", "10.0.2.2")
        card.send_ip(udp("10.0.2.15", nameserver, 53, b"query", source_port=5555))
        query, asker = resolver.recvfrom(100)
        resolver.sendto(query.replace(b"query", b"answered"), asker)
        while (frame := card.receive())[12:14] != IPV4:
            assert frame, "the wire ended"
        sys.stdout.write(f"{socket.inet_ntoa(frame[26:30])} {frame[42:].decode()}\n")


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
