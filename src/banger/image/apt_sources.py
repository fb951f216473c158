"""Where packages come from: this host's own mirrors where they carry the suite, else the distribution's; always checked against its keyring."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from ..host.run import find_tool, run
from ..model.errors import CommandFailed, MissingTool
from .catalog import Distribution

# Proxies and clock checks are facts about this host's network and mirror; nothing else of its configuration is taken.
_TAKEN: Final = re.compile(r'Acquire::(?:https?::Proxy(?:::[\w.-]+)?|Check-(?:Valid-Until|Date)) "[^"\\]*";')
_PLAIN_URL: Final = re.compile(r"https?://[A-Za-z0-9.-]+(?::[0-9]+)?(?:/[A-Za-z0-9._~+%-]*)*")
"""No user names or passwords: the sources are kept in the image."""


def check_keyring(distribution: Distribution) -> None:
    """Raises MissingTool when the keys that sign the distribution are not on this host."""
    if not Path(distribution.keyring).is_file():
        raise MissingTool(f"{distribution.keyring} is missing", hint=f"sudo apt-get install {distribution.keyring_package}")


async def source_lines(distribution: Distribution, suite: str) -> list[str]:
    """One-line apt sources (sources.list(5)) for the suite, its updates and its security fixes. Raises MissingTool without apt."""
    own = await _mirrors_of_host(distribution)
    releases = {release.format(suite=suite): url for release, url in distribution.mirrors.items()}
    components = " ".join(distribution.components)
    return [f"deb [signed-by={distribution.keyring}] {own.get(release, url)} {release} {components}" for release, url in releases.items()]


async def host_options() -> list[str]:
    """Lines of apt.conf(5) that say how this host reaches its mirrors. Raises MissingTool without apt."""
    dump = await run(["apt-config", "dump"], deadline=30)
    return [line for line in dump.stdout.decode(errors="replace").splitlines() if _TAKEN.fullmatch(line)]


async def _mirrors_of_host(distribution: Distribution) -> dict[str, str]:
    """Release -> URL of this host's sources that carry all components; empty when it has none, never fetched them, or cannot read its own configuration."""
    find_tool("apt-get")
    try:
        listed = await run(["apt-get", "indextargets", "--format", "$(ORIGIN)|$(RELEASE)|$(COMPONENT)|$(REPO_URI)", "Created-By: Packages"], deadline=30)
    except CommandFailed:
        return {}
    found: dict[tuple[str, str], set[str]] = {}
    for line in listed.stdout.decode(errors="replace").splitlines():
        match line.split("|"):
            case [distribution.origin, release, component, url] if _PLAIN_URL.fullmatch(url):
                found.setdefault((release, url.rstrip("/")), set()).add(component)
    return {release: url for (release, url), components in found.items() if components >= set(distribution.components)}
