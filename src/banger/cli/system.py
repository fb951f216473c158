"""``banger system``: banger as a service of the host, for an administrator."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import click

from .. import __version__
from ..api.types import DaemonStatus, Event
from ..model.installation import Installation
from ..system.places import Places
from .failures import FAILED
from .output import ago, local_time, print_fields, print_json
from .parameters import json_option
from .progress import Progress, progress

_SHELLS: Final = ("bash", "zsh", "fish")

root_option = click.option("--root", type=click.Path(file_okay=False, path_type=Path), help="Lay the files out below this directory; no service is touched.")
dry_run_option = click.option("--dry-run", is_flag=True, help="Only print what would be done, in order.")


@click.group()
def system() -> None:
    """banger as a service of this host, set up once by an administrator: machines on a bridge, with names, started at boot.

    The machines belong to one user, the owner, whose `banger` uses the service without root. Other users keep instances of their own.
    """


@system.command()
@click.option("--owner", metavar="USER", help="Whose machines the host runs (needed the first time).")
@click.option("--bridge", help="Name of the machines' bridge.  [default: banger0]")
@click.option("--subnet", metavar="CIDR", help="The machines' addresses.  [default: 172.30.86.0/24]")
@click.option("--reachable", metavar="CIDR", multiple=True, help="A network beside this host that machines with --nat may reach.")
@dry_run_option
@root_option
@json_option
def install(owner: str | None, bridge: str | None, subnet: str | None, reachable: tuple[str, ...], dry_run: bool, root: Path | None, as_json: bool) -> None:
    """Install the program that runs this command as a service, or bring what is installed up to its version. Machines keep running.

    What is there already is left alone; when something fails, everything is taken back.
    """
    from ..system.install import Wish, carry_out, plan_install

    wish = Wish(owner=owner, bridge=bridge, subnet=subnet, reachable=_networks(reachable))
    plan = plan_install(_places(root), wish, _documents())
    if not dry_run and plan.steps:
        with progress(as_json=as_json) as shown:
            carry_out(plan, Teller(shown))
    if as_json:
        print_json({"dry_run": dry_run, "steps": plan.steps, "installation": _plain(plan.installation)})
    elif dry_run:
        _print_steps(plan.steps, "nothing to do: all is as it should be")
    elif not plan.steps:
        click.echo(f"banger {plan.installation.version} is installed for {plan.installation.owner}, and nothing had to be changed")
    else:
        click.echo(f"installed banger {plan.installation.version} for {plan.installation.owner}" + (f" below {root}" if root else ""))


@system.command()
@json_option
def status(as_json: bool) -> None:
    """Show what is installed and what runs of it; status 1 when the daemon does not answer."""
    from ..system.status import look

    found = look(Places())
    if as_json:
        print_json(
            {
                "installation": _plain(found.installation),
                "program": found.program,
                "systemd": found.systemd,
                "units": found.units,
                "sockets": found.sockets,
                "daemon": found.daemon,
                "daemon_error": found.daemon_error,
            }
        )
    else:
        units = [(one.name, f"{one.active} ({one.sub}), {one.enabled or 'not installed'}" + (f", pid {one.pid}" if one.pid else "")) for one in found.units]
        print_fields(
            [
                *_fields(found.installation),
                ("program", found.program),
                *(units if found.systemd else [("units", "unknown: systemd does not run this host")]),
                *((one.path, one.state) for one in found.sockets),
                ("daemon", _daemon_words(found.daemon) if found.daemon else f"does not answer: {found.daemon_error}"),
            ]
        )
    if found.daemon is None:
        raise click.exceptions.Exit(FAILED)


@system.command()
@json_option
def restart(as_json: bool) -> None:
    """Restart helper and daemon, and wait until they are ready. Machines keep running."""
    from ..system.status import restart as restart_services

    with progress(as_json=as_json) as shown:
        found = restart_services(Places(), Teller(shown))
    print_json(found) if as_json else click.echo(f"restarted: {_daemon_words(found)}")


@system.command()
@click.option("--purge", is_flag=True, help="Remove the machines, images, caches and configuration of the service too. This cannot be undone.")
@click.option("--stop", is_flag=True, help="Power running machines off first.")
@click.option("--force", is_flag=True, help="The same, and go on when the daemon does not answer: what still runs is killed.")
@dry_run_option
@root_option
@json_option
def uninstall(purge: bool, stop: bool, force: bool, dry_run: bool, root: Path | None, as_json: bool) -> None:
    """Remove the service and all that it put on this host. Machines and images stay in /var/lib/banger unless --purge; nobody's home is touched."""
    from ..system.uninstall import carry_out, end_machines, plan_uninstall

    removal = plan_uninstall(_places(root), purge=purge)
    problems: tuple[str, ...] = ()
    if not dry_run and removal.steps:
        with progress(as_json=as_json) as shown:
            end_machines(removal, Teller(shown), stop=stop, force=force)
            problems = carry_out(removal, Teller(shown))
    if as_json:
        print_json({"dry_run": dry_run, "steps": removal.steps, "problems": problems})
    elif dry_run or not removal.steps:
        _print_steps(removal.steps, "nothing is installed")
    for problem in problems:
        click.echo(f"banger: {problem}", err=True)
    if problems:
        raise click.exceptions.Exit(FAILED)
    if not as_json and not dry_run and removal.steps:
        click.echo("uninstalled" + (f" from {root}" if root else "") + (_kept(removal.places) if not purge else ""))


