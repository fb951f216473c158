"""Options and arguments that several commands share."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Final

import click

from .completion import complete_images, complete_kernels, complete_vms


def checked(check: Callable[[Any], Any], _ctx: click.Context, _param: click.Parameter, value: Any) -> Any:
    """Run a check of the model on what was given. Its BadRequest is the user's error line."""
    return check(value) if value is not None else None


def artifact_name(ctx: click.Context, param: click.Parameter, value: Any) -> Any:
    """An image's or kernel's name, checked."""
    from ..model.names import check_artifact_name

    return checked(lambda name: check_artifact_name(name, param.name if param.name == "kernel" else "image"), ctx, param, value)


def image_word(ctx: click.Context, param: click.Parameter, value: Any) -> Any:
    """A name, a reference or a file, as the daemon takes it: paths absolute."""
    from .image_words import absolute

    return checked(absolute, ctx, param, value)


def vm_name(ctx: click.Context, param: click.Parameter, value: Any) -> Any:
    """A new machine's name, for the daemon to check; but an empty one, as an unset variable gives it, must not come to mean "any"."""
    from ..model.names import check_vm_name

    return checked(check_vm_name, ctx, param, value) if value == "" else value


MAX_SECONDS: Final = 1e9
"""The longest deadline that makes sense: three decades. Timers of the system overflow at ten times as much."""


class Seconds(click.FloatRange):
    """A number of seconds in a range; "nan", which compares with nothing, is in none."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        seconds: float = super().convert(value, param, ctx)
        if math.isnan(seconds):
            self.fail(f"{value} is not a number of seconds.", param, ctx)
        return seconds


json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
wait_option = click.option(
    "--wait", type=click.Choice(["ready", "booted"]), default="ready", show_default=True, help="Until commands can run, or until the system is up."
)
vm_argument = click.argument("ref", metavar="VM", shell_complete=complete_vms)
vms_argument = click.argument("refs", metavar="VM...", nargs=-1, required=True, shell_complete=complete_vms)
some_vms_argument = click.argument("refs", metavar="[VM...]", nargs=-1, shell_complete=complete_vms)
image_argument = click.argument("image", metavar="IMAGE", shell_complete=complete_images, callback=image_word)
images_argument = click.argument("names", metavar="IMAGE...", nargs=-1, required=True, shell_complete=complete_images)
file_option_type = click.Path(dir_okay=False)
kernel_option = click.option("--kernel", callback=artifact_name, shell_complete=complete_kernels, help="Kernel that it boots with.")
kernel_argument = click.argument("kernel", metavar="KERNEL", shell_complete=complete_kernels, callback=artifact_name)
kernels_argument = click.argument("names", metavar="KERNEL...", nargs=-1, required=True, shell_complete=complete_kernels)
