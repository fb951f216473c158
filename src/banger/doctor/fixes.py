"""Remedies carried out: those that are safe, can be taken back, and are wanted by everybody who asks for them. Each step is what its text says."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Final

from ..host.files import write_atomically
from ..host.own_program import own_program
from ..host.run_sync import run_sync
from ..model.errors import BangerError, Unauthorized
from .ground import Ground
from .outcome import Command, Finding, Fix, NewFile, OutputTo, Step

STEP_SECONDS: Final = 900.0
"""A package manager downloads."""


def fixable(findings: Sequence[Finding]) -> tuple[Finding, ...]:
    """Those with a remedy that can be carried out, one for each remedy: packages of several checks are asked for once."""
    by_fix = {finding.fix: finding for finding in reversed(findings) if finding.fix is not None and finding.check.status in ("warn", "fail")}
    return tuple(finding for finding in findings if finding.fix is not None and by_fix.get(finding.fix) is finding)


def check_allowed(ground: Ground, fix: Fix) -> None:
    """Raises Unauthorized, with the command to type, unless this process may do it. Root does nothing in places that are the owner's to change."""
    if fix.who == "root" and os.geteuid() != 0:
        raise Unauthorized("needs root", hint=fix.text())
    if fix.who == "owner" and not ground.is_owner:
        raise Unauthorized(f"is for {ground.user} to do", hint=fix.text())


def apply(ground: Ground, fix: Fix, told: Callable[[str], None]) -> None:
    """Carry out each step, ``told`` of it before. Raises Unauthorized, and what a step failed with; those before it stay."""
    check_allowed(ground, fix)
    for step in fix.steps:
        told(step.text(""))
        try:
            _carry_out(step)
        except OSError as error:
            raise BangerError(f"{step.text('')}: {error.strerror}", hint=fix.text()) from error


def _carry_out(step: Step) -> None:
    match step:
        case Command(argv=argv):
            run_sync(_words(argv), deadline=STEP_SECONDS, env=_environment())
        case NewFile(path=path, content=content):
            write_atomically(path, content.encode() + b"\n", mode=0o644)
        case OutputTo(argv=argv, path=path):
            write_atomically(path, run_sync(argv, deadline=STEP_SECONDS).stdout, mode=0o600)


def _words(argv: Sequence[str]) -> list[str]:
    """``banger`` is this very program, wherever it is installed."""
    return [*own_program("banger"), *argv[1:]] if argv[0] == "banger" else list(argv)


def _environment() -> dict[str, str]:
    """What says which instance is meant; and package managers ask nothing."""
    kept = {name: value for name, value in os.environ.items() if name.startswith(("BANGER_", "XDG_"))}
    return kept | {name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ} | {"DEBIAN_FRONTEND": "noninteractive"}
