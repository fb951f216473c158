from __future__ import annotations

import pytest

from banger.model.durations import format_duration, parse_duration
from banger.model.errors import BadRequest


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("0", 0), ("90s", 90), ("30m", 1800), ("2h", 7200), ("1h30m", 5400), ("1d", 86400), ("1.5s", 1.5), ("250ms", 0.25), (" 5M ", 300), ("0s", 0)],
)
def test_durations_are_read(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "30", "-1s", "s", "1y", "1h 30m", "99999d", "1e3s", "nan", "٣s"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(BadRequest, match="idle") as caught:
        parse_duration(text, "idle")
    assert "0 means never" in caught.value.hint


@pytest.mark.parametrize(("seconds", "text"), [(0, "0"), (1.5, "1.5s"), (90, "90s"), (120, "2m"), (1800, "30m"), (5405, "1h30m5s"), (90000, "1d1h")])
def test_durations_are_written_as_they_are_read(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text
    assert parse_duration(text) == seconds
