"""Streams of a guest that wait for their client on ``attach.sock``."""

from __future__ import annotations

import asyncio

from ..api.types import StreamTicket
from ..guest.frames import Operation
from ..model.opid import current_op_id
from .context import Context
from .forward import Forward


def stream_ticket(context: Context, ref: str, operation: Operation, request: bytes) -> StreamTicket:
    """A ticket for one stream of a running machine, which counts as used now. Raises NotFound, NotRunning, GuestError."""
    vm_id = context.machines.find(ref).id
    context.machines.agent(vm_id)
    context.machines.note_use(vm_id)
    op_id = current_op_id.get()

    def open_stream(transport: asyncio.Transport) -> Forward:
        # Asked for again: the machine may have stopped, or its channel been attached anew, since the token was given out.
        agent = context.machines.agent(vm_id)
        return Forward(transport, agent, operation, request, op_id=op_id, vm_id=vm_id, on_end=context.machines.open_stream(vm_id))

    return StreamTicket(token=context.tokens.issue(open_stream))
