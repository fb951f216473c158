"""What releases say of themselves: order of versions, the manifest, the sums, the signature, and that making one is reproducible."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from banger.model.errors import BadRequest, BangerError, NotFound, Unauthorized
from banger.system.places import Places
from banger.system.release import check_sums, is_stable, parse_manifest, parse_sums, version_key
from banger.system.signature import trusted_keys, verify
from release import wheels as release_wheels
from release.publish import Edition, publish
from tests.unit.system.releases import make_key, make_wheel, sign_again

DIGEST = "ab" * 32


def document(**changed: Any) -> bytes:
    release = {
        "released_at": "2026-11-20T00:00:00Z",
        "files": [{"name": "a-1-py3-none-any.whl", "size": 3, "sha256": DIGEST, "tags": "py3-none-any"}],
        "pythons": {"3.11": ["a-1-py3-none-any.whl"]},
        "units": DIGEST,
        "units_changed": False,
        "something_new": 1,
    }
    return json.dumps({"schema_version": 1, "latest_stable": "1.0", "versions": {"1.0": release | changed}}).encode()


def test_versions_are_ordered() -> None:
    ordered = ["0.9", "1.0.dev1", "1.0a1.dev2", "1.0a1", "1.0a10", "1.0b1", "1.0rc1", "1.0", "1.0.1", "1.10", "2.0"]
    assert sorted(reversed(ordered), key=version_key) == ordered
    assert version_key("1.0") == version_key("1.0.0")
    assert [one for one in ordered if is_stable(one)] == ["0.9", "1.0", "1.0.1", "1.10", "2.0"]
    for wrong in ("", "1", "1.0-1", "v1.0", "1.0/..", "1.0\n", "../1.0"):
        with pytest.raises(BadRequest):
            version_key(wrong)


def test_a_manifest() -> None:
    manifest = parse_manifest(document())
    assert [file.size for file in manifest.release("1.0").files_for("3.11")] == [3]
    with pytest.raises(NotFound, match=r"no release 2\.0"):
        manifest.release("2.0")
    with pytest.raises(NotFound, match=r"Python 3\.11, and this host has 3\.99"):
        manifest.release("1.0").files_for("3.99")


@pytest.mark.parametrize(
    ("untrusted", "message"),
    [
        (b"<html>", "cannot be understood"),
        (b"[" * 100_000, "cannot be understood"),
        (b'{"schema_version": 2}', "schema 2, and this banger knows 1"),
        (b'{"schema_version": 1}', "cannot be understood"),
        (document(files=[{"name": "../a.whl", "size": 3, "sha256": DIGEST}]), "cannot be understood"),
        (document(files=[{"name": "a.whl\n", "size": 3, "sha256": DIGEST}]), "cannot be understood"),
        (document(files=[{"name": "a.whl", "size": 0, "sha256": DIGEST}]), "cannot be understood"),
        (document(files=[{"name": "a.whl", "size": 1 << 40, "sha256": DIGEST}]), "cannot be understood"),
        (document(files=[{"name": "a.whl", "size": 3, "sha256": "x"}]), "cannot be understood"),
    ],
)
def test_a_bad_manifest(untrusted: bytes, message: str) -> None:
    with pytest.raises(BangerError, match=message):
        parse_manifest(untrusted)


def test_too_much_or_too_little() -> None:
    files = [{"name": f"{name}.whl", "size": 200 << 20, "sha256": DIGEST} for name in "ab"]
    with pytest.raises(BangerError, match="larger than 256 MiB"):
        parse_manifest(document(files=files, pythons={"3.11": ["a.whl", "b.whl"]})).release("1.0").files_for("3.11")
    with pytest.raises(BangerError, match="does not describe"):
        parse_manifest(document(pythons={"3.11": ["c.whl"]})).release("1.0").files_for("3.11")


def test_sums() -> None:
    files = parse_manifest(document()).release("1.0").files_for("3.11")
    check_sums(parse_sums(f"{DIGEST}  a-1-py3-none-any.whl\n".encode()), files)
    for other in ("", f"{'0' * 64}  a-1-py3-none-any.whl\n"):
        with pytest.raises(BangerError, match="do not agree"):
            check_sums(parse_sums(other.encode()), files)
    for wrong in (f"{DIGEST}  ../a\n", "x\n", f"{DIGEST}  a\n" * 2):
        with pytest.raises(BangerError, match="cannot be understood"):
            parse_sums(wrong.encode())


def test_signatures(tmp_path: Path) -> None:
    key, other = make_key(tmp_path / "key"), make_key(tmp_path / "other")
    signers = (tmp_path / "key.signers").read_bytes()
    document, signature = tmp_path / "document", tmp_path / "document.sig"
    document.write_bytes(b"words")
    sign_again(tmp_path, key, "document")
    verify(b"words", signature.read_bytes(), signers, "document")
    for changed, signed in ((b"word", signature.read_bytes()), (b"words", b""), (b"words", b"rubbish")):
        with pytest.raises(Unauthorized, match="document is not signed"):
            verify(changed, signed, signers, "document")
    sign_again(tmp_path, other, "document")
    with pytest.raises(Unauthorized):
        verify(b"words", signature.read_bytes(), signers, "document")
    # Made for something else, or by a key that stands for somebody else.
    sign_again(tmp_path, key, "document", namespace="git")
    with pytest.raises(Unauthorized):
        verify(b"words", signature.read_bytes(), signers, "document")
    sign_again(tmp_path, key, "document")
    with pytest.raises(Unauthorized):
        verify(b"words", signature.read_bytes(), signers.replace(b"banger-release ", b"somebody ", 1), "document")


def test_which_keys_are_trusted(tmp_path: Path) -> None:
    places = Places(tmp_path)
    with pytest.raises(BangerError, match="no key is known") as caught:
        trusted_keys(places)
    assert "/etc/banger/release_keys" in caught.value.hint
    (tmp_path / "etc/banger").mkdir(parents=True)
    keys = tmp_path / "etc/banger/release_keys"
    keys.write_text("# none\n")
    with pytest.raises(BangerError, match="no key is known"):
        trusted_keys(places)
    keys.write_text('banger-release namespaces="banger-release" ssh-ed25519 AAAA\n')
    keys.chmod(0o666)
    with pytest.raises(Unauthorized, match="others may write"):
        trusted_keys(places)


def test_a_release_is_the_same_twice_and_keeps_the_older_ones(tmp_path: Path) -> None:
    key = make_key(tmp_path / "key")
    signers = tmp_path / "key.signers"
    wheel = make_wheel(tmp_path / "banger-1.0-py3-none-any.whl", {"banger/__init__.py": b""})

    def edition(version: str, units: str = DIGEST) -> Edition:
        return Edition(version=version, epoch=1_700_000_000, units=units, pythons={"3.11": [wheel]})

    for out in (tmp_path / "one", tmp_path / "two"):
        assert publish(out, edition("1.0"), key=key, signers=signers) == []
        assert publish(out, edition("1.1", "cd" * 32), key=key, signers=signers) == ["its units are others than those of 1.0: say so in CHANGELOG.md"]
        assert publish(out, edition("2.0rc1"), key=key, signers=signers) == ["its units are others than those of 1.1: say so in CHANGELOG.md"]
    contents = [{str(path.relative_to(out)): path.read_bytes() for path in out.rglob("*") if path.is_file()} for out in (tmp_path / "one", tmp_path / "two")]
    assert contents[0] == contents[1]
    manifest = parse_manifest((tmp_path / "one/manifest.json").read_bytes())
    assert (manifest.latest_stable, sorted(manifest.versions)) == ("1.1", ["1.0", "1.1", "2.0rc1"])
    assert (tmp_path / "one/1.0/SHA256SUMS").read_text().endswith("  banger-1.0-py3-none-any.whl\n")
    make_key(tmp_path / "other")
    with pytest.raises(BangerError, match="none of the keys"):
        publish(tmp_path / "one", edition("1.2"), key=tmp_path / "other", signers=signers)
    assert publish(tmp_path / "one", edition("1.2"), key=None, signers=signers)[-1] == "it is not signed: --key"
    assert not (tmp_path / "one/manifest.json.sig").exists()


def test_what_a_release_consists_of() -> None:
    needed = release_wheels.closure("3.11")
    assert {"click", "httpx2", "rich", "starlette", "uvicorn", "msgspec", "backports-zstd", "h11"} <= needed
    assert needed.isdisjoint({"pytest", "mypy", "banger"})
    assert "backports-zstd" not in release_wheels.closure("3.14")
    lock = release_wheels.locked(needed)
    assert lock.count("==") == len(needed)
    assert ";" not in lock
