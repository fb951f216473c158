"""Records as JSON columns."""

from __future__ import annotations

from typing import TypeVar

import msgspec

from ..model.errors import StoreError

Record = TypeVar("Record")


def to_json(record: object) -> str:
    """A frozen dataclass as JSON text."""
    return msgspec.json.encode(record).decode()


def from_json(text: str, kind: type[Record]) -> Record:
    """The dataclass in this JSON text; fields that a later version added are ignored, missing ones take their default. Raises StoreError."""
    try:
        return msgspec.json.decode(text, type=kind)
    except msgspec.MsgspecError as error:
        raise StoreError(f"a stored {kind.__name__} is damaged: {error}") from error
