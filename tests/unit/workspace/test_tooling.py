"""What is detected in a repository, and that the script in the guest never fails."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from banger.workspace.guest import Place
from banger.workspace.tooling import Plan, Skip, Step, install_script, log_path, plan_tools
from tests.unit.workspace.repositories import write


@pytest.mark.parametrize(
    ("name", "content", "step"),
    [
        ("go.mod", "module x\n\ngo 1.22\n", Step("go", "1.22", "go.mod")),
        ("go.mod", "module x\ngo 1.22\ntoolchain go1.22.5\n", Step("go", "1.22.5", "go.mod")),
        (".nvmrc", "v20.11.1\n", Step("node", "20.11.1", ".nvmrc")),
        (".node-version", "20\n", Step("node", "20", ".node-version")),
        ("package.json", '{"engines": {"node": "^18.2.0"}}', Step("node", "18", "package.json")),
        (".python-version", "3.12.1\n", Step("python", "3.12.1", ".python-version")),
        ("pyproject.toml", '[project]\nrequires-python = ">=3.11,<4"\n', Step("python", "3.11", "pyproject.toml")),
        ("rust-toolchain.toml", '[toolchain]\nchannel = "1.79.0"\n', Step("rust", "1.79.0", "rust-toolchain.toml")),
        ("rust-toolchain", "nightly-2024-05-01\n", Step("rust", "nightly-2024-05-01", "rust-toolchain")),
        ("Cargo.toml", '[package]\nrust-version = "1.70"\n', Step("rust", "1.70", "Cargo.toml")),
    ],
)
def test_detection(tmp_path: Path, name: str, content: str, step: Step) -> None:
    write(tmp_path / name, content)
    assert plan_tools(tmp_path) == Plan((), (step,), ())


@pytest.mark.parametrize(
    ("name", "content"),
    [
        (".nvmrc", "lts/*; rm -rf /"),
        ("package.json", '{"engines": {"node": "*"}}'),
        ("rust-toolchain", "$(touch x)"),
        ("go.mod", "module x\n"),
        (".python-version", "pypy3.9"),
    ],
)
def test_versions_that_make_no_sense_are_skipped(tmp_path: Path, name: str, content: str) -> None:
    write(tmp_path / name, content)
    plan = plan_tools(tmp_path)
    assert plan.steps == ()
    assert len(plan.skips) == 1


def test_what_the_repository_manages_is_left_to_it(tmp_path: Path) -> None:
    write(tmp_path / ".mise.toml", '[tools]\nnode = "20"\n')
    write(tmp_path / ".tool-versions", "golang 1.21.0 # comment\n\n")
    write(tmp_path / "go.mod", "go 1.22\n")
    write(tmp_path / ".nvmrc", "18\n")
    plan = plan_tools(tmp_path)
    assert plan.managed == ("go", "node")
    assert [skip.tool for skip in plan.skips] == ["go", "node"]
    assert plan.steps == ()


def test_damaged_files_are_no_plan(tmp_path: Path) -> None:
    for name in (".mise.toml", "package.json", "pyproject.toml", "Cargo.toml"):
        write(tmp_path / name, b"\xff{[")
    (tmp_path / "go.mod").symlink_to("/etc/passwd")
    assert plan_tools(tmp_path).is_empty


@pytest.mark.parametrize("fails", [False, True])
def test_the_script_installs_and_never_fails(tmp_path: Path, *, fails: bool) -> None:
    home = tmp_path / "home"
    write(home / "re'po/file")
    write(home / ".local/bin/mise", f'#!/bin/sh\necho "mise $*"\nexit {int(fails)}\n')
    (home / ".local/bin/mise").chmod(0o755)
    place = Place(home=str(home), path=str(home / "re'po"))
    plan = Plan(("node",), (Step("go", "1.22", "go.mod"),), (Skip("rust", "it's odd"),))
    log = log_path(place, "re'po")
    assert "'" not in log
    subprocess.run(["sh", "-c", install_script(plan, place, log)], env={"HOME": str(home), "PATH": "/usr/bin:/bin"}, check=True)
    text = Path(log).read_text()
    assert "mise install" in text
    assert "mise use -g --pin go@1.22" in text
    assert "skipped rust: it's odd" in text
    assert ("failed with status 1" in text) is fails


def test_without_mise_the_log_says_so(tmp_path: Path) -> None:
    place = Place(home=str(tmp_path), path=str(tmp_path))
    log = log_path(place, "repo")
    subprocess.run(["sh", "-c", install_script(Plan(("node",), (), ()), place, log)], env={"HOME": str(tmp_path), "PATH": "/usr/bin:/bin"}, check=True)
    assert "mise is not in this image" in Path(log).read_text()
