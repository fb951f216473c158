"""``vm run`` and ``vm create``."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import click

from ..api.types import CreateVM, Defaults, Event, Lease, Operation
from ..client import Client
from ..client.client import OperationInterrupted
from ..model.errors import BadRequest, BangerError, ChannelLost, NotFound
from ..model.records import VMRecord
from ..model.sizes import MIB, format_size
from .failures import SessionCommand, command_words, report_error
from .machine import machine_options
from .output import print_json
from .parameters import json_option
from .progress import note, progress
from .session import Process, Streams, run_session, stream_options


@click.command(cls=SessionCommand)
@click.argument("path", required=False, nargs=-1, metavar="[-- COMMAND [ARGS]...]")
@machine_options
@click.option("--rm", "remove", is_flag=True, help="Delete the machine when the command or shell ends, however it ends.")
@click.option("-d", "--detach", is_flag=True, help="Leave it running and print its name; no command.")
@stream_options
@click.option("--json", "as_json", is_flag=True, help="Progress as JSON lines on stderr; with -d also the machine's record on stdout.")
def run(path: tuple[str, ...], remove: bool, detach: bool, tty: bool | None, stdin: bool | None, as_json: bool, **options: Any) -> int:
    """Make a machine and run a command in it, or without one a shell.

    The exit status is the command's own; 125 means that banger itself failed, 126 that the command cannot be executed, 127 that there is none.
    """
    words = command_words()
    _check_words(path, words, remove=remove, detach=detach)
    with Client.connect() as client:
        if detach:
            record = _create(client, _request(client, options, as_json=as_json), as_json=as_json)
            print_json(record) if as_json else click.echo(record.name)
            return 0
        with _lease(client, remove=remove) as lease:
            record = _create_under_lease(client, _request(client, options, lease=lease, as_json=as_json), as_json=as_json)
            with _cleanup(client, record, remove=remove):
                return _run_in(client, record, Process(argv=words or ()), Streams(tty=tty, stdin=stdin))


def _run_in(client: Client, record: VMRecord, process: Process, streams: Streams) -> int:
    try:
        return run_session(client, record.id, process, streams)
    except NotFound:
        raise ChannelLost(
            f"{record.name} is gone: it was deleted, or the daemon was stopped and took the machine of --rm with it", hint="run it again"
        ) from None


@click.command()
@machine_options
@click.option("--no-start", is_flag=True, help="Leave it stopped.")
@json_option
def create(no_start: bool, as_json: bool, **options: Any) -> None:
    """Make a machine and start it; prints its name."""
    with Client.connect() as client:
        record = _create(client, _request(client, options, start=not no_start, as_json=as_json), as_json=as_json)
    print_json(record) if as_json else click.echo(record.name)


def _check_words(path: tuple[str, ...], words: tuple[str, ...] | None, *, remove: bool, detach: bool) -> None:
    """Refuse what makes no sense before anything is made."""
    if path and "/" in path[0]:
        raise BadRequest(f"{path[0]}: banger cannot work on a directory yet", hint="start a machine without it, and put a command after `--`")
    if path:
        raise BadRequest(f"{path[0]!r} before `--` is not understood", hint="put a command after `--`: banger vm run --rm -- uname -a")
    if words == ():
        raise BadRequest("no command after `--`", hint="leave `--` out for a shell")
    if detach and remove:
        raise BadRequest("-d and --rm exclude each other", hint="a detached machine has nobody whose end could delete it; use `banger vm delete` later")
    if detach and words:
        raise BadRequest("-d takes no command", hint="start it with -d, then use `banger vm exec`")


def _request(client: Client, options: dict[str, Any], *, as_json: bool, start: bool = True, lease: str = "") -> CreateVM:
    """The request, with every size resolved; whether the sizes are allowed is the daemon's to say, with an op id."""
    defaults: Defaults = client.call("defaults")

    def given(option: str, default: int) -> int:
        value: int | None = options[option]
        return default if value is None else value

    return CreateVM(
        name=options["name"] or "",
        image=options["image"] or defaults.image,
        vcpu_count=given("vcpu", defaults.vcpu_count),
        memory_mib=defaults.memory_mib if options["memory"] is None else options["memory"] // MIB,
        work_disk_bytes=given("disk_size", defaults.work_disk_bytes),
        system_overlay_bytes=given("system_overlay_size", defaults.system_overlay_bytes),
        nat=options["nat"],
        publish=options["publish"],
        ttl=options["ttl"],
        idle=options["idle"],
        wait=options["wait"],
        start=start,
        lease=lease,
    )


def _create(client: Client, request: CreateVM, *, as_json: bool) -> VMRecord:
    """Make it, with a ``spec:`` line once the daemon has found nothing wrong with it."""
    began = time.monotonic()
    with progress(as_json=as_json) as report:
        events = _after_spec(request, report) if not as_json else report
        record: VMRecord = client.operation("vm.create", request=request, on_event=events)
    if request.start and not as_json:
        note(f"{record.name} {request.wait} in {time.monotonic() - began:.1f} s")
    return record


def _after_spec(request: CreateVM, report: Callable[[Event], None]) -> Callable[[Event], None]:
    said = False

    def on_event(event: Event) -> None:
        nonlocal said
        if not said:
            note(f"spec: {request.vcpu_count} vcpu | {request.memory_mib} MiB | {format_size(request.work_disk_bytes or 0)} disk")
            said = True
        report(event)

    return on_event


@contextmanager
def _lease(client: Client, *, remove: bool) -> Iterator[str]:
    """The lease that the machine of ``--rm`` lives under, "" without: the daemon deletes the machine when this connection ends, however it ends."""
    if not remove:
        yield ""
        return
    lease: Lease = client.call("lease.create")
    with client.attach(lease.token):
        yield lease.id


def _create_under_lease(client: Client, request: CreateVM, *, as_json: bool) -> VMRecord:
    """Create it; when that fails under a lease, return only once nothing is left."""
    began = time.time()
    try:
        return _create(client, request, as_json=as_json)
    except (BangerError, OperationInterrupted) as error:
        if request.lease:
            _clear_failed(client, error, began)
        raise


def _clear_failed(client: Client, error: BangerError | OperationInterrupted, began: float) -> None:
    """Delete the machine that a failed start under our lease left for inspection, if it left one.

    Errors here would hide the first one, and the lease's end does the same.
    """
    with suppress(BangerError, KeyboardInterrupt):
        operation: Operation = client.call("operation.show", {"id": error.op_id})
        if not operation.target:
            return
        record: VMRecord = client.call("vm.show", {"ref": operation.target}).record
        # A machine of that name that is older, or not under a lease, is somebody else's: ours was refused.
        if record.remove and record.name == operation.target and record.created_at >= began:
            client.operation("vm.delete", {"ref": record.id})


@contextmanager
def _cleanup(client: Client, record: VMRecord, *, remove: bool) -> Iterator[None]:
    """With ``--rm`` delete the machine at the end, else say that it is still there."""
    try:
        yield
    finally:
        if remove:
            _delete(client, record)
        else:
            note(f"{record.name} is still there: `banger vm shell {record.name}` goes back, `banger vm delete {record.name}` removes it")


def _delete(client: Client, record: VMRecord) -> None:
    """Delete it now, so that nothing is left when we return. Neither an error nor a Ctrl-C changes the command's status: the lease's end deletes it too."""
    try:
        client.operation("vm.delete", {"ref": record.id})
    except NotFound:
        return
    except BangerError as error:
        report_error(error, about=record.name)
    except KeyboardInterrupt:
        note(f"{record.name} is being deleted by the daemon")
