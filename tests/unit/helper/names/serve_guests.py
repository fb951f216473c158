"""Started by a test in a network namespace: the guests' face at port 53 of the bridge, until standard input ends."""

from __future__ import annotations

import asyncio
import sys

from banger.helper.names import HostNames
from banger.model.network import network_plan
from banger.net.dns.face import Face
from banger.net.dns.responder import Responder
from banger.net.dns.zone import Zone


async def main() -> None:
    plan = network_plan("bngdns0", "172.30.99.0/24")
    zone = Zone(plan.subnet)
    zone.add("box", plan.address(2))
    face = Face("guests", HostNames(plan).bind_dns, Responder(zone), streams_per_source=8)
    sys.stdout.write(f"{await face.open()}\n")
    sys.stdout.flush()
    await asyncio.to_thread(sys.stdin.read)
    await face.close()


if __name__ == "__main__":
    asyncio.run(main())
