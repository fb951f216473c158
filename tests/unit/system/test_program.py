"""What is copied: the package and what it needs, from wherever it runs."""

from __future__ import annotations

import os
import subprocess
from dataclasses import replace
from importlib import metadata
from pathlib import Path, PurePosixPath

import pytest

import banger
from banger.model.errors import BadRequest, MissingTool, NotFound, Unauthorized
from banger.system import program
from banger.system.changes import Directory, File, Link
from banger.system.launchers import launcher
from banger.system.owner import Owner, check_beyond_reach, find_owner
from banger.system.program import Program, install_program, place_for, program_in, running_program


def tops(found: Program) -> set[str]:
    return {name.parts[0] for name in found.files}


def test_it_is_the_package_and_its_dependencies_alone() -> None:
    found = running_program()
    assert {"banger", "click", "msgspec", "rich", "starlette", "uvicorn", "httpx2", "h11", "anyio", "backports", "typing_extensions.py"} <= tops(found)
    assert not tops(found) & {"pytest", "_pytest", "mypy", "ruff", "hypothesis", "hatchling", "pip", "setuptools", "tests"}
    assert not [name for name in found.files if name.suffix in (".pyc", ".pth") or ".." in name.parts]
    for needed in ("banger/guest/program/banger-guest", "banger/image/catalog.toml", "banger/py.typed", "banger/helper/main.py"):
        assert PurePosixPath(needed) in found.files
    assert [name for name in found.files if name.suffix == ".so"]


def test_an_installed_copy_is_the_same_program(tmp_path: Path) -> None:
    found = running_program()
    place = place_for(found, tmp_path)
    assert place == tmp_path / banger.__version__
    install_program(found, place)
    assert program_in(place, found.version).digest() == found.digest()
    assert place_for(found, tmp_path) == place
    assert list(place.rglob("banger/cli/__pycache__/main.*.pyc")), "it is compiled: its owner could not do that later"
    for path in (place, *place.rglob("*")):
        assert not path.stat().st_mode & 0o022
    changed = place / "banger/py.typed"
    changed.write_text("changed")
    other = place_for(found, tmp_path)
    assert other.name == f"{banger.__version__}+{found.digest()[:12]}"
    # And it runs, isolated, also for somebody who owns nothing of it.
    script = tmp_path / "bin/banger"
    script.parent.mkdir()
    (tmp_path / "current").symlink_to(place.name)
    script.write_bytes(launcher(script, interpreter=Path("/usr/bin/python3"), current=tmp_path / "current", module="banger.cli.main"))
    script.chmod(0o755)
    done = subprocess.run([script, "--version"], env={"PYTHONPATH": "/nowhere"}, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == (f"banger {banger.__version__}\n", "")


def test_a_copy_that_fails_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "bad.py").write_text("def (")
    with pytest.raises(BaseException, match="does not compile"):
        install_program(Program("1", {PurePosixPath("bad.py"): tmp_path / "bad.py"}), tmp_path / "versions")
    assert [path.name for path in tmp_path.iterdir() if path.name != "home"] == ["bad.py"]


class Distribution:
    """Of importlib.metadata, as far as it is asked."""

    def __init__(self, *requires: str) -> None:
        self.requires = requires


def test_conditions_are_those_that_the_installer_has_evaluated(monkeypatch: pytest.MonkeyPatch) -> None:
    known = {
        "top": Distribution("plain>=1", "Other_Name[fast,odd] (>=2)", "absent; sys_platform == 'win32'", "here; python_version < '9'", "x; extra == 'not'"),
        "plain": Distribution("top"),
        "other-name": Distribution("quick; extra == 'fast'", "slow; extra == 'slow'"),
        "here": Distribution(),
        "quick": Distribution(),
    }

    def distribution(name: str) -> Distribution:
        normal = name.lower().replace("_", "-")
        if normal not in known:
            raise metadata.PackageNotFoundError(name)
        return known[normal]

    monkeypatch.setattr(metadata, "distribution", distribution)
    assert set(program._closure("top")) == {known[name] for name in ("top", "plain", "other-name", "here", "quick")}  # type: ignore[comparison-overlap]
    known["here"] = Distribution("absent")
    with pytest.raises(MissingTool, match="absent"):
        program._closure("top")


def test_owners() -> None:
    assert find_owner("daemon").uid == 1
    with pytest.raises(BadRequest, match="root"):
        find_owner("root")
    for name in ("no-such-user", "", "a\0b"):
        with pytest.raises(NotFound):
            find_owner(name)


def test_what_the_owner_could_replace_is_refused(tmp_path: Path) -> None:
    owner = Owner("ada", 4242, 4242, Path("/home/ada"), frozenset({4242, 50}))
    file = tmp_path / "directory/program"
    file.parent.mkdir()
    file.touch(mode=0o755)
    check_beyond_reach(file, owner)
    check_beyond_reach(tmp_path / "not/there/yet", owner)
    for bad in (replace(owner, uid=os.getuid()), replace(owner, groups=frozenset({os.getgid()}))):
        file.parent.chmod(0o775)
        with pytest.raises(Unauthorized, match="could change"):
            check_beyond_reach(file, bad)
        file.parent.chmod(0o755)
    for mode in (0o757, 0o777):
        file.chmod(mode)
        with pytest.raises(Unauthorized, match="program"):
            check_beyond_reach(file, owner)
    file.chmod(0o755)
    file.parent.chmod(0o1777)  # others may add, and replace nothing
    check_beyond_reach(file, owner)


@pytest.mark.parametrize("path", ["/a b/python3", "/" + "x" * 130, "/pyth\u00f6n"])
def test_an_interpreter_that_cannot_be_named(path: str, tmp_path: Path) -> None:
    with pytest.raises(BadRequest):
        launcher(tmp_path / "x", interpreter=Path(path), current=tmp_path / "current", module="m")


def test_every_change_can_be_taken_back(tmp_path: Path) -> None:
    file, link, directory = tmp_path / "file", tmp_path / "link", tmp_path / "directory"
    file.write_text("old")
    file.chmod(0o600)
    link.symlink_to("old")
    changes = (File(file, b"new", ours=True, mode=0o755), Link(link, "new"), Directory(directory))
    undos = [change.make() for change in changes]
    assert all(change.is_made() for change in changes)
    assert (file.read_bytes(), file.stat().st_mode & 0o777, os.readlink(link)) == (b"new", 0o755, "new")
    (directory / "foreign").touch()
    for undo in reversed(undos):
        undo()
    assert (file.read_bytes(), file.stat().st_mode & 0o777, os.readlink(link)) == (b"old", 0o600, "old")
    assert directory.is_dir(), "somebody has put something into it"
