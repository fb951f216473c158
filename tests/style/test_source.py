"""Rules of the house that no linter knows."""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from banger.host.run import PACKAGES

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src/banger"
MODULES = sorted(SOURCE.rglob("*.py"))
GUEST = sorted([*(ROOT / "guest").glob("*.c"), *(ROOT / "guest").glob("*.h")])
MAY_START_PROGRAMS = {
    SOURCE / "host/run.py",
    SOURCE / "host/run_sync.py",  # the same for callers without an event loop
    SOURCE / "net/relay.py",  # a program of its own that imports nothing of this package
}
STARTS_PROGRAMS = {
    "asyncio": {"create_subprocess_exec", "create_subprocess_shell"},
    "subprocess": {"Popen", "run", "call", "check_call", "check_output", "getoutput", "getstatusoutput"},
    "os": {"system", "popen", "fork", "forkpty", "posix_spawn", "posix_spawnp", "execv", "execve", "execvp", "execvpe", "spawnv", "spawnve", "startfile"},
    "pty": {"fork", "spawn"},
}


def trees() -> Iterator[tuple[Path, ast.Module]]:
    for path in MODULES:
        yield path, ast.parse(path.read_text(), str(path))


def where(path: Path, node: ast.AST) -> str:
    return f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 0)}"


def functions(tree: ast.Module) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def test_programs_are_started_in_one_place() -> None:
    found = []
    for path, tree in trees():
        if path in MAY_START_PROGRAMS:
            continue
        for node in ast.walk(tree):
            match node:
                case ast.Attribute(value=ast.Name(id=module), attr=name) if name in STARTS_PROGRAMS.get(module, ()):
                    found.append(f"{where(path, node)} {module}.{name}")
                case ast.ImportFrom(module=str(module), names=names) if STARTS_PROGRAMS.get(module, set()) & {alias.name for alias in names}:
                    found.append(f"{where(path, node)} from {module}")
    assert not found, "programs are started through host/run.py and its synchronous sister alone: " + ", ".join(found)


def test_every_module_says_what_it_is_for() -> None:
    silent = [where(path, tree) for path, tree in trees() if path.stat().st_size and not ast.get_docstring(tree)]
    assert not silent


def test_annotations_are_postponed_everywhere() -> None:
    missing = [path.name for path in MODULES if path.name != "__init__.py" and "from __future__ import annotations" not in path.read_text()]
    assert not missing


def test_no_unfinished_work() -> None:
    """Notes and stubs belong into an issue."""
    note = re.compile(r"\b(TODO|FIXME|XXX|HACK)\b")
    found = [
        f"{path.relative_to(ROOT)}:{number}" for path in MODULES + GUEST for number, line in enumerate(path.read_text().splitlines(), 1) if note.search(line)
    ]
    found += [where(path, node) for path, tree in trees() for node in ast.walk(tree) if isinstance(node, ast.Name) and node.id == "NotImplementedError"]
    assert not found


def test_sizes() -> None:
    """A file over 400 lines or a function over 60 wants a reason in its first comment (architecture, section 2)."""
    too_long = []
    for path, tree in trees():
        text = path.read_text()
        if text.count("\n") > 400 and "400 lines" not in text[:2000]:
            too_long.append(where(path, tree))
        too_long += [f"{where(path, f)} {f.name}" for f in functions(tree) if (f.end_lineno or 0) - f.lineno >= 60]
    assert not too_long


def test_error_codes_are_unique() -> None:
    tree = ast.parse((SOURCE / "model/errors.py").read_text())
    codes = [
        node.value.value
        for kind in tree.body
        if isinstance(kind, ast.ClassDef)
        for node in kind.body
        if isinstance(node, ast.Assign | ast.AnnAssign) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
    ]
    assert codes
    assert len(codes) == len(set(codes))


@pytest.mark.parametrize("path", GUEST, ids=lambda path: path.name)
def test_guest_program_has_no_unbounded_string_functions(path: Path) -> None:
    assert not re.findall(r"\b(?:strcpy|strcat|sprintf|vsprintf|gets|alloca)\s*\(", path.read_text())


def normal(name: str) -> str:
    """A package's name as it is compared (PyPA, "Name normalization")."""
    return re.sub(r"[-_.]+", "-", name).lower()


def test_lock_covers_every_dependency() -> None:
    """`./dev` installs the lock with --no-deps, so a name that is missing there would be missing everywhere."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    lock = (ROOT / "requirements.lock").read_text()
    locked = {normal(name) for name in re.findall(r"^([A-Za-z0-9_.-]+)==", lock, re.MULTILINE)}
    wanted = project["project"]["dependencies"] + project["dependency-groups"]["dev"] + project["build-system"]["requires"]
    names = {normal(re.split(r"[<>=!~;\[ ]", requirement)[0]) for requirement in wanted}
    assert names <= locked
    assert "://" not in lock


def test_every_dependency_is_imported() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    text = "\n".join(path.read_text() for path in MODULES)
    unused = [
        name
        for name in (re.split(r"[<>=!~;\[ ]", requirement)[0] for requirement in project["project"]["dependencies"])
        if not re.search(rf"^\s*(?:import|from) {name.split('.')[0].replace('-', '_')}\b", text, re.MULTILINE)
    ]
    assert not unused


def test_every_tool_of_the_host_is_installed_by_dev() -> None:
    """`./dev` installs what host.run looks for (packages that every Debian has are not named there)."""
    lists = re.findall(r"^\w+_packages='([^']*)'", (ROOT / "dev").read_text(), re.MULTILINE)
    installed = {package for line in lists for package in line.split()} | {"apt", "dpkg", "tar", "util-linux", "coreutils"}
    assert {package for packages in PACKAGES.values() for package in packages.split()} <= installed
