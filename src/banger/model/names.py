"""Names and ids of machines."""

from __future__ import annotations

import re
from typing import Final

from .errors import BadRequest

_DNS_LABEL: Final = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
_ARTIFACT: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_ID: Final = re.compile(r"[0-9a-f]{32}")
SHORT_ID_LENGTH: Final = 12
_LIKE_AN_ID: Final = re.compile(rf"[0-9a-f]{{{SHORT_ID_LENGTH},32}}")

_ADJECTIVES: Final = tuple(
    "able amber bold brave bright brisk calm clever cool crisp deft eager early easy fair fast fine fond free fresh glad gold grand green happy "
    "hardy honest jolly keen kind large light lively loyal lucky mellow merry mild modest neat new nice noble open plain polite prime proud "
    "pure quick quiet rapid ready royal sharp shiny silent simple smart smooth snug solid sound spry steady still strong sunny super sure swift "
    "tall tidy tough true vast vivid warm wise witty young".split()
)
_NOUNS: Final = tuple(
    "acorn anchor apple arrow aspen badger barn basin beacon bear birch bison boat brook cabin cedar cliff cloud clover comet coral crane creek "
    "crow dale deer delta dove dune eagle elm ember falcon fern field finch fjord flame forest fox frost garden glade goose grove harbor hare "
    "hawk heron hill island ivy jay lake lark leaf lily lion lynx maple meadow moon moose moss oak ocean orchid otter owl panda pearl pebble pine "
    "planet plum pond poppy quail rain raven reef ridge river robin rock rose sage seal shore sky snow spark sparrow star stone stork stream swan "
    "thistle tiger trail tulip valley wave willow wolf wren".split()
)


def check_vm_name(name: str) -> str:
    """``name`` itself when it may name a VM: a DNS label (RFC 1123) in lower case, 1-63 characters, never normalised, and not like an id.

    Raises BadRequest otherwise. The name reaches /etc/hostname, DNS and paths, so every layer that takes one from outside checks again.
    """
    if not _DNS_LABEL.fullmatch(name):
        raise BadRequest(f"bad name {name!r}", hint="a VM's name has 1-63 characters: a-z, 0-9 and '-', with no '-' at either end")
    if _ID.fullmatch(name):
        raise BadRequest(f"bad name {name!r}", hint="32 hexadecimal digits are the id of a VM; add a letter, or take some away")
    return name


def check_new_vm_name(name: str) -> str:
    """``name`` itself when a new VM may have it: as ``check_vm_name``, and nothing that could be the short id of another.

    Raises BadRequest otherwise.
    """
    if _LIKE_AN_ID.fullmatch(check_vm_name(name)):
        raise BadRequest(f"bad name {name!r}", hint=f"{SHORT_ID_LENGTH} to 32 hexadecimal digits could be the id of a VM; add a '-' or a letter after f")
    return name


def check_artifact_name(name: str, what: str = "image") -> str:
    """``name`` itself when it may name an image or a kernel (and so a directory). Raises BadRequest otherwise."""
    if not _ARTIFACT.fullmatch(name):
        raise BadRequest(f"bad {what} name {name!r}", hint="use letters, digits, '.', '-' and '_', beginning with a letter or digit")
    return name


def generate_name() -> str:
    """A random, pronounceable VM name such as ``brave-otter``."""
    import secrets  # 5 ms that no start of the command line should pay

    return f"{secrets.choice(_ADJECTIVES)}-{secrets.choice(_NOUNS)}"


def new_id() -> str:
    """A fresh id: 32 hexadecimal digits."""
    import secrets

    return secrets.token_hex(16)


def short_id(identifier: str) -> str:
    """The prefix of an id that is shown and used in file names."""
    return identifier[:SHORT_ID_LENGTH]
