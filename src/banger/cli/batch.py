"""One verb on several targets: at the same time, the good ones in spite of the bad ones, results in the order given."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import click

from ..api.codec import error_body
from ..client import Client
from ..model.errors import BangerError
from ..model.records import VMRecord
from .failures import FAILED, report_error, status_of
from .output import print_json

Action = Callable[[Client, str], Any]


@dataclass(slots=True)
class Target:
    """One of several, and what became of it."""

    word: str
    """As the user wrote it."""
    ref: str
    result: Any = None
    error: BangerError | None = None
    surprise: BaseException | None = None

    def apply(self, client: Client, action: Action) -> None:
        try:
            self.result = action(client, self.ref)
        except BangerError as error:
            self.error = error


def vm_targets(client: Client, words: Sequence[str]) -> list[tuple[str, str]]:
    """``(word, reference)`` of each machine once: several words may mean the same machine. What is unknown or ambiguous is left to the daemon to refuse."""
    words = list(dict.fromkeys(words))
    if len(words) == 1:
        return [(words[0], words[0])]
    records: tuple[VMRecord, ...] = client.call("vm.list")
    targets: dict[str, str] = {}
    for word in words:
        exact = [record for record in records if word == record.id] or [record for record in records if word == record.name]
        found = exact or [record for record in records if record.id.startswith(word)]
        targets.setdefault(found[0].id if len(found) == 1 else word, word)
    return [(word, ref) for ref, word in targets.items()]


def gather(client: Client, targets: Sequence[tuple[str, str]], action: Action) -> list[Target]:
    """Apply ``action`` to each target's reference, at the same time; in order, each with its result or its error."""
    batch = [Target(word, ref) for word, ref in targets]
    if len(batch) == 1:
        batch[0].apply(client, action)  # in this thread, which a Ctrl-C can reach
    else:
        _run_threads(client, batch, action)
    return batch


def run_batch(client: Client, targets: Sequence[tuple[str, str]], action: Action, *, as_json: bool, show: Callable[[list[Any]], None] | None = None) -> None:
    """Apply ``action`` to each target's reference, report in order; ends the command with status 1 when any failed, or 2 when nothing but wrong words came.

    As JSON: a list of ``{"ref", "result"}`` or ``{"ref", "error"}``. Otherwise the name of each that went well, or what ``show`` makes of all results;
    and errors on stderr.
    """
    batch = gather(client, targets, action)
    if as_json:
        print_json([_as_json(target) for target in batch])
    else:
        if show is not None:
            show([target.result for target in batch if target.error is None])
        for target in batch:
            _print(target, alone=len(batch) == 1, named=show is None)
    if errors := [target.error for target in batch if target.error is not None]:
        raise click.exceptions.Exit(min(map(status_of, errors)) if len(errors) == len(batch) else FAILED)


def _run_threads(client: Client, batch: Sequence[Target], action: Action) -> None:
    def work(target: Target) -> None:
        try:
            target.apply(client, action)
        except BaseException as error:  # noqa: BLE001 - raised again below, in the thread that can tell the user
            target.surprise = error

    threads = [threading.Thread(target=work, args=(target,), daemon=True) for target in batch]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for target in batch:
        if target.surprise is not None:
            raise target.surprise


def _as_json(target: Target) -> dict[str, Any]:
    if target.error is not None:
        return {"ref": target.word, "error": error_body(target.error, "")}
    return {"ref": target.word, "result": target.result}


def _print(target: Target, *, alone: bool, named: bool) -> None:
    if target.error is not None:
        report_error(target.error, about="" if alone or target.word in target.error.message else target.word)
    elif named:
        click.echo(target.result.name)
