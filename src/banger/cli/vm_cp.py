"""``vm cp``."""

from __future__ import annotations

import sys
from typing import Any

import click

from .parameters import json_option
from .style import plain


@click.command("cp")
@click.argument("source", metavar="SRC")
@click.argument("target", metavar="DST")
@click.option("-a", "--archive", is_flag=True, help="Keep owners and extended attributes (default: they belong to root, or to you).")
@click.option("-L", "--follow-link", "follow", is_flag=True, help="When SRC is a symbolic link, copy what it leads to.")
@click.option("-q", "--quiet", is_flag=True, help="No progress and no summary.")
@json_option
def cp(source: str, target: str, archive: bool, follow: bool, quiet: bool, as_json: bool) -> None:
    """Copy files between a machine and this host.

    One of SRC and DST is VM:PATH, the other a local PATH or - for a tar stream. As with `docker cp`: into a directory that exists, SRC keeps its name; else DST
    is the copy's name. SRC/. is what is in a directory. A local name with a colon is written ./NAME.
    """
    from ..client import Client
    from ..client.copy import Copy
    from ..client.places import parse_place
    from .transfer_progress import TransferProgress

    places = parse_place(source), parse_place(target)
    with Client.connect() as client, TransferProgress(shown=not quiet) as progress:
        copy = Copy(client=client, archive=archive, follow=follow, on_moved=progress)
        copied = copy.run(*places, stdin=sys.stdin.buffer, stdout=sys.stdout.buffer)
    for warning in copied.warnings:
        click.echo(plain(f"banger: warning: {warning}"), err=True)
    if len(copied.warnings) < copied.skipped:
        click.echo(f"banger: warning: {copied.skipped - len(copied.warnings)} more were not copied", err=True)
    if as_json:
        from .output import print_json_line

        fields: dict[str, Any] = {"entries": copied.entries, "bytes": copied.bytes, "skipped": copied.skipped}
        print_json_line(fields, err=target == "-")
    elif not quiet:
        progress.summary(copied.entries, copied.bytes, plain(target))
