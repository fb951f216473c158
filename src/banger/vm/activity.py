"""Who uses which machine right now, and when it was last used. Times are of ``time.monotonic``: a jump of the wall clock stops nobody's machine."""

from __future__ import annotations

import time
from collections.abc import Callable, Container
from dataclasses import dataclass

from ..model.records import VMRecord


@dataclass(slots=True)
class _Use:
    used_at: float
    started_at: float
    streams: int = 0


class Activity:
    """One entry per running machine, made from its row when it is first asked for."""

    def __init__(self, on_change: Callable[[VMRecord], None] = lambda _: None) -> None:
        """``on_change`` is called when a machine's deadline may have come nearer."""
        self._on_change = on_change
        self._uses: dict[str, _Use] = {}

    def note_start(self, record: VMRecord) -> None:
        """The machine has just been started."""
        self._uses.pop(record.id, None)
        self._use(record)
        self._on_change(record)

    def retain(self, running: Container[str]) -> None:
        """Forget all machines but these."""
        self._uses = {vm_id: use for vm_id, use in self._uses.items() if vm_id in running}

    def touch(self, record: VMRecord) -> None:
        """Somebody uses the machine now."""
        self._use(record).used_at = time.monotonic()

    def open(self, record: VMRecord) -> Callable[[], None]:
        """A stream into the machine is open from now until what is returned is called (a second call does nothing)."""
        use = self._use(record)
        use.streams += 1
        closed = False

        def close() -> None:
            nonlocal closed
            if not closed:
                closed = True
                use.streams -= 1
                use.used_at = time.monotonic()
                self._on_change(record)

        return close

    def streams(self, record: VMRecord) -> int:
        """How many streams into the machine are open."""
        return self._use(record).streams

    def used_at(self, record: VMRecord) -> float:
        """When the machine was last used."""
        return self._use(record).used_at

    def started_at(self, record: VMRecord) -> float:
        """When the machine was started."""
        return self._use(record).started_at

    def _use(self, record: VMRecord) -> _Use:
        use = self._uses.get(record.id)
        if use is None:
            now, wall = time.monotonic(), time.time()
            used, started = (now - max(0.0, wall - when) for when in (record.touched_at, record.runtime.started_at or record.touched_at))
            use = self._uses[record.id] = _Use(used_at=used, started_at=started)
        return use
