"""Where names and passwords come from; the helpers are real programs."""

from __future__ import annotations

import base64
import json
import os
from pathlib import Path
from typing import Any

import pytest

from banger.image.oci.credentials import Credentials, Keychain


def pair(name: str, password: str) -> dict[str, str]:
    return {"auth": base64.b64encode(f"{name}:{password}".encode()).decode()}


def keychain(tmp_path: Path, content: Any, **variables: str) -> Keychain:
    (tmp_path / ".docker").mkdir(exist_ok=True)
    (tmp_path / ".docker/config.json").write_text(content if isinstance(content, str) else json.dumps(content))
    return Keychain({"HOME": str(tmp_path), **variables})


def helper(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, script: str) -> None:
    programs = tmp_path / "bin"
    programs.mkdir(exist_ok=True)
    program = programs / f"docker-credential-{name}"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:/usr/bin:/bin")


async def test_nothing_is_configured(tmp_path: Path) -> None:
    chain = Keychain({"HOME": str(tmp_path)})
    assert await chain.find("ghcr.io", "a/b") is None
    assert chain.problems == []


@pytest.mark.parametrize("key", ["ghcr.io", "https://ghcr.io", "https://ghcr.io/v2/", "http://ghcr.io/v1"])
async def test_old_keys(tmp_path: Path, key: str) -> None:
    found = await keychain(tmp_path, {"auths": {key: pair("me", "a:b")}}).find("ghcr.io", "a/b")
    assert found is not None
    assert (found.username, found.password) == ("me", "a:b")


async def test_docker_hub_has_a_key_of_its_own(tmp_path: Path) -> None:
    chain = keychain(tmp_path, {"auths": {"https://index.docker.io/v1/": pair("me", "x")}})
    assert await chain.find("docker.io", "library/alpine") is not None
    assert await chain.find("ghcr.io", "library/alpine") is None


async def test_the_callers_own_file_comes_first(tmp_path: Path) -> None:
    chain = keychain(tmp_path, {"auths": {"ghcr.io": pair("daemon", "x"), "quay.io": pair("daemon", "x")}})
    mine = tmp_path / "mine.json"
    named = Keychain({"HOME": str(tmp_path)}, named=mine)
    for content, expected in ((None, "daemon"), ({"auths": {"ghcr.io": pair("caller", "x")}}, "caller")):
        if content is not None:
            mine.write_text(json.dumps(content))
        found = await named.find("ghcr.io", "a/b")
        assert found is not None and found.username == expected
        assert [problem for problem in named.problems if str(mine) in problem] == ([] if content else named.problems)
        assert bool(named.problems) is (content is None)
    assert (found := await named.find("quay.io", "a/b")) is not None and found.username == "daemon"
    assert (found := await chain.find("ghcr.io", "a/b")) is not None and found.username == "daemon"


async def test_a_file_that_never_ends_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "mine.json")
    named = Keychain({"HOME": str(tmp_path)}, named=tmp_path / "mine.json")
    assert await named.find("ghcr.io", "a/b") is None
    assert "not a regular file" in named.problems[0]


async def test_most_particular_entry_wins(tmp_path: Path) -> None:
    chain = keychain(tmp_path, {"auths": {"quay.io": pair("all", "x"), "quay.io/acme": pair("acme", "x"), "quay.io/acme/dev": pair("dev", "x")}})
    names = {repository: await chain.find("quay.io", repository) for repository in ("acme/dev", "acme/other", "acmeother", "b")}
    assert {repository: found.username if found else None for repository, found in names.items()} == {
        "acme/dev": "dev",
        "acme/other": "acme",
        "acmeother": "all",
        "b": "all",
    }


