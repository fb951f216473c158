"""For every test: a clean environment, and a guard that the state of the person who runs the tests is never touched."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

_REAL_HOME = Path(os.environ.get("HOME", "/nonexistent"))
_REAL_RUNTIME = os.environ.get("XDG_RUNTIME_DIR", "")
_REAL_STATE = tuple(
    str(path)
    for path in (
        _REAL_HOME / ".config/banger",
        _REAL_HOME / ".local/state/banger",
        _REAL_HOME / ".cache/banger",
        Path(_REAL_RUNTIME or "/nonexistent") / "banger",
        Path(f"/tmp/banger-runtime-{os.getuid()}"),
    )
)
_FILE_EVENTS = frozenset({"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.symlink", "os.link", "os.chmod", "sqlite3.connect"})


def _refuse_real_state(event: str, arguments: tuple[object, ...]) -> None:
    if event in _FILE_EVENTS and any(isinstance(word, str) and word.startswith(_REAL_STATE) for word in arguments):
        # Of pytest's own BaseException kind: no handler in the code under test swallows it.
        pytest.fail(f"a test touched the real state of this user: {event} {arguments!r}")


sys.addaudithook(_refuse_real_state)


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No variable of the caller's decides where banger's directories are."""
    for name in list(os.environ):
        if name.startswith(("BANGER_", "XDG_")):
            monkeypatch.delenv(name)
    home = tmp_path / "home"
    home.mkdir(exist_ok=True)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(home))
