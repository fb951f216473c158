"""``ssh-config``: what makes `ssh NAME.vm` work, and whether it is in the user's own configuration."""

from __future__ import annotations

import click

from ..api.types import SshFiles
from ..client import Client
from ..client.user_ssh_config import default_path, install, is_installed, uninstall
from ..model.errors import BadRequest, BangerError
from .output import print_fields, print_json
from .parameters import json_option
from .progress import note


@click.command("ssh-config")
@click.option("--install", "wish", flag_value="install", help="Include it at the top of ~/.ssh/config; nothing else there is changed.")
@click.option("--uninstall", "wish", flag_value="uninstall", help="Take that out again.")
@json_option
def ssh_config(wish: str | None, as_json: bool) -> None:
    """Print where the ssh configuration of this instance is, and how to use it.

    Once included, `ssh NAME.vm`, scp, sftp, rsync, git and editors reach every machine that runs an ssh server, with or without a network card.
    """
    own = default_path()
    try:
        if wish == "uninstall":
            changed = uninstall(own)
            print_json({"user_config": str(own), "changed": changed}) if as_json else note(f"{own}: {'the block is removed' if changed else 'has no block'}")
            return
        with Client.connect() as client:
            files: SshFiles = client.call("ssh.show")
        changed = wish == "install" and install(own, files.include)
        installed = is_installed(own, files.include)
    except BadRequest as error:
        raise BangerError(f"{own}: {error.message}", hint=error.hint) from error
    except OSError as error:
        raise BangerError(f"{error.filename or own}: {error.strerror}", hint="put the Include line in by hand: banger ssh-config") from error
    if as_json:
        print_json({"config": files.config, "include": files.include, "user_config": str(own), "installed": installed, "changed": changed})
        return
    print_fields([("config", files.config), ("include", files.include)])
    if wish == "install":
        note(f"{own}: {'now includes it' if changed else 'included it already'}; try `ssh NAME.vm`")
    elif installed:
        note(f"{own} includes it; `banger ssh-config --uninstall` takes it out")
    else:
        note(f"`banger ssh-config --install` puts that line at the top of {own}; without, use `ssh -F {files.config} NAME.vm` or `banger vm ssh NAME`")
