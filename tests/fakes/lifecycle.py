"""The life of machines as hypothesis plays it: random verbs, crashes and failures against a model that knows nothing but states."""

from __future__ import annotations

import asyncio
import os
import signal
import tempfile
from collections.abc import Callable, Coroutine
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TypeVar

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from banger.model.errors import AlreadyExists, BangerError, NotFound, NotStopped
from banger.model.progress import silent
from banger.vm.change import Change
from tests.fakes.drivers import fake_disks, running
from tests.fakes.matrix import allowed
from tests.fakes.world import Died, World

Result = TypeVar("Result")
NAMES = st.sampled_from(["ant", "bee"])
VERBS = st.sampled_from(["start", "stop", "kill", "restart", "delete", "change"])
KINDS: dict[str, tuple[str, ...]] = {
    "start": ("vm.start/",),
    "stop": ("vm.stop/",),
    "kill": ("vm.kill/",),
    "restart": ("vm.stop/", "vm.start/"),
    "delete": ("vm.delete/",),
    "change": ("vm.set/",),
}
"""The operations that a verb consists of."""
WHERE = st.integers(min_value=0, max_value=10_000)


class Lifecycle(RuleBasedStateMachine):
    """``model`` maps the name of each machine to its state."""

    def __init__(self) -> None:
        super().__init__()
        self._stack = ExitStack()
        directory = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="banger-life-")))
        self._stack.enter_context(fake_disks())
        self._loop = self._stack.enter_context(asyncio.Runner())
        self.world = self._run(_new_world(directory / "instance"))
        self.model: dict[str, str] = {}
        self._memory = 256

    def _run(self, work: Coroutine[Any, Any, Result]) -> Result:
        return self._loop.run(work)

    def teardown(self) -> None:
        self._run(self.world.close())
        self._stack.close()

    @initialize()
    def learn_the_points(self) -> None:
        """Once through all verbs: these are the points at which things can go wrong."""
        self._run(self.world.create("ant"))
        for verb in ("stop", "change", "start", "restart", "kill", "delete"):
            self._run(self._verb(verb, "ant"))
        self.points = sorted(self.world.points - {"vm.create/reserve:after"})

    def _verb(self, verb: str, name: str) -> Coroutine[Any, Any, Any]:
        machines = self.world.machines
        verbs: dict[str, Callable[[], Coroutine[Any, Any, Any]]] = {
            "start": lambda: machines.start(name, wait_booted=False, report=silent),
            "stop": lambda: machines.stop(name, timeout=5, report=silent),
            "kill": lambda: machines.kill(name, signal="KILL", report=silent),
            "restart": lambda: machines.restart(name, wait_booted=False, report=silent),
            "delete": lambda: machines.delete(name, report=silent),
            "change": lambda: machines.change(name, Change(memory_mib=self._next_memory()), report=silent),
        }
        return verbs[verb]()

    def _next_memory(self) -> int:
        self._memory = 256 if self._memory > 1000 else self._memory + 1
        return self._memory

    def _after(self, verb: str, name: str) -> str | None:
        """The state after a verb that nothing disturbs; None when it is refused."""
        state = self.model.get(name)
        if state is None:
            return None
        if verb == "change":
            return None if state == "running" else state
        if verb in ("stop", "kill"):
            return "stopped" if state == "running" else state
        return {"start": "running", "restart": "running", "delete": "gone"}[verb]

    def _note(self, name: str, state: str) -> None:
        if state in ("gone", ""):
            self.model.pop(name, None)
        else:
            self.model[name] = state

    # -- rules -----------------------------------------------------------------------------------------------------------------------------------

    @rule(name=NAMES, start=st.booleans())
    def create(self, name: str, start: bool) -> None:
        try:
            self._run(self.world.create(name, start=start))
        except AlreadyExists:
            assert name in self.model
        else:
            assert name not in self.model
            self.model[name] = "running" if start else "stopped"

    @rule(name=NAMES, verb=VERBS)
    def do(self, name: str, verb: str) -> None:
        expected = self._after(verb, name)
        try:
            self._run(self._verb(verb, name))
        except (NotFound, NotStopped):
            assert expected is None
        else:
            assert expected is not None
            self._note(name, expected)

    @rule(name=NAMES, verb=VERBS, where=WHERE, how=st.sampled_from(["die", "raise"]))
    @precondition(lambda self: self.model)
    def do_interrupted(self, name: str, verb: str, where: int, how: str) -> None:
        name = name if name in self.model else next(iter(self.model))
        if self.model[name] == "running":
            verb = {"start": "restart", "change": "stop"}.get(verb, verb)
        else:
            verb = {"restart": "start", "stop": "start", "kill": "delete"}.get(verb, verb)
        points = [point for point in self.points if point.startswith(KINDS[verb])]
        point = points[where % len(points)]
        self.world.plan = {point: how}
        expected = self._after(verb, name)
        try:
            self._run(self._verb(verb, name))
        except Died:
            self._run(self.world.next_daemon())
            self._settle(name, point, "kill", expected)
        except (NotFound, NotStopped):
            assert expected is None
        except (BangerError, ExceptionGroup):
            assert not self.world.plan
            self._settle(name, point, "raise", expected)
            if self.model.get(name) == "error":
                self._run(self.world.next_daemon())
        else:
            assert expected is not None
            self._note(name, expected)
        self.world.plan = {}

    def _settle(self, name: str, point: str, action: str, expected: str | None) -> None:
        """The model follows, when the state is one that is right after such an interruption."""
        state, before = self._state(name), self.model.get(name, "")
        right = allowed(f"{point} {action}") | ({before} if before in ("created", "error") or point.startswith("vm.set/") else set())
        if point.startswith("vm.delete/"):
            right |= {before}
        if point.endswith("/finish:after"):
            right |= {"" if expected == "gone" else str(expected)}
        assert state in right, f"{name} was {before}, is {state!r} after {action} at {point}, not one of {sorted(right)}"
        self._note(name, state)

    @rule(fault=st.sampled_from(["dies", "refuse"]), name=NAMES)
    def start_a_guest_that_does_not_come_up(self, fault: str, name: str) -> None:
        if self.model.get(name) in (None, "running"):
            return
        self.world.vmm.faults = fault
        try:
            self._run(self._verb("start", name))
        except (BangerError, ExceptionGroup):
            self.model[name] = "error"
        else:
            raise AssertionError("it started")
        finally:
            self.world.vmm.faults = ""

    @rule(name=NAMES)
    @precondition(lambda self: "running" in self.model.values())
    def the_machine_ends_by_itself(self, name: str) -> None:
        if self.model.get(name) != "running":
            return
        for pid in running(self.world.machines.find(name).id):
            os.kill(pid, signal.SIGKILL)
        self._run(self._until(lambda: self._state(name) == "stopped"))
        self.model[name] = "stopped"

    @rule()
    def crash(self) -> None:
        self._run(self.world.next_daemon())

    async def _until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(10):
            while not condition():
                await asyncio.sleep(0.005)

    # -- what always holds -----------------------------------------------------------------------------------------------------------------------

    def _state(self, name: str) -> str:
        return next((record.state.value for record in self.world.machines.list() if record.name == name), "")

    @invariant()
    def states_are_those_of_the_model(self) -> None:
        assert {record.name: record.state.value for record in self.world.machines.list()} == self.model

    @invariant()
    def the_host_is_as_the_rows_promise(self) -> None:
        assert self.world.wrong() == []


async def _new_world(home: Path) -> World:
    return World(home)
