"""How far a mmdebstrap run is, from the lines that apt and dpkg write."""

from __future__ import annotations

import re
from typing import Final

_COUNT: Final = re.compile(r"[0-9]+ upgraded, ([0-9]+) newly installed,")
_STEPS: Final = {"Get:": ("downloading", 4), "Unpacking ": ("unpacking", 1), "Setting up ": ("setting up", 2)}
"""Beginning of a line -> what it means, and which word names the package."""
# Share of the whole run at which each round of apt begins, measured: the essential packages, then the rest.
_ROUNDS: Final = ((0.08, 0.40), (0.40, 1.0))


class AptProgress:
    """Feed it lines; ``fraction`` grows from 0 to 1 and never falls."""

    def __init__(self) -> None:
        self.fraction = 0.0
        self.message = "reading package lists"
        self._round = -1
        self._expected = 0
        self._steps = 0

    def feed(self, line: str) -> bool:
        """Take one line; whether ``fraction`` or ``message`` has changed enough to tell people."""
        before = (int(self.fraction * 100), self.message)
        if match := _COUNT.match(line):
            self._round = min(self._round + 1, len(_ROUNDS) - 1)
            self._expected, self._steps = int(match[1]) * len(_STEPS), 0
        elif self._expected and line.startswith(tuple(_STEPS)):
            self._steps += 1
            self.message = _describe(line)
        if self._expected:
            low, high = _ROUNDS[self._round]
            self.fraction = max(self.fraction, low + (high - low) * min(self._steps / self._expected, 1.0))
        return (int(self.fraction * 100), self.message) != before


def _describe(line: str) -> str:
    verb, position = next(how for start, how in _STEPS.items() if line.startswith(start))
    words = line.split()
    return f"{verb} {words[position].partition(':')[0]}" if len(words) > position else verb
