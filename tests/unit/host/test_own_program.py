"""Programs of the same installation."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from banger.host import own_program as subject
from banger.host.own_program import INSTALLED_LIBRARY, own_program


def test_out_of_a_tree_or_an_environment_the_interpreter_finds_it(tmp_path: Path) -> None:
    """Whatever lies in the current directory."""
    (tmp_path / "banger.py").write_text("raise SystemExit('the wrong one')")
    done = subprocess.run([*own_program("banger"), "--version"], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert own_program("bangerd")[0] == sys.executable


def test_an_installed_one_is_started_by_its_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which alone puts the program's directory on the path of the host's interpreter."""
    monkeypatch.setattr(subject, "_PACKAGE", INSTALLED_LIBRARY / "versions/1.2/banger")
    assert own_program("bangerd") == ("/usr/local/bin/bangerd",)
    assert own_program("banger") == ("/usr/local/bin/banger",)
