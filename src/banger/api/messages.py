"""What all bodies of the contract have in common."""

from __future__ import annotations

import msgspec


class Request(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of all request bodies."""


class Reply(msgspec.Struct, frozen=True, kw_only=True):
    """Base of all reply bodies that are not a record of the model."""
