"""The kill matrix: end the daemon at each point of each verb, start it again, and hold the host against what the surviving rows promise.

The points of a verb are not listed anywhere: the verb is run once with a trace.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass

from banger.api import types as t
from banger.model.errors import BangerError
from tests.fakes.harness import FakeInstance, settled


@dataclass(frozen=True)
class Verb:
    """A verb on the machine ``box``: how to get there, and what to do."""

    arrange: Callable[[FakeInstance], object]
    act: Callable[[FakeInstance], object]


def _nothing(instance: FakeInstance) -> None:
    """The verb starts from an empty instance."""


def _run(instance: FakeInstance) -> None:
    instance.create()


def _stopped(instance: FakeInstance) -> None:
    instance.create(start=False)


VERBS = {
    "create": Verb(_nothing, _run),
    "start": Verb(_stopped, lambda instance: instance.operate("vm.start", request=t.StartVM())),
    "stop": Verb(_run, lambda instance: instance.operate("vm.stop", request=t.StopVM(timeout=5))),
    "kill": Verb(_run, lambda instance: instance.operate("vm.kill", request=t.KillVM(signal="KILL"))),
    "restart": Verb(_run, lambda instance: instance.operate("vm.restart", request=t.StartVM())),
    "delete": Verb(_run, lambda instance: instance.operate("vm.delete")),
    "set": Verb(_stopped, lambda instance: instance.operate("vm.set", request=t.SetVM(memory_mib=384))),
    "set live": Verb(lambda instance: instance.create(nat=True), lambda instance: instance.operate("vm.set", request=t.SetVM(nat=False))),
}


@dataclass(frozen=True)
class Ends:
    """States that are right after an operation of one kind was interrupted ("" = no machine)."""

    unopened: frozenset[str]
    """Before it was in the journal."""
    killed: frozenset[str]
    """The daemon was killed in the middle, and another has recovered."""
    failed: frozenset[str]
    """A step has failed."""
    done: frozenset[str]
    """It was committed, and nobody was told."""


def _states(words: str) -> frozenset[str]:
    return frozenset(word.replace("none", "") for word in words.split())


ENDS = {
    "vm.create": Ends(_states("created"), _states("created"), _states("created"), _states("created")),
    "vm.start": Ends(_states("created stopped"), _states("error"), _states("error"), _states("running")),
    "vm.stop": Ends(_states("running"), _states("stopped"), _states("running error"), _states("stopped")),
    "vm.kill": Ends(_states("running"), _states("stopped"), _states("running error"), _states("stopped")),
    "vm.delete": Ends(_states("running"), _states("none"), _states("running error none"), _states("none")),
    "vm.set": Ends(*[_states("stopped running")] * 4),
}


def allowed(line: str) -> frozenset[str]:
    """The states that are right after this line of a plan, the first, has taken effect."""
    point, action = line.split()
    kind, _, where = point.partition("/")
    ends = ENDS[kind]
    if where == "open:before":
        return ends.unopened
    if where == "finish:after":
        return ends.done
    return ends.killed if action == "kill" else ends.failed


def points_of(instance: FakeInstance, verb: Verb, plan: tuple[str, ...] = ()) -> list[str]:
    """The points that the verb passes, and the next daemon if the plan kills this one; by default nothing goes wrong. The machine is gone afterwards."""
    verb.arrange(instance)
    instance.plan.begin_trace()
    instance.plan.write(list(plan))
    with contextlib.suppress(*([BangerError] if plan else [])):
        verb.act(instance)
    if any(line.endswith("kill") for line in plan):
        instance.end()
        instance.start()
    points = instance.plan.traced()
    instance.delete_all()
    return points


def single_plans(points: list[str]) -> list[list[str]]:
    """The daemon is killed, or a step fails, at each point."""
    return [[f"{point} {action}"] for point in points for action in ("kill", "raise")]


def double_plans(instance: FakeInstance, verb: Verb, points: list[str]) -> list[list[str]]:
    """What is to repair the first interruption is interrupted too: each undo fails once, or the daemon is killed in it; and a recovery forwards is killed."""
    steps = [point for point in points if "/finish:" not in point and "/open:" not in point and "/reserve:" not in point]
    last, first = steps[-1], steps[0]
    undos = [point for point in points_of(instance, verb, (f"{last} raise",)) if point.endswith((":undo", ":undone"))]
    plans = [[f"{last} {one}", f"{undo} {other}"] for undo in undos for one in ("kill", "raise") for other in ("kill", "raise")]
    if undos:
        return plans
    passed = points_of(instance, verb, (f"{first} kill",))
    return [[f"{first} kill", f"{later} {action}"] for later in passed[1:] for action in ("kill", "raise")]


def interrupt(instance: FakeInstance, verb: Verb, plan: list[str]) -> list[str]:
    """Carry out the verb with this plan (its lines must all take effect), until a daemon serves again. Returns what is wrong with the host then.

    Afterwards the machine must still be usable by everybody, and deleting it must leave nothing; the instance is empty then.
    """
    verb.arrange(instance)
    instance.plan.write(plan)
    kills = sum(line.endswith("kill") for line in plan)
    with contextlib.suppress(BangerError):
        verb.act(instance)
    before = instance.state_on_disk()
    for _ in range(kills):
        if not instance.died():
            return _reset(instance, [f"the daemon did not die: {instance.plan.rest()}"])
        instance.start()
    wrong = _judge(instance, plan, before)
    wrong += [f"the plan did not take effect: {line}" for line in instance.plan.rest()]
    instance.plan.write([])
    return _reset(instance, wrong + _still_usable(instance))


def _judge(instance: FakeInstance, plan: list[str], before: str) -> list[str]:
    if plan[0].endswith("kill") and plan[-1].endswith("raise"):
        _next_daemon(instance)  # a recovery that fails is in the log, and goes on with the next daemon
    state, right = instance.state(), allowed(plan[0])
    wrong = [] if state in right else [f"state {state!r} (before: {before!r}), not one of {sorted(right)}"]
    if state == "error":
        wrong += [] if instance.machines()["box"].runtime.last_error else ["in error without a reason"]
        _next_daemon(instance)  # what a failure has left behind is told on the row
    return wrong + settled(instance.wrong)


def _next_daemon(instance: FakeInstance) -> None:
    instance.end()
    instance.start()


def _still_usable(instance: FakeInstance) -> list[str]:
    try:
        if instance.state() == "":
            instance.create()
        instance.operate("vm.start", request=t.StartVM())
        wrong = [f"when started again: {what}" for what in settled(instance.wrong)]
        instance.operate("vm.delete")
    except BangerError as error:
        return [f"not usable afterwards: {error}"]
    return wrong + [f"after the deletion: {what}" for what in settled(instance.left)]


def _reset(instance: FakeInstance, wrong: list[str]) -> list[str]:
    """Whatever was found, the next case begins with an empty instance."""
    instance.plan.write([])
    with contextlib.suppress(BangerError):
        instance.delete_all()
    return wrong
