"""What a program in a machine gets from the machine's image, as a container user expects it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..model.records import ImageConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """What to run; no ``argv`` = the user's login shell, "" = the guest's own default."""

    argv: tuple[str, ...]
    env: dict[str, str]
    cwd: str
    user: str


def program(
    config: ImageConfig,
    *,
    argv: Sequence[str],
    env: Mapping[str, str],
    cwd: str,
    user: str,
    start: bool = False,
    entrypoint: Sequence[str] | None = None,
) -> Program:
    """What the caller asks for, completed by the image's configuration.

    With ``start`` (`vm run`, like `docker run`) the entrypoint comes first, and the image's command takes the place of an ``argv`` that was not
    given. An ``entrypoint`` of the caller's replaces both of the image's. Without (`vm exec`, like `docker exec`) ``argv`` is all there is.
    """
    words = tuple(argv)
    if start:
        lead = config.entrypoint if entrypoint is None else tuple(entrypoint)
        rest = words or (config.command if entrypoint is None else ())
        words = (*lead, *rest)
    inherited = dict(word.split("=", 1) for word in config.environment if "=" in word and not word.startswith("="))
    return Program(argv=words, env=inherited | dict(env), cwd=cwd or config.working_directory, user=user or config.user)
