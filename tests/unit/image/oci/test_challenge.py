"""WWW-Authenticate."""

from __future__ import annotations

import pytest

from banger.image.oci.challenge import Challenge, parse_challenges


@pytest.mark.parametrize(
    ("headers", "challenges"),
    [
        (
            ['Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:a/b:pull,push"'],
            [Challenge("bearer", {"realm": "https://auth.docker.io/token", "service": "registry.docker.io", "scope": "repository:a/b:pull,push"})],
        ),
        (['Basic realm="a \\"b\\""'], [Challenge("basic", {"realm": 'a "b"'})]),
        (["Negotiate", "basic REALM = x"], [Challenge("negotiate", {}), Challenge("basic", {"realm": "x"})]),
        (
            ['Negotiate, Bearer realm="x", service=y, Basic realm="z"'],
            [Challenge("negotiate", {}), Challenge("bearer", {"realm": "x", "service": "y"}), Challenge("basic", {"realm": "z"})],
        ),
        (['Bearer realm="x", realm="y"'], [Challenge("bearer", {"realm": "x"})]),
        (['Bearer realm="never closed'], [Challenge("bearer", {})]),
        (["", ",", '"', "=", "a" * 9000], []),
    ],
)
def test_challenges(headers: list[str], challenges: list[Challenge]) -> None:
    assert parse_challenges(headers) == challenges