async def test_files_in_their_order(tmp_path: Path) -> None:
    chain = keychain(tmp_path, {"auths": {"a.io": pair("docker", "x"), "b.io": pair("docker", "x")}}, XDG_RUNTIME_DIR=str(tmp_path / "run"))
    (tmp_path / "run/containers").mkdir(parents=True)
    (tmp_path / "run/containers/auth.json").write_text(json.dumps({"auths": {"a.io": pair("podman", "x")}}))
    (tmp_path / "named.json").write_text(json.dumps({"auths": {"b.io": pair("named", "x")}}))
    first, second = await chain.find("a.io", "x"), await chain.find("b.io", "x")
    assert first is not None and first.username == "podman"
    assert second is not None and second.username == "docker"
    only = Keychain({"HOME": str(tmp_path), "REGISTRY_AUTH_FILE": str(tmp_path / "named.json")})
    assert await only.find("a.io", "x") is None
    third = await only.find("b.io", "x")
    assert third is not None and third.username == "named"


async def test_identity_token(tmp_path: Path) -> None:
    found = await keychain(tmp_path, {"auths": {"a.io": {"identitytoken": "t", **pair("x", "y")}}}).find("a.io", "x")
    assert found is not None
    assert (found.identity_token, found.username) == ("t", "")


async def test_helper_gets_the_host_on_its_standard_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    helper(monkeypatch, tmp_path, "tests", f'cat > {tmp_path}/asked; printf \'{{"ServerURL":"x","Username":"me","Secret":"%s"}}\' "$1-$OF_THE_USER"')
    chain = keychain(tmp_path, {"auths": {"a.io": {}}, "credHelpers": {"a.io": "tests"}}, OF_THE_USER="kept")
    found = await chain.find("a.io", "x")
    assert found == Credentials(username="me", password="get-kept", source="docker-credential-tests")
    assert (tmp_path / "asked").read_text() == "a.io\n"
    assert await chain.find("b.io", "x") is None


async def test_store_for_all_hosts_may_hold_tokens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    helper(monkeypatch, tmp_path, "store", f'cat > {tmp_path}/asked; echo \'{{"Username":"<token>","Secret":"abc"}}\'')
    found = await keychain(tmp_path, {"credsStore": "store"}).find("docker.io", "library/alpine")
    assert found is not None and found.identity_token == "abc"
    assert (tmp_path / "asked").read_text() == "https://index.docker.io/v1/\n"


async def test_helper_that_has_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    helper(monkeypatch, tmp_path, "store", "echo credentials not found in native keychain; exit 1")
    chain = keychain(tmp_path, {"credsStore": "store", "auths": {"a.io": pair("me", "x")}})
    found = await chain.find("a.io", "x")
    assert found is not None and found.username == "me"
    assert chain.problems == []


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("{", "is not understood"),
        ('{"auths": {"a.io": {"auth": 1}}}', "is not understood"),
        ({"auths": {"a.io": {"auth": "!!!"}}}, "is not the base64 of NAME:PASSWORD"),
        ({"auths": {"a.io": {"auth": base64.b64encode(b"secret-word").decode()}}}, "is not the base64 of NAME:PASSWORD"),
        ({"credHelpers": {"a.io": "../../bin/sh"}}, "is no program's name"),
        ({"credHelpers": {"a.io": "not-there"}}, "docker-credential-not-there is not installed"),
        ({"credHelpers": {"a.io": "broken"}}, "docker-credential-broken failed: the key ring is locked"),
        ({"credHelpers": {"a.io": "babbling"}}, "gave an answer that is not understood"),
    ],
)
async def test_trouble_is_told_and_no_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, content: Any, problem: str
) -> None:
    helper(monkeypatch, tmp_path, "broken", "echo the key ring is locked; exit 2")
    helper(monkeypatch, tmp_path, "babbling", "echo secret-word")
    caplog.set_level("DEBUG")
    chain = keychain(tmp_path, content)
    assert await chain.find("a.io", "x") is None
    [told] = chain.problems
    assert problem in told
    assert "secret-word" not in told + caplog.text


def test_secrets_are_not_shown() -> None:
    assert "word" not in repr(Credentials(username="me", password="word", identity_token="word"))
