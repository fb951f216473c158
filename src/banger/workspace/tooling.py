"""Which tools a repository wants, and the script that has mise install them in the guest. It is a service, never a condition: nothing here fails a run."""

from __future__ import annotations

import json
import re
import shlex
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from .guest import Place

_LIMIT: Final = 256 * 1024
_EXACT: Final = re.compile(r"v?([0-9]+(?:\.[0-9]+){0,2})")
_RANGE: Final = re.compile(r"(?:>=|\^|~=?|==?)?\s*v?([0-9]+)(?:\.([0-9]+))?(?:\.[0-9x*]+)?(?:\.\*)?")
_CHANNEL: Final = re.compile(r"stable|beta|nightly(?:-[0-9]{4}-[0-9]{2}-[0-9]{2})?|[0-9]+(?:\.[0-9]+){1,2}")


@dataclass(frozen=True, slots=True)
class Step:
    """A tool to install."""

    tool: str
    version: str
    source: str
    """File that says so."""


@dataclass(frozen=True, slots=True)
class Skip:
    """A tool that is left alone."""

    tool: str
    reason: str


@dataclass(frozen=True, slots=True)
class Plan:
    """What to install. ``managed``: tools that the repository's own configuration of mise names."""

    managed: tuple[str, ...]
    steps: tuple[Step, ...]
    skips: tuple[Skip, ...]

    @property
    def is_empty(self) -> bool:
        return not (self.managed or self.steps)


def plan_tools(root: Path) -> Plan:
    """Look at the files in the top directory of a working tree that say which go, node, python and rust it wants."""
    managed = tuple(sorted(_managed(root)))
    steps, skips = [], []
    for tool, detect in sorted(_DETECTORS.items()):
        found = next(detect(root), None)
        if found is None:
            continue
        source, version = found
        if tool in managed:
            skips.append(Skip(tool, "the repository's own configuration of mise names it"))
        elif not version:
            skips.append(Skip(tool, f"{source} names no version that mise could install"))
        else:
            steps.append(Step(tool, version, source))
    return Plan(managed, tuple(steps), tuple(skips))


def log_path(place: Place, name: str) -> str:
    """Where the guest keeps the log."""
    return f"{place.home.rstrip('/')}/.cache/banger/vm-run-tooling-{re.sub(r'[^A-Za-z0-9._-]', '_', name)}.log"


def install_script(plan: Plan, place: Place, log: str) -> str:
    """A shell script that installs what the plan says, writes ``log``, and succeeds."""
    lines = [
        f"log={shlex.quote(log)}",
        'mkdir -p "${log%/*}" && : >"$log"',
        "{",
        'PATH="$HOME/.local/bin:$PATH"; export PATH MISE_YES=1',
        f"cd {shlex.quote(place.path)} || exit 0",
        'attempt() { echo "+ $*"; "$@" </dev/null || echo "failed with status $?"; }',
        "if command -v mise >/dev/null 2>&1; then",
        "attempt mise trust --quiet --all",
        *(["attempt mise install"] if plan.managed else []),
        *(f"attempt mise use -g --pin {shlex.quote(f'{step.tool}@{step.version}')}" for step in plan.steps),
        "else echo 'mise is not in this image: no tools were installed'; fi",
        *(f"echo {shlex.quote(f'skipped {skip.tool}: {skip.reason}')}" for skip in plan.skips),
        "echo done",
        '} >>"$log" 2>&1',
        "exit 0",
    ]
    return "\n".join(lines) + "\n"


def _managed(root: Path) -> Iterator[str]:
    tools = _toml(root / ".mise.toml").get("tools")
    if isinstance(tools, dict):
        yield from map(str, tools)
    for line in _text(root / ".tool-versions").splitlines():
        if words := line.partition("#")[0].split():
            yield {"golang": "go", "nodejs": "node"}.get(words[0], words[0])


def _go(root: Path) -> Iterator[tuple[str, str]]:
    text = _text(root / "go.mod")
    for pattern in (r"^toolchain\s+go(\S+)", r"^go\s+(\S+)"):
        if match := re.search(pattern, text, re.MULTILINE):
            yield "go.mod", _exact(match[1])
    if text:
        yield "go.mod", ""


def _node(root: Path) -> Iterator[tuple[str, str]]:
    for name in (".nvmrc", ".node-version"):
        if text := _text(root / name).strip():
            yield name, _exact(text)
    package = _json(root / "package.json")
    engines = package.get("engines")
    if isinstance(engines, dict) and "node" in engines:
        yield "package.json", _from_range(str(engines["node"]), minor=False)


def _python(root: Path) -> Iterator[tuple[str, str]]:
    if text := _text(root / ".python-version").strip():
        yield ".python-version", _exact(text.split()[0])
    project = _toml(root / "pyproject.toml").get("project")
    if isinstance(project, dict) and "requires-python" in project:
        yield "pyproject.toml", _from_range(str(project["requires-python"]), minor=True)


def _rust(root: Path) -> Iterator[tuple[str, str]]:
    toolchain = _toml(root / "rust-toolchain.toml").get("toolchain")
    if isinstance(toolchain, dict) and "channel" in toolchain:
        yield "rust-toolchain.toml", _channel(str(toolchain["channel"]))
    if text := _text(root / "rust-toolchain").strip():
        yield "rust-toolchain", _channel(text)
    package = _toml(root / "Cargo.toml").get("package")
    if isinstance(package, dict) and isinstance(package.get("rust-version"), str):
        yield "Cargo.toml", _channel(package["rust-version"])


_DETECTORS: Final[dict[str, Callable[[Path], Iterator[tuple[str, str]]]]] = {"go": _go, "node": _node, "python": _python, "rust": _rust}


def _exact(word: str) -> str:
    match = _EXACT.fullmatch(word)
    return match[1] if match else ""


def _channel(word: str) -> str:
    return word if _CHANNEL.fullmatch(word) else ""


def _from_range(words: str, *, minor: bool) -> str:
    """The lowest version that a range begins with, as precise as makes sense for the tool."""
    match = _RANGE.match(words.strip())
    if match is None:
        return ""
    return f"{match[1]}.{match[2]}" if minor and match[2] else match[1]


def _text(path: Path) -> str:
    """The beginning of a regular file, "" when there is none."""
    if path.is_symlink() or not path.is_file():
        return ""
    try:
        with path.open("rb") as file:
            return file.read(_LIMIT).decode(errors="replace")
    except OSError:
        return ""


def _toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(_text(path))
    except tomllib.TOMLDecodeError:
        return {}


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(_text(path) or "{}")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
