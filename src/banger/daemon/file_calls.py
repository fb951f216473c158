"""The calls that move files between a machine and its host."""

from __future__ import annotations

import asyncio
from typing import Final

from ..api import guest_types as g
from ..api import types as t
from ..guest.file_messages import pack_request, unpack_request
from ..guest.frames import Operation
from ..model.errors import GuestError, GuestTimeout
from .call import Answer, Call
from .context import Context
from .replies import same_fields
from .tickets import stream_ticket

STAT_SECONDS: Final = 30.0


async def vm_unpack(context: Context, call: Call) -> t.StreamTicket:
    body: g.Unpack = call.body
    request = unpack_request(destination=body.destination, uid=body.uid, gid=body.gid, parents=body.parents, replace=body.replace, real=body.real)
    return stream_ticket(context, call.path["ref"], Operation.UNPACK, request)


async def vm_pack(context: Context, call: Call) -> t.StreamTicket:
    body: g.Pack = call.body
    request = pack_request(path=body.path, name=body.name, follow=body.follow, contents=body.contents, xattrs=body.xattrs)
    return stream_ticket(context, call.path["ref"], Operation.PACK, request)


async def vm_stat_path(context: Context, call: Call) -> g.PathStatus:
    body: g.StatPath = call.body
    record = context.machines.touch(call.path["ref"])
    agent = context.machines.agent(record.id)
    try:
        async with asyncio.timeout(STAT_SECONDS):
            found = await agent.stat_path(body.path, follow=body.follow)
    except TimeoutError:
        raise GuestTimeout(f"{record.name} did not say within {STAT_SECONDS:g} s what is at {body.path}", hint=f"banger vm logs {record.name}") from None
    except GuestError as error:
        if error.guest_code != "not_found":
            raise
        return g.PathStatus(kind="missing")
    return same_fields(g.PathStatus, found)


#: Route name -> what answers at once.
FILE_ANSWERS: Final[dict[str, Answer]] = {
    "vm.unpack": vm_unpack,
    "vm.pack": vm_pack,
    "vm.stat_path": vm_stat_path,
}
