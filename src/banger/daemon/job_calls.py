"""The calls about commands that go on without their caller."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from ..api import guest_types as g
from ..api import types as t
from ..guest.agent import Agent
from ..guest.frames import Operation
from ..guest.job_messages import GuestJob, job_output_request, job_start_request, signal_number
from ..guest.outcome import ExecOutcome
from ..image.run_config import program
from ..model.errors import GuestError, GuestTimeout, NotFound
from .call import Answer, Call
from .context import Context
from .replies import same_fields
from .tickets import stream_ticket

ANSWER_SECONDS: Final = 30.0


async def vm_jobs(context: Context, call: Call) -> tuple[g.Job, ...]:
    async with _agent(context, call.path["ref"]) as agent:
        return tuple(map(_job_reply, await agent.jobs(call.query.get("id", ""))))


async def vm_job_start(context: Context, call: Call) -> g.StartedJob:
    body: g.StartJob = call.body
    job_id = body.id or f"job-{secrets.token_hex(4)}"
    config = context.images.config_of(context.machines.find(call.path["ref"]).image_id)
    run = program(config, argv=body.argv, env=body.env, cwd=body.cwd, user=body.user)
    make_cwd = not body.cwd and bool(run.cwd)
    request = job_start_request(id=job_id, argv=run.argv, env=run.env, cwd=run.cwd, user=run.user, make_cwd=make_cwd, label=body.label)
    context.machines.note_use(call.path["ref"])
    async with _agent(context, call.path["ref"]) as agent:
        started = await agent.start_job(request)
    if isinstance(started, ExecOutcome):
        return g.StartedJob(id=job_id, exit_status=started.exit_status, message=started.message)
    return g.StartedJob(id=job_id, pid=started)


async def vm_job_output(context: Context, call: Call) -> t.StreamTicket:
    body: g.JobOutput = call.body
    request = job_output_request(id=call.path["id"], which=body.which, offset=body.offset, follow=body.follow)
    return stream_ticket(context, call.path["ref"], Operation.JOB_OUTPUT, request)


async def vm_job_signal(context: Context, call: Call) -> g.Job:
    body: g.SignalJob = call.body
    number = signal_number(body.signal)
    async with _agent(context, call.path["ref"]) as agent:
        await agent.signal_job(call.path["id"], number)
        (job,) = await agent.jobs(call.path["id"])
    return _job_reply(job)


@asynccontextmanager
async def _agent(context: Context, ref: str) -> AsyncIterator[Agent]:
    """The machine's agent, with a deadline for what is asked of it."""
    record = context.machines.find(ref)
    try:
        async with asyncio.timeout(ANSWER_SECONDS):
            yield context.machines.agent(record.id)
    except TimeoutError:
        raise GuestTimeout(f"the agent in {record.name} did not answer within {ANSWER_SECONDS:g} s", hint=f"banger vm logs {record.name}") from None
    except GuestError as error:
        if error.guest_code == "not_found":
            raise NotFound(error.message, hint=f"banger vm jobs {record.name}") from None
        raise


def _job_reply(job: GuestJob) -> g.Job:
    return same_fields(g.Job, job)


#: Route name -> what answers at once.
JOB_ANSWERS: Final[dict[str, Answer]] = {
    "vm.jobs": vm_jobs,
    "vm.job_start": vm_job_start,
    "vm.job_output": vm_job_output,
    "vm.job_signal": vm_job_signal,
}