class Teller:
    """A Report that shows what it is told as progress."""

    def __init__(self, shown: Progress) -> None:
        self._shown = shown

    def __call__(self, stage: str, message: str = "", *, progress: float | None = None, warning: bool = False) -> None:
        self._shown(Event(stage=stage, message=message, progress=progress, warning=warning))


def _places(root: Path | None) -> Places:
    return Places() if root is None else Places(root.absolute())


def _networks(texts: tuple[str, ...]) -> tuple[str, ...] | None:
    """Checked, and as they are written; None when none were given."""
    from ipaddress import IPv4Network

    from ..model.errors import BadRequest

    try:
        return tuple(str(IPv4Network(text)) for text in texts) or None
    except ValueError as error:
        raise BadRequest(f"--reachable: {error}", hint="for example --reachable 192.168.1.0/24") from error


def _documents() -> Mapping[Path, bytes]:
    """Completions and manual pages, by their place on the installed system."""
    from .completion import script_for
    from .main import root
    from .manual import manual_pages

    places = Places()
    completions = {places.completion(shell): script_for(shell).encode() for shell in _SHELLS}
    return completions | {places.manual / name: page for name, page in manual_pages(root).items()}


def _print_steps(steps: tuple[str, ...], otherwise: str) -> None:
    for step in steps or (otherwise,):
        click.echo(step)


def _kept(places: Places) -> str:
    left = [str(path) for path in (*places.data, places.configuration) if path.exists()]
    return f"; {', '.join(left)} stayed (--purge removes them too)" if left else ""


def _fields(installation: Installation) -> list[tuple[str, str]]:
    return [
        ("owner", f"{installation.owner} (uid {installation.uid})"),
        ("version", installation.version + (f" (this is {__version__})" if installation.version != __version__ else "")),
        ("installed", installation.installed_at),
        ("bridge", f"{installation.network.bridge}, {installation.network.subnet}"),
        ("reachable", ", ".join(installation.reachable)),
    ]


def _daemon_words(found: DaemonStatus) -> str:
    return f"version {found.version}, pid {found.pid}, since {local_time(found.started_at)} ({ago(found.started_at)}), {found.running_vms} running"


def _plain(installation: Installation) -> dict[str, Any]:
    """For JSON."""
    return {
        "owner": installation.owner,
        "uid": installation.uid,
        "gid": installation.gid,
        "home": str(installation.home),
        "bridge": installation.network.bridge,
        "subnet": str(installation.network.subnet),
        "reachable": installation.reachable,
        "version": installation.version,
        "installed_at": installation.installed_at,
    }
