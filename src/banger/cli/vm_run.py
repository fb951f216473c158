"""``vm run`` and ``vm create``."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Final

import click

from ..api.types import CreateVM, Defaults, Event, Lease, Operation, VMDetail
from ..client import Client
from ..client.client import OperationInterrupted
from ..client.credentials import credentials_file
from ..model.errors import BadRequest, BangerError, ChannelLost, NotFound
from ..model.records import VMRecord, VMState
from ..model.sizes import MIB, format_size
from .failures import SessionCommand, command_words, report_error
from .machine import machine_options, rates_of
from .output import print_json
from .parameters import json_option
from .progress import note, progress
from .session import Process, Streams, environment, process_options, run_session, stream_options
from .workspace_session import workspace_process
from .workspace_source import check_tools, print_dry_run, source_of, source_options, source_words

if TYPE_CHECKING:
    from ..workspace.source import Source

_END_SECONDS: Final = 3.0
_LOOK_SECONDS: Final = 0.1


@click.command(cls=SessionCommand)
@click.argument("path", required=False, nargs=-1, metavar="[DIRECTORY] [-- COMMAND [ARGS]...]")
@machine_options
@click.option("--rm", "remove", is_flag=True, help="Delete the machine when the command or shell ends, however it ends.")
@click.option("-d", "--detach", is_flag=True, help="Leave it running and print its name; no command.")
@source_options
@click.option("--no-bootstrap", is_flag=True, help="Do not install the tools that the directory asks for.")
@process_options
@click.option("--entrypoint", metavar="WORD", help='Run this first instead of what the image has for it; "" = nothing.')
@stream_options
@click.option("--json", "as_json", is_flag=True, help="Progress as JSON lines on stderr; with -d also the machine's record on stdout.")
def run(path: tuple[str, ...], remove: bool, detach: bool, no_bootstrap: bool, tty: bool | None, stdin: bool | None, as_json: bool, **options: Any) -> int:
    """Make a machine and run a command in it, or without one what its image starts: a container's command, else a shell.

    With a DIRECTORY, which must be in a git repository (or see --no-git), the command or shell begins in a copy of it, and `banger vm workspace` brings the
    work back. The exit status is the command's own; 125 means that banger itself failed, 126 that the command cannot be executed, 127 that there is none.
    """
    words = command_words()
    _check_words(path, words, remove=remove, detach=detach)
    if remove and options["autostart"]:
        raise BadRequest("--rm and --autostart exclude each other", hint="a machine that is deleted with its command cannot be started at boot")
    process = _process(words or (), options, detach=detach, workspace=bool(path))
    source = _find_source(path, options, bootstrap=not no_bootstrap)
    if options["dry_run"]:
        assert source is not None
        print_dry_run(source, as_json=as_json)
        return 0
    bootstrap = not no_bootstrap and words is None and bool(options["nat"])
    with Client.connect() as client:
        if detach:
            record = _create(client, _request(client, options, as_json=as_json), as_json=as_json)
            record = _with_workspace(client, record, source, user=process.user, bootstrap="wait" if bootstrap else "")
            print_json(record) if as_json else click.echo(record.name)
            return 0
        with _lease(client, remove=remove) as lease:
            record = _create_under_lease(client, _request(client, options, lease=lease, as_json=as_json), as_json=as_json)
            with _cleanup(client, record, remove=remove, as_json=as_json):
                record = _with_workspace(client, record, source, user=process.user, bootstrap="background" if bootstrap else "")
                return _run_in(client, record, workspace_process(record.runtime.workspace, process), Streams(tty=tty, stdin=stdin))


def _find_source(path: tuple[str, ...], options: dict[str, Any], *, bootstrap: bool) -> Source | None:
    """What becomes the workspace, looked at before anything is made; None without a directory."""
    if not path:
        given = source_words(options) + ([] if bootstrap else ["--no-bootstrap"])
        if given:
            raise BadRequest(f"{given[0]} needs a directory", hint=f"banger vm run DIRECTORY {' '.join(given)}")
        return None
    source = source_of(path[0], options)
    if not options["dry_run"]:
        check_tools(source, nat=options["nat"], bootstrap=bootstrap)
    return source


def _with_workspace(client: Client, record: VMRecord, source: Source | None, *, user: str, bootstrap: str) -> VMRecord:
    """The record of the machine once it has its workspace."""
    if source is None:
        return record
    from ..workspace.source import look_at
    from .workspace_tools import install_tools
    from .workspace_transfer import find_destination, send_workspace

    try:
        # Looked at once more: the user may have gone on working while the machine booted.
        workspace = send_workspace(client, lambda: find_destination(client, record, user=user), lambda: look_at(str(source.root), source.options)).record
    except BangerError as error:
        if not record.remove and not error.hint:
            error.hint = f"{record.name} is there without it; `banger vm workspace prepare {record.name} DIRECTORY` tries again"
        raise
    if bootstrap:
        install_tools(client, record, workspace, source, background=bootstrap == "background")
    detail: VMDetail = client.call("vm.show", {"ref": record.id})
    return detail.record


def _process(words: tuple[str, ...], options: dict[str, Any], *, detach: bool, workspace: bool) -> Process:
    """What is to run in the machine, taken out of the options. In a workspace it is the words alone, or a shell, unless an entrypoint is named."""
    entrypoint: str | None = options.pop("entrypoint")
    env, cwd, user = (options.pop(name) for name in ("env", "cwd", "user"))
    if detach and (entrypoint is not None or env or cwd or user):
        raise BadRequest("-d runs nothing, so there is nothing to give --entrypoint, --env, --workdir and --user to", hint="give them to `banger vm exec`")
    lead = None if entrypoint is None else (entrypoint,) if entrypoint else ()
    return Process(argv=words, env=environment(env), cwd=cwd, user=user, start=not workspace or lead is not None, entrypoint=lead)


def _run_in(client: Client, record: VMRecord, process: Process, streams: Streams) -> int:
    try:
        return run_session(client, record.id, process, streams)
    except NotFound:
        raise ChannelLost(
            f"{record.name} is gone: it was deleted, or the daemon was stopped and took the machine of --rm with it", hint="run it again"
        ) from None
    except ChannelLost as error:
        raise _with_end(client, record, error) from None


def _with_end(client: Client, record: VMRecord, error: ChannelLost) -> ChannelLost:
    """Why the machine itself has ended, where that is what broke the channel: the daemon sees it a moment later."""
    until = time.monotonic() + _END_SECONDS
    with suppress(BangerError):
        while (shown := client.call("vm.show", {"ref": record.id}).record).state is VMState.RUNNING and time.monotonic() < until:
            time.sleep(_LOOK_SECONDS)
        if shown.state is VMState.STOPPED and shown.runtime.last_stop_reason:
            return ChannelLost(f"{record.name} has stopped: {shown.runtime.last_stop_reason}", hint=error.hint, op_id=error.op_id)
    return error


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
    if len(path) > 1:
        raise BadRequest(f"one directory at most, not {len(path)}", hint="put a command after `--`: banger vm run --rm -- uname -a")
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
        autostart=options["autostart"],
        rates=rates_of(options),
        wait=options["wait"],
        start=start,
        lease=lease,
        credentials=credentials_file(),
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
def _cleanup(client: Client, record: VMRecord, *, remove: bool, as_json: bool) -> Iterator[None]:
    """With ``--rm`` delete the machine at the end, else say that it is still there."""
    try:
        yield
    finally:
        if remove:
            _delete(client, record, as_json=as_json)
        else:
            note(f"{record.name} is still there: `banger vm shell {record.name}` goes back, `banger vm delete {record.name}` removes it")


def _delete(client: Client, record: VMRecord, *, as_json: bool) -> None:
    """Delete it now, so that nothing is left when we return. Neither an error nor a Ctrl-C changes the command's status: the lease's end deletes it too."""
    try:
        client.operation("vm.delete", {"ref": record.id})
    except NotFound:
        return
    except BangerError as error:
        report_error(error, about=record.name, as_json=as_json)
    except KeyboardInterrupt:
        note(f"{record.name} is being deleted by the daemon")
