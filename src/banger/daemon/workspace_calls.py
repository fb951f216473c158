"""The call that notes a machine's workspace; what is in it passes through the daemon as bytes of streams, and no repository is looked at here."""

from __future__ import annotations

from typing import Final

from ..api import types as t
from ..model.records import VMRecord
from ..vm.workspaces import record_workspace
from .call import Answer, Call
from .context import Context


async def vm_workspace(context: Context, call: Call) -> VMRecord:
    body: t.SetWorkspace = call.body
    record = context.machines.touch(call.path["ref"])
    return record_workspace(context.database, record.id, body.workspace)


#: Route name -> what answers at once.
WORKSPACE_ANSWERS: Final[dict[str, Answer]] = {"vm.workspace": vm_workspace}
