"""A host of files for checks to look at."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from banger.client.discovery import Endpoint
from banger.doctor.ground import Ground, user_name
from banger.host.installation import format_installation
from banger.host.paths import Layout
from banger.model.config import Config, NetworkSettings
from banger.model.installation import Installation
from banger.model.network import network_plan

BRIDGED = Config(network=NetworkSettings(mode="bridge", bridge="bgrdoc0", subnet="10.213.7.0/24"))
INSTALLATION = Installation(
    owner="ada", uid=4242, gid=4242, home=Path("/home/ada"), network=network_plan(), version="0.1.0", installed_at="2026-11-20T10:00:00Z"
)


def make_ground(place: Path, **more: Any) -> Ground:
    """This user's instance below ``place``/home, on a host whose files are below ``place``/host."""
    layout = Layout.from_environment({"BANGER_HOME": str(place / "home")})
    values: dict[str, Any] = {"layout": layout, "endpoint": Endpoint.of(layout), "uid": os.getuid(), "user": user_name(os.getuid()), "config": Config()}
    return Ground(**values | {"root": place / "host"} | more)


def put(ground: Ground, path: str, text: str = "", mode: int = 0o644) -> Path:
    """A file of that host."""
    file = ground.at(path)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    file.chmod(mode)
    return file


def put_installation(ground: Ground) -> None:
    put(ground, "/etc/banger/install.toml", format_installation(INSTALLATION))
