"""Shell completion: the script, and the names of machines, images and kernels (asked from a daemon that runs; none is started for it)."""

from __future__ import annotations

import sys
from collections.abc import Callable

import click

_TIMEOUT = 1.0
"""Seconds a shell may hang on Tab."""


def _names(call: str, ctx: click.Context, incomplete: str) -> list[str]:
    """Names that the daemon knows and the command line does not hold yet; none when it is down or slow."""
    from ..client import Client
    from ..model.errors import BangerError

    try:
        with Client.connect(start=False, timeout=_TIMEOUT) as client:
            found: list[str] = [record.name for record in client.call(call)]
    except (BangerError, OSError):
        return []
    used = {word for value in ctx.params.values() if isinstance(value, (tuple, list)) for word in value}
    return [name for name in found if name.startswith(incomplete) and name not in used]


def complete_vms(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    return _names("vm.list", ctx, incomplete)


def complete_images(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    return sorted({*_names("image.list", ctx, incomplete), *_names("image.catalog", ctx, incomplete)})


def complete_kernels(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    return _names("kernel.list", ctx, incomplete)


Completer = Callable[[click.Context, click.Parameter, str], list[str]]


def script_for(shell: str) -> str:
    """What a shell has to evaluate: ``bash``, ``zsh`` or ``fish``."""
    from click.shell_completion import get_completion_class

    from .main import root

    kind = get_completion_class(shell)
    assert kind is not None
    return kind(root, {}, "banger", "_BANGER_COMPLETE").source()


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def completion(shell: str, as_json: bool) -> None:
    """Print the completion script for SHELL.

    \b
    bash: eval "$(banger completion bash)"        in ~/.bashrc
    zsh:  eval "$(banger completion zsh)"         in ~/.zshrc
    fish: banger completion fish | source         in ~/.config/fish/config.fish
    """
    script = script_for(shell)
    if as_json:
        from .output import print_json

        print_json({"shell": shell, "script": script})
    else:
        sys.stdout.write(script)
