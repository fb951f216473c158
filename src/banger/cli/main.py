"""``banger``: the root of the command tree and the one place where errors become lines and exit statuses."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

import click

from .. import __version__
from .failures import json_wanted, report_any
from .lazy import LazyGroup

_EPILOG = "Start here: banger vm run --rm -- uname -a"


@click.group(
    cls=LazyGroup,
    name="banger",
    entries={
        "vm": (".vm:vm", "Run, keep, inspect and delete machines."),
        "ps": (".vm_show:list_command", "List machines (same as `vm list`)."),
        "image": (".image:image_group", "Images that machines start from."),
        "kernel": (".kernel:kernel_group", "Kernels that images boot with."),
        "daemon": (".daemon:daemon", "The daemon behind the commands."),
        "system": (".system:system", "banger as a service of this host, for its administrator."),
        "update": (".update:update", "Bring the installed service to another release."),
        "config": (".config:config", "Settings of this instance."),
        "ssh-config": (".ssh_config:ssh_config", "What makes `ssh NAME.vm` work."),
        "gc": (".gc:gc", "Remove what no machine needs any more."),
        "events": (".events:events", "What happened to machines."),
        "doctor": (".doctor:doctor", "What this host can do and what is missing."),
        "completion": (".completion:completion", "Print the script for shell completion."),
        "version": (".version:version", "Print version information."),
    },
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120},
    epilog=_EPILOG,
)
@click.version_option(__version__, prog_name="banger", message="%(prog)s %(version)s")
def root() -> None:
    """A clean Linux machine with its own kernel in one command."""


def main(args: Sequence[str] | None = None) -> int:
    """Run ``banger`` with these words (default: those of the process) and return its exit status."""
    _open_standard_descriptors()
    try:
        status = root.main(args, prog_name="banger", standalone_mode=False)
        sys.stdout.flush()
    except BaseException as error:  # noqa: BLE001 - the one place that turns whatever happened into lines and a status
        return report_any(error, as_json=json_wanted(sys.argv[1:] if args is None else args))
    return status if isinstance(status, int) else 0


def _open_standard_descriptors() -> None:
    """A closed stdin, stdout or stderr becomes /dev/null, or the next socket would take its number and get what is meant for it."""
    for fd in range(3):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    sys.stdout = sys.stdout or open(1, "w", closefd=False)  # noqa: SIM115 - as long-lived as what it stands for
    sys.stderr = sys.stderr or open(2, "w", closefd=False)  # noqa: SIM115


if __name__ == "__main__":
    sys.exit(main())
