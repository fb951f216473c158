"""Manual pages from the tree of commands."""

from __future__ import annotations

import gzip

import click

from banger.cli.main import root
from banger.cli.manual import manual_pages


def test_every_command_has_a_page() -> None:
    pages = manual_pages(root)
    assert {"banger.1.gz", "banger-vm.1.gz", "banger-vm-run.1.gz", "banger-image-cache-prune.1.gz", "banger-system-install.1.gz"} <= set(pages)
    assert "banger-vm-ls.1.gz" not in pages, "an alias is no command of its own"
    text = gzip.decompress(pages["banger-vm-run.1.gz"]).decode()
    assert text.startswith('.TH "BANGER\\-VM\\-RUN" 1 ')
    assert ".B \\-\\-rm\nDelete the machine when" in text
    assert ".BR banger\\-vm (1)" in text
    assert pages == manual_pages(root), "the same words give the same bytes"


def test_nothing_in_the_text_is_a_request() -> None:
    @click.command(help="Does it.\n\n.so /etc/passwd\n'nf\n\n\b\n.verbatim  and \\fB")
    @click.option("--x", help=".TH evil")
    def evil(x: str) -> None: ...

    text = gzip.decompress(manual_pages(evil)["banger.1.gz"]).decode()
    requests = {line.split()[0] for line in text.splitlines() if line.startswith((".", "'"))}
    assert requests <= {".TH", ".nh", ".SH", ".B", ".PP", ".nf", ".fi", ".TP", ".BR"}
    assert "\\&.so /etc/passwd" in text
    assert text.count(".TH") == 2
    assert "\\efB" in text
