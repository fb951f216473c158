"""Which file with logins a caller means, and that a daemon which it starts knows it too."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from banger.client import start
from banger.client.credentials import credentials_file
from banger.model.errors import BadRequest


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, ""),
        ({"DOCKER_CONFIG": "", "REGISTRY_AUTH_FILE": ""}, ""),
        ({"DOCKER_CONFIG": "/d"}, "/d/config.json"),
        ({"REGISTRY_AUTH_FILE": "/a/auth.json"}, "/a/auth.json"),
        ({"DOCKER_CONFIG": "/d", "REGISTRY_AUTH_FILE": "/a/auth.json"}, "/a/auth.json"),
        ({"REGISTRY_AUTH_FILE": "auth.json"}, "{cwd}/auth.json"),
    ],
)
def test_the_file_that_is_meant(environment: dict[str, str], expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert credentials_file(environment) == expected.replace("{cwd}", str(tmp_path))


def test_a_path_that_no_request_can_hold() -> None:
    with pytest.raises(BadRequest, match="UTF-8"):
        credentials_file({"REGISTRY_AUTH_FILE": os.fsdecode(b"/a/\xff")})


def test_a_daemon_that_is_started_has_them_in_its_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DOCKER_CONFIG", "mine")
    monkeypatch.setenv("REGISTRY_AUTH_FILE", "/a/auth.json")
    env = start._environment()
    assert (env["DOCKER_CONFIG"], env["REGISTRY_AUTH_FILE"]) == (str(tmp_path / "mine"), "/a/auth.json")
