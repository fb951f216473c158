"""All checks at once, each with a deadline of its own; one that fails to look is a finding itself."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from ..model.checks import GROUPS, Check
from ..model.errors import BadVersion, BangerError
from . import cgroups, firewalls, host, images, installed, instance, network, virtualisation
from .ground import Ground, open_client
from .outcome import Finding, Result, commands, failed, refused

log = logging.getLogger(__name__)

LOOK_SECONDS: Final = 5.0
"""What a check may take; all of them together take less than one second on a quiet host."""
DAEMON_SECONDS: Final = 30.0
"""For the daemon's own checks, which may run a test guest."""
_SEVERITY: Final = ("skip", "pass", "warn", "fail")

_FIXES: Final = {"installation.leftovers": commands("banger gc", who="owner")}
"""For what only the daemon can find; the daemon names a check, and this process alone says what is run for it."""

Look = Callable[[Ground], Result]
Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True)
class Probe:
    """A check: its stable id, what it is called, and how it looks. ``look`` changes nothing."""

    id: str
    name: str
    look: Look


PROBES: Final = tuple(
    Probe(ident, name, look)
    for group in (host.CHECKS, virtualisation.CHECKS, cgroups.CHECKS, network.CHECKS, firewalls.CHECKS, images.CHECKS, instance.CHECKS, installed.CHECKS)
    for ident, name, look in group
)


def run_checks(ground: Ground, probes: Sequence[Probe] = PROBES, *, look_seconds: float = LOOK_SECONDS) -> tuple[Finding, ...]:
    """Every check of this host, and those of the daemon if it answers; in the order of the groups."""
    own = [_Looking(lambda probe=probe: _finding(probe, ground)) for probe in probes]  # type: ignore[misc]  # mypy does not see through the default
    asked = _Looking(lambda: _ask(ground))
    found = [looking.result(look_seconds) or _late(probe, look_seconds) for probe, looking in zip(probes, own, strict=True)]
    told = asked.result(DAEMON_SECONDS)
    return _in_order(merged(found, () if told is None else told))


def worst(findings: Iterable[Finding]) -> int:
    """Exit status: 0 when nothing is wrong, 1 when something could be better, 2 when something does not work."""
    return max((max(0, _SEVERITY.index(finding.check.status) - 1) for finding in findings), default=0)


def merged(own: Sequence[Finding], told: Sequence[Check]) -> list[Finding]:
    """Both, each id once. What works for the daemon works; otherwise our own trouble tells more, and may have a fix."""
    by_id = {finding.check.id: finding for finding in own}
    for check in told:
        mine = by_id.get(check.id)
        if mine is None or check.status == "pass" or mine.check.status in ("pass", "skip"):
            by_id[check.id] = Finding(check, _FIXES.get(check.id) if check.status == "warn" else None)
    return list(by_id.values())


def _in_order(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    rank = {group: number for number, group in enumerate(GROUPS)}
    return tuple(sorted(findings, key=lambda finding: rank.get(finding.check.group, len(rank))))


def _finding(probe: Probe, ground: Ground) -> Finding:
    try:
        result = probe.look(ground)
    except BangerError as error:
        result = refused(error)
    except Exception as error:
        log.debug("a check failed", exc_info=True)
        result = failed(f"the check itself failed: {error!r}", "please report this; BANGER_DEBUG=1 shows more")
    return _shown(probe, result)


def _late(probe: Probe, seconds: float) -> Finding:
    return _shown(probe, failed(f"no answer within {seconds:g} s", "is a disk or a network file system stuck? dmesg may know"))


def _shown(probe: Probe, result: Result) -> Finding:
    return Finding(Check(id=probe.id, name=probe.name, status=result.status, detail=result.detail, remedy=result.remedy), result.fix)


def _ask(ground: Ground) -> tuple[Check, ...]:
    """What the daemon finds; what keeps it from telling is one more finding."""
    if ground.daemon is None:
        return ()
    try:
        with open_client(ground.endpoint, DAEMON_SECONDS) as client:
            checks: tuple[Check, ...] = client.call("doctor")
            return checks
    except BadVersion:  # told by ``versions``
        return ()
    except BangerError as error:
        return (Check(id="installation.daemon-checks", name="daemon's checks", status="fail", detail=error.message, remedy=error.hint),)


class _Looking(Generic[Answer]):
    """Work in a thread that may be left behind: neither its deadline nor the end of the process waits for it."""

    def __init__(self, work: Callable[[], Answer]) -> None:
        self._work = work
        self._answer: Answer | None = None
        self._began = time.monotonic()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def result(self, seconds: float) -> Answer | None:
        """The answer; None when it is not there so long after the beginning."""
        self._thread.join(max(0.0, self._began + seconds - time.monotonic()))
        return self._answer

    def _run(self) -> None:
        self._answer = self._work()
