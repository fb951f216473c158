"""Every linter is a test: what `./dev check` runs, `./dev test` runs too."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
SHELL_SCRIPTS = ("dev", ".ci/run")

pytestmark = pytest.mark.timeout(300)


def check(*argv: str | Path) -> None:
    """Run a linter at the root; its findings are the failure."""
    done = subprocess.run(argv, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode != 0:
        pytest.fail(f"{Path(argv[0]).name} found:\n{done.stdout}", pytrace=False)


def test_ruff() -> None:
    check(BIN / "ruff", "check", "--quiet", "--output-format=concise", ".")


def test_format() -> None:
    check(BIN / "ruff", "format", "--check", "--quiet", ".")


def test_types() -> None:
    check(BIN / "mypy", "--no-error-summary")


def test_import_contracts() -> None:
    check(BIN / "lint-imports", "--no-logo")


def test_shell_scripts() -> None:
    check("shellcheck", *SHELL_SCRIPTS)
