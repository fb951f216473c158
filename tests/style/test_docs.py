"""What the documents promise is there."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from banger.model import errors
from banger.model.errors import BangerError

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
_LINK = re.compile(r"\]\((?!https?:|mailto:|#)([^)#\s]+)")
_VERB = re.compile(r"\./dev ([a-z]+)")


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document: Path) -> None:
    assert [link for link in _LINK.findall(document.read_text()) if not (document.parent / link).exists()] == []


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "ARCHITECTURE.md", "LICENSE", "docs/agent-protocol.md"])
def test_documents_are_there(name: str) -> None:
    assert (ROOT / name).stat().st_size > 200


def test_verbs_of_dev_exist() -> None:
    words = subprocess.run([ROOT / "dev", "help"], capture_output=True, text=True, check=True).stdout
    known = set(re.findall(r"^  ([a-z]+) ", words, re.MULTILINE))
    used = {verb for document in DOCUMENTS for verb in _VERB.findall(document.read_text())}
    assert used
    assert used <= known


def error_classes(root: type[BangerError]) -> list[type[BangerError]]:
    below = [leaf for child in root.__subclasses__() for leaf in error_classes(child)]
    return [kind for kind in (root, *below) if kind.__module__ == errors.__name__]


@pytest.mark.parametrize("kind", error_classes(BangerError), ids=lambda kind: kind.__name__)
def test_the_tree_of_errors_is_drawn(kind: type[BangerError]) -> None:
    """The drawing at the top of errors.py is what people read: it names every class with its code."""
    assert re.search(rf"\b{kind.__name__}\s+{kind.code}\b", errors.__doc__ or "")
