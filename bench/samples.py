"""Raw samples, and what is said about them."""

from __future__ import annotations

import statistics
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, TypeVar

Sample = TypeVar("Sample")


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One line of the table: a number, what it must be, and the samples (by name) that it was made from."""

    what: str
    value: float
    unit: str
    limit: float
    at_least: bool = False
    samples: Mapping[str, Sequence[float]] = field(default_factory=dict)

    @property
    def reached(self) -> bool:
        return self.value >= self.limit if self.at_least else self.value <= self.limit

    @property
    def shown(self) -> str:
        return f"{self.value:.3g} {self.unit}".strip()

    @property
    def wanted(self) -> str:
        return f"{'at least' if self.at_least else 'at most'} {self.limit:g} {self.unit}".strip()

    def as_json(self) -> dict[str, Any]:
        return asdict(self) | {"reached": self.reached}


def seconds(argv: Sequence[str], environment: Mapping[str, str]) -> float:
    """Wall-clock time of a program from spawn to exit; it must succeed."""
    begun = time.perf_counter()
    done = subprocess.run(argv, env=environment, stdin=subprocess.DEVNULL, capture_output=True)
    elapsed = time.perf_counter() - begun
    if done.returncode != 0:
        raise RuntimeError(f"{argv} failed with status {done.returncode}: {done.stderr.decode(errors='replace')}")
    return elapsed


def interleaved(rounds: int, **measures: Callable[[], Sample]) -> dict[str, list[Sample]]:
    """Take each measure once per round, so that what disturbs the machine disturbs all of them; one round before that is thrown away."""
    samples: dict[str, list[Sample]] = {name: [] for name in measures}
    for number in range(rounds + 1):
        for name, measure in measures.items():
            value = measure()
            if number > 0:
                samples[name].append(value)
    return samples


def median(values: Sequence[float]) -> float:
    return statistics.median(values)
