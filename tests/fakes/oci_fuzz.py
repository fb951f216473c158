"""What must hold for any bytes that a stranger sends as a reference, a manifest, a configuration, a challenge or an archive.

``tests/unit/image/oci/test_fuzz.py`` plays a little of it in every run, ``tests/soak/test_fuzz_oci.py`` much.
"""

from __future__ import annotations

import copy
import io
import json
import operator
import tarfile
import tempfile
from collections.abc import Callable
from functools import partial
from typing import Any, Final

from hypothesis import strategies as st

from banger.image.oci.challenge import parse_challenges
from banger.image.oci.manifest import LINUX_AMD64, Index, Manifest, choose, decode_config, decode_document
from banger.image.oci.members import TarMembers
from banger.image.oci.reference import is_digest, parse
from banger.model.errors import BadRequest, BangerError
from tests.ociimages import make_image, make_index, tar_of

_IMAGE: Final = make_image(
    [tar_of({"a": b"1"}), tar_of({"b": b"2"})], config={"Env": ["A=1"], "Cmd": ["sh"], "ExposedPorts": {"1/tcp": {}}, "Labels": {"a": "b"}}
)
_INDEX: Final = make_index({("linux", "amd64"): _IMAGE, ("linux", "arm64"): _IMAGE})
_PIECES: Final = st.sampled_from(
    [
        "docker://",
        "oci:",
        "docker-archive:",
        "docker.io",
        "localhost",
        "[::1]",
        ":5000",
        "/",
        ":",
        "@",
        "sha256:",
        "0" * 64,
        "a",
        "Z",
        "_",
        "__",
        ".",
        "-",
        "..",
        "\0",
        "\n",
        " ",
    ]
)
_WORDS: Final = [
    "mediaType",
    "manifests",
    "layers",
    "config",
    "fsLayers",
    "schemaVersion",
    "digest",
    "size",
    "platform",
    "rootfs",
    "diff_ids",
    "os",
    "Env",
    "Cmd",
    "User",
]
_JSON: Final = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.sampled_from(_WORDS),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(_WORDS) | st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)

references: Final = st.text(max_size=60) | st.lists(_PIECES | st.text(max_size=3), max_size=10).map("".join)
challenges: Final = st.lists(st.text(st.sampled_from('Bearer Basic realm="\\,= \tx'), max_size=60) | st.text(max_size=30), max_size=3)


def check_reference(text: str) -> None:
    """Either refused, or its canonical form means the same, and nothing in it leads out of its place."""
    try:
        reference = parse(text)
    except BadRequest:
        return
    assert parse(str(reference)) == reference
    assert not set("@?#% \n\0\\") & set(reference.host + reference.repository)
    assert ".." not in reference.repository
    assert not reference.digest or is_digest(reference.digest)
    assert reference.transport == "docker" or reference.path


def check_document(untrusted: bytes) -> None:
    """Either refused, or everything in it is within bounds."""
    try:
        document = decode_document(untrusted, "x")
        blobs = document.manifests if isinstance(document, Index) else [document.config, *document.layers]
        assert isinstance(document, Index | Manifest)
        assert all(is_digest(blob.digest) and 0 <= blob.size <= 64 * 1024**3 for blob in blobs)
        if isinstance(document, Index):
            assert choose(document, LINUX_AMD64, "x") in document.manifests
    except BangerError:
        return


def check_config(untrusted: bytes) -> None:
    """Either refused, or a configuration whose parts are what they are called."""
    try:
        found = decode_config(untrusted, 2, LINUX_AMD64, "x")
    except BangerError:
        return
    assert len(found.diff_ids) == 2
    assert all(map(is_digest, found.diff_ids))
    assert all("=" in one and not one.startswith("=") for one in found.image.environment)
    assert not found.image.working_directory or found.image.working_directory.startswith("/")


def check_challenges(untrusted: list[str]) -> None:
    """Never a failure; schemes and names of parameters are lower case."""
    for challenge in parse_challenges(untrusted):
        assert challenge.scheme == challenge.scheme.lower()
        assert all(name == name.lower() for name in challenge.parameters)


def check_archive(untrusted: bytes) -> None:
    """Either refused, or all that can be read lies inside the file."""
    with tempfile.TemporaryFile() as file:
        file.write(untrusted)
        file.flush()
        file.seek(0)
        try:
            members = TarMembers(file, "x")
            with members.opened("manifest.json") as extent:
                assert len(extent.read(0, 100)) <= len(untrusted)
        except BangerError:
            return


@st.composite
def documents(draw: st.DrawFn) -> bytes:
    """A manifest or an index with something changed, or anything."""
    return draw(st.one_of(_changed(_IMAGE.manifest), _changed(_INDEX.manifest), _JSON.map(_encode), st.binary(max_size=200)))


@st.composite
def configs(draw: st.DrawFn) -> bytes:
    """A configuration with something changed, or anything."""
    return draw(st.one_of(_changed(_IMAGE.config), _JSON.map(_encode), st.binary(max_size=200)))


@st.composite
def archives(draw: st.DrawFn) -> bytes:
    """A tar archive with some bytes changed, or cut; its checksums are often made right again."""
    raw = bytearray(_archive())
    for _ in range(draw(st.integers(0, 6))):
        raw[draw(st.integers(0, len(raw) - 1))] = draw(st.integers(0, 255))
    if draw(st.booleans()):
        _mend_checksums(raw)
    return bytes(raw[: draw(st.integers(0, len(raw)))] if draw(st.booleans()) else raw)


@st.composite
def _changed(draw: st.DrawFn, document: bytes) -> bytes:
    value = json.loads(document)
    for _ in range(draw(st.integers(1, 3))):
        value = _replace(copy.deepcopy(value), draw(st.integers(0, 1000)), draw(_JSON))
    return _encode(value)


def _replace(value: Any, number: int, new: Any) -> Any:
    """``value`` with its ``number``-th part replaced."""
    places: list[Callable[[], None]] = []

    def walk(one: Any) -> None:
        keys = list(one) if isinstance(one, dict) else range(len(one)) if isinstance(one, list) else []
        for key in keys:
            places.append(partial(operator.setitem, one, key, new))
            walk(one[key])

    walk(value)
    if not places:
        return new
    places[number % len(places)]()
    return value


def _encode(value: Any) -> bytes:
    return json.dumps(value).encode("utf-8", "surrogatepass")


def _archive() -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for name, kind, target in (("n" * 120, tarfile.REGTYPE, ""), ("manifest.json", tarfile.SYMTYPE, "real.json"), ("x", tarfile.LNKTYPE, "y")):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, target
            archive.addfile(member)
        real = tarfile.TarInfo("real.json")
        real.size = 600
        real.pax_headers = {"comment": "x"}
        archive.addfile(real, io.BytesIO(b"[" * 600))
        archive.addfile(_pax(b"18 path=manifest2\n12 size=100\n"), io.BytesIO(b"18 path=manifest2\n12 size=100\n"))
    return out.getvalue()


def _pax(content: bytes) -> tarfile.TarInfo:
    member = tarfile.TarInfo("pax")
    member.type, member.size = tarfile.XHDTYPE, len(content)
    return member


def _mend_checksums(raw: bytearray) -> None:
    for start in range(0, len(raw) - 511, 512):
        if raw[start + 257 : start + 262] == b"ustar":
            raw[start + 148 : start + 156] = b" " * 8
            raw[start + 148 : start + 156] = b"%06o\0 " % sum(raw[start : start + 512])
