"""``banger doctor``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from itertools import groupby
from typing import TYPE_CHECKING

import click

from ..model.errors import BangerError
from .output import print_json
from .parameters import json_option
from .progress import note
from .style import dim, heading, plain, status_word

if TYPE_CHECKING:
    from ..doctor.ground import Ground
    from ..doctor.outcome import Finding

_INDENT = " " * 6


@click.command()
@click.option("--fix", is_flag=True, help="Offer to carry out the remedies that are safe, each after asking.")
@click.option("--yes", is_flag=True, help="With --fix: do not ask, but for what changes others' firewalls and files.")
@json_option
def doctor(fix: bool, yes: bool, as_json: bool) -> None:
    """Look at this host for what banger needs, and say what to do about the rest. Changes nothing without --fix, and starts no daemon.

    Status 0: all is well. 1: something could be better (WARN). 2: something does not work (FAIL).
    """
    from ..doctor.ground import survey
    from ..doctor.run import run_checks, worst

    if yes and not fix:
        raise click.UsageError("--yes goes with --fix.")
    ground = survey()
    findings = run_checks(ground)
    fixes: dict[str, str] = {}
    if fix:
        if not as_json:
            _print(findings)
        fixes = _fix(ground, findings, yes=yes)
        if "fixed" in fixes.values():
            ground = survey()
            findings = run_checks(ground)
    if as_json:
        print_json([_as_json(finding, fixes) for finding in findings])
    elif not fix or "fixed" in fixes.values():
        _print(findings)
    if status := worst(findings):
        raise click.exceptions.Exit(status)


def _as_json(finding: Finding, fixes: dict[str, str]) -> dict[str, object]:
    check = finding.check
    told: dict[str, object] = {"id": check.id, "group": check.group, "name": check.name, "status": check.status, "detail": check.detail, "remedy": check.remedy}
    told["fixable"] = finding.fix is not None
    return told | ({"fix": fixes[check.id]} if check.id in fixes else {})


def _print(findings: Sequence[Finding]) -> None:
    """A head for each group, aligned columns, the remedy below what it remedies; checks that do not apply share a line by their reason."""
    width = max((len(finding.check.name) for finding in findings if finding.check.status != "skip"), default=0)
    for group, members in groupby(findings, key=lambda finding: finding.check.group):
        click.echo(heading(group, sys.stdout))
        skipped: dict[str, list[str]] = {}
        for finding in members:
            if finding.check.status == "skip":
                skipped.setdefault(finding.check.detail, []).append(finding.check.name)
            else:
                _print_one(finding, width)
        for reason, names in skipped.items():
            click.echo(f"  SKIP  {dim(plain(reason + ' (' + ', '.join(names) + ')'), sys.stdout)}")


def _print_one(finding: Finding, width: int) -> None:
    check = finding.check
    head = f"  {status_word(check.status.upper(), sys.stdout)}  {plain(check.name).ljust(width)}  "
    detail = plain(check.detail).replace("\n", "\n" + " " * (width + 10))
    click.echo(head + detail)
    if check.remedy:
        remedy = plain(check.remedy).replace("\n", "\n" + " " * (width + 12))
        click.echo(f"{' ' * (width + 10)}{dim('->', sys.stdout)} {remedy}")


# -- --fix -----------------------------------------------------------------------------------------------------------------------------------------


def _fix(ground: Ground, findings: Sequence[Finding], *, yes: bool) -> dict[str, str]:
    """What became of each remedy by the check's id: ``fixed``, ``declined``, ``not allowed`` or ``failed``."""
    from ..doctor.fixes import fixable

    offered = fixable(findings)
    if not offered:
        note("nothing that can be fixed from here")
    return {finding.check.id: _offer(ground, finding, yes=yes) for finding in offered}


def _offer(ground: Ground, finding: Finding, *, yes: bool) -> str:
    from ..doctor.fixes import apply, check_allowed

    fix, check = finding.fix, finding.check
    assert fix is not None
    note(f"{check.name}: {plain(check.detail)}")
    try:
        check_allowed(ground, fix)
    except BangerError as error:
        note(f"{_INDENT}{error.message}: {error.hint}")
        return "not allowed"
    if not (yes and not fix.foreign) and not _agreed(fix.text(), foreign=fix.foreign):
        return "declined"
    try:
        apply(ground, fix, lambda step: note(f"{_INDENT}{step}"))
    except BangerError as error:
        note(f"{_INDENT}failed: {plain(error.message)}")
        return "failed"
    return "fixed"


def _agreed(text: str, *, foreign: bool) -> bool:
    """Asked on the terminal; without one nothing is agreed to."""
    note(f"{_INDENT}{text}")
    if not sys.stdin.isatty():
        note(f"{_INDENT}nobody to ask here" + ("" if foreign else ": --yes agrees"))
        return False
    return click.confirm(f"{_INDENT}{'this changes what is not banger’s; ' if foreign else ''}do it?", default=False, err=True)
