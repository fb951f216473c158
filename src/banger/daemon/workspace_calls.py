"""The call that notes a machine's workspace; what is in it passes through the daemon as bytes of streams, and no repository is looked at here."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final

from ..api import types as t
from ..model.records import VMRecord
from ..vm.workspaces import record_workspace
from .context import Context

if TYPE_CHECKING:
    from .calls import Call


async def vm_workspace(context: Context, call: Call) -> VMRecord:
    body: t.SetWorkspace = call.body
    record = context.machines.touch(call.path["ref"])
    return record_workspace(context.database, record.id, body.workspace)


#: Route name -> what answers at once.
WORKSPACE_ANSWERS: Final[dict[str, Callable[[Context, Call], Awaitable[object]]]] = {"vm.workspace": vm_workspace}
