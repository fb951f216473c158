"""Where the caller keeps its logins for registries: the daemon, which has another environment, is told the place, never what is in it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from ..model.errors import BadRequest


def credentials_file(environment: Mapping[str, str] | None = None) -> str:
    """Absolute path of the file that ``REGISTRY_AUTH_FILE`` names, else of docker's configuration in ``DOCKER_CONFIG``; "" = neither is set.

    Raises BadRequest for a path that is not UTF-8, which no request can hold.
    """
    env = os.environ if environment is None else environment
    named = env.get("REGISTRY_AUTH_FILE") or (f"{directory}/config.json" if (directory := env.get("DOCKER_CONFIG")) else "")
    try:
        named.encode()
    except UnicodeEncodeError:
        raise BadRequest(f"the path of the logins for registries is not valid UTF-8: {named!r}", hint="see REGISTRY_AUTH_FILE and DOCKER_CONFIG") from None
    return str(Path(named).absolute()) if named else ""
