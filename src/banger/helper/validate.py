"""From untrusted JSON to typed values: exact keys, exact types, bounds. Nothing but BadRequest comes out of here."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from ipaddress import IPv4Address
from typing import Final, NoReturn, TypeVar

from ..model.errors import BadRequest
from ..model.network import MAX_SLOTS, NetworkPlan

_VM_ID: Final = re.compile(r"[0-9a-f]{32}")
_LONGEST_NUMBER: Final = 24
"""Digits of a number; 64 bits have 19."""
_SHOWN: Final = 80
"""Characters of a stranger's value that an error repeats."""
T = TypeVar("T")


def decode_json(untrusted: bytes) -> object:
    """The value of a JSON text. Raises BadRequest for other texts, and for duplicate keys, NaN, infinities, numbers without end and towers of brackets."""
    try:
        return json.loads(
            untrusted.decode(),
            object_pairs_hook=_without_duplicates,
            parse_constant=_no_constant,
            parse_int=_bounded_int,
            parse_float=_finite_float,
        )
    except RecursionError:
        raise BadRequest("the JSON text is nested too deeply") from None
    except ValueError as error:
        raise BadRequest(f"this is not JSON: {shown(str(error))}") from None


def shown(value: object) -> str:
    """A stranger's value as errors and logs repeat it: short, ASCII, printable."""
    if isinstance(value, dict | list):  # their repr may be as deep as their text was
        return f"an {'object' if isinstance(value, dict) else 'array'} of {len(value)}"
    text = ascii(value[:_SHOWN] if isinstance(value, str | bytes) else value)
    return text[:_SHOWN] + ("..." if len(text) > _SHOWN else "")


def _without_duplicates(pairs: list[tuple[str, object]]) -> dict[str, object]:
    table = dict(pairs)
    if len(table) != len(pairs):
        raise BadRequest("a key occurs twice")
    return table


def _no_constant(name: str) -> NoReturn:
    raise BadRequest(f"{name} is not a number")


def _bounded_int(digits: str) -> int:
    if len(digits) > _LONGEST_NUMBER:
        raise BadRequest(f"a number has more than {_LONGEST_NUMBER} digits")
    return int(digits)


def _finite_float(text: str) -> float:
    number = float(text) if len(text) <= 2 * _LONGEST_NUMBER else math.inf
    if not math.isfinite(number):
        raise BadRequest(f"{shown(text)} is out of range")
    return number


class Fields:
    """A JSON object, taken apart key by key; ``end`` refuses what is left. ``where`` begins every complaint."""

    def __init__(self, untrusted: object, where: str) -> None:
        if not isinstance(untrusted, dict):
            raise BadRequest(f"{where}: an object is expected, not {shown(untrusted)}")
        self._left = dict(untrusted)
        self.where = where

    def take(self, key: str) -> object:
        """The value of a key that must be there."""
        try:
            return self._left.pop(key)
        except KeyError:
            raise BadRequest(f"{self.where}: {key} is missing") from None

    def end(self) -> None:
        """Nothing else may be left."""
        if self._left:
            raise BadRequest(f"{self.where}: {shown(min(self._left))} is not known here")

    def refuse(self, key: str, untrusted: object, expected: str) -> NoReturn:
        """Raise the BadRequest for this value."""
        raise BadRequest(f"{self.where}: {key} must be {expected}, not {shown(untrusted)}")

    def text(self, key: str, pattern: re.Pattern[str], expected: str) -> str:
        """A string that matches as a whole."""
        value = self.take(key)
        if not isinstance(value, str) or not pattern.fullmatch(value):
            self.refuse(key, value, expected)
        return value

    def vm_id(self, key: str = "vm_id") -> str:
        """The id of a machine."""
        return self.text(key, _VM_ID, "32 hexadecimal digits")

    def integer(self, key: str, least: int, most: int) -> int:
        """A whole number between the two; true and 1.0 are none."""
        value = self.take(key)
        if type(value) is not int or not least <= value <= most:
            self.refuse(key, value, f"a whole number from {least} to {most}")
        return value

    def number(self, key: str, least: float, most: float) -> float:
        """A number between the two."""
        value = self.take(key)
        if type(value) not in (int, float) or not least <= value <= most:  # type: ignore[operator]  # the first half has said that it is a number
            self.refuse(key, value, f"a number from {least} to {most}")
        return float(value)  # type: ignore[arg-type]  # the same

    def boolean(self, key: str) -> bool:
        """True or false."""
        value = self.take(key)
        if type(value) is not bool:
            self.refuse(key, value, "true or false")
        return value

    def inner(self, key: str, read: Callable[[Fields], T]) -> T:
        """An object within, all of which ``read`` takes."""
        fields = Fields(self.take(key), f"{self.where}: {key}")
        value = read(fields)
        fields.end()
        return value

    def texts(self, key: str, pattern: re.Pattern[str], most: int, expected: str) -> tuple[str, ...]:
        """At most so many strings, each of which matches as a whole."""
        values = self._array(key, most)
        for value in values:
            if not isinstance(value, str) or not pattern.fullmatch(value):
                self.refuse(key, value, expected)
        return tuple(values)  # type: ignore[arg-type]  # the loop has looked at each

    def slot(self, key: str, plan: NetworkPlan) -> int:
        """A slot of the plan."""
        return self.integer(key, plan.slots.start, plan.slots.stop - 1)

    def slots(self, key: str, plan: NetworkPlan, most: int = MAX_SLOTS) -> tuple[int, ...]:
        """Different slots of the plan."""
        values = self._array(key, most)
        for value in values:
            if type(value) is not int or value not in plan.slots:
                self.refuse(key, value, f"slots from {plan.slots.start} to {plan.slots.stop - 1}")
        if len(set(values)) != len(values):
            raise BadRequest(f"{self.where}: {key} names a slot twice")
        return tuple(values)  # type: ignore[arg-type]  # the loop has looked at each

    def switches(self, key: str, plan: NetworkPlan) -> Mapping[str, bool]:
        """Machines' addresses in their one spelling, and true or false for each."""
        table = self.take(key)
        if not isinstance(table, dict) or len(table) > MAX_SLOTS:
            self.refuse(key, table, f"an object of at most {MAX_SLOTS} addresses")
        for address, value in table.items():
            if type(value) is not bool:
                self.refuse(f"{key} {shown(address)}", value, "true or false")
            self._machine_address(key, address, plan)
        return table

    def _machine_address(self, key: str, untrusted: str, plan: NetworkPlan) -> None:
        try:
            address = IPv4Address(untrusted)
        except ValueError:
            self.refuse(key, untrusted, "addresses of machines")
        if str(address) != untrusted:
            self.refuse(key, untrusted, "addresses of machines")
        plan.slot_of(address)

    def _array(self, key: str, most: int) -> list[object]:
        value = self.take(key)
        if not isinstance(value, list) or len(value) > most:
            self.refuse(key, value, f"an array of at most {most}")
        return value
