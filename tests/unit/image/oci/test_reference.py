"""Names of images."""

from __future__ import annotations

import pytest

from banger.image.oci.reference import Reference, is_loopback, parse
from banger.model.errors import BadRequest

HEX = "0123456789abcdef" * 4


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("alpine", "docker://docker.io/library/alpine:latest"),
        ("alpine:3.19", "docker://docker.io/library/alpine:3.19"),
        ("docker://alpine", "docker://docker.io/library/alpine:latest"),
        ("docker.io/alpine", "docker://docker.io/library/alpine:latest"),
        ("index.docker.io/acme/dev", "docker://docker.io/acme/dev:latest"),
        ("acme/dev:1.2", "docker://docker.io/acme/dev:1.2"),
        ("ghcr.io/acme/dev:1.2", "docker://ghcr.io/acme/dev:1.2"),
        ("GHCR.io/acme/dev", "docker://ghcr.io/acme/dev:latest"),
        ("localhost/dev", "docker://localhost/dev:latest"),
        ("registry:5000/a/b/c:V_1", "docker://registry:5000/a/b/c:V_1"),
        ("127.0.0.1:5000/x", "docker://127.0.0.1:5000/x:latest"),
        ("[::1]:5000/x", "docker://[::1]:5000/x:latest"),
        ("docker:dind", "docker://docker.io/library/docker:dind"),
        ("a__b/c.d-e--f", "docker://docker.io/a__b/c.d-e--f:latest"),
        (f"alpine@sha256:{HEX}", f"docker://docker.io/library/alpine@sha256:{HEX}"),
        (f"ghcr.io/a/b:1@sha256:{HEX}", f"docker://ghcr.io/a/b:1@sha256:{HEX}"),
        ("oci:/srv/image", "oci:/srv/image"),
        ("oci://", "oci:/"),
        ("oci:some dir/image/:v1", "oci:some dir/image:v1"),
        ("docker-archive:/tmp/a.tar", "docker-archive:/tmp/a.tar"),
        ("docker-archive:a.tar:alpine", "docker-archive:a.tar:docker.io/library/alpine:latest"),
        ("docker-archive:a.tar:localhost:5000/x:1", "docker-archive:a.tar:localhost:5000/x:1"),
    ],
)
def test_canonical_form(text: str, canonical: str) -> None:
    reference = parse(text)
    assert str(reference) == canonical
    assert parse(canonical) == reference


@pytest.mark.parametrize(
    "text",
    [
        "", " ", "alpine ", "-alpine", "alpine-", "a//b", "/a", "a/", "a:", "a:b:c", "a:.b", "Alpine", "a/B", "A/b", "a..b", "a___b", "ä", "a\n", "a:b\n",
        "a@", "a@sha256:0", f"a@sha512:{HEX}", f"a@sha256:{HEX.upper()}", f"a@sha256:{HEX}\n", f"a@sha256:{HEX}@sha256:{HEX}", "a:" + "b" * 129,
        "host:0/a", "host:65536/a", "host:/a", "host.:1/a", "[::g]/a", "[/a", "ho_st.x/a", "a" * 256, "a" * 5000, "docker://",
        "https://ghcr.io/a/b", "docker-daemon:alpine:latest", "dir:/x", "containers-storage:x", "oci:", "oci::tag", "oci:a\nb", "oci:a\0", "oci:/a:",
        "oci:/a:b c", "docker-archive:", "docker-archive:a.tar:B C", "docker-archive:a.tar:",
    ],
)  # fmt: skip
def test_what_is_no_reference(text: str) -> None:
    with pytest.raises(BadRequest) as caught:
        parse(text)
    assert "docker-archive:FILE" in caught.value.hint


def test_parts() -> None:
    assert parse(f"ghcr.io/a/b:1@sha256:{HEX}") == Reference(transport="docker", host="ghcr.io", repository="a/b", tag="1", digest=f"sha256:{HEX}")
    assert parse("oci:/srv/x:1") == Reference(transport="oci", path="/srv/x", tag="1")
    assert parse("alpine").api_host == "registry-1.docker.io"
    assert parse("ghcr.io/a/b").api_host == "ghcr.io"


def test_hint_for_upper_case() -> None:
    with pytest.raises(BadRequest, match="names are lower case"):
        parse("ghcr.io/Acme/dev")


@pytest.mark.parametrize(("host", "loopback"), [("localhost", True), ("a.localhost:1", True), ("127.1.2.3:5000", True), ("[::1]", True), ("[::1]:5", True)])
def test_loopback(host: str, loopback: bool) -> None:
    assert is_loopback(host) is loopback


@pytest.mark.parametrize("host", ["localhost.example", "127.0.0.1.example", "10.0.0.1", "[::2]:5", "registry", "notlocalhost"])
def test_not_loopback(host: str) -> None:
    assert not is_loopback(host)
