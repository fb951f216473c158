"""Decompressing, hashing, and reading while that goes on."""

from __future__ import annotations

import gzip
import hashlib
import lzma
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from banger.host.zstd import compress
from banger.image.flatten.decompress import Format, decompress, sniff
from banger.image.flatten.limits import BadArchive, Limits
from banger.image.flatten.spool import Blob, Budget, Spool
from banger.model.errors import Cancelled
from banger.model.sizes import MIB

CONTENT = os.urandom(MIB) + bytes(3 * MIB) + b"end"
FORMATS: dict[Format, Callable[[bytes], bytes]] = {"none": bytes, "gzip": gzip.compress, "zstd": compress, "xz": lzma.compress}


def digest(content: bytes) -> str:
    return "sha256:" + hashlib.sha256(content).hexdigest()


def spool_of(place: Path, blob: bytes, compression: Format, *, expected: str = "", diff_id: str = "", limits: Limits | None = None) -> Spool:
    path = place / "blob"
    path.write_bytes(blob)
    return Spool(Blob(path=path, compression=compression, digest=expected, diff_id=diff_id), place, Budget(limits or Limits()))


def chunks(blob: bytes, size: int) -> Iterator[bytes]:
    return iter([blob[at : at + size] for at in range(0, len(blob), size)])


@pytest.mark.parametrize("compression", FORMATS)
def test_what_goes_in_comes_out(tmp_path: Path, compression: Format) -> None:
    blob = FORMATS[compression](CONTENT)
    assert sniff(blob) == compression
    with closing(spool_of(tmp_path, blob, compression, expected=digest(blob), diff_id=digest(CONTENT))) as spool:
        spool.fill()
        spool.wait()
        assert b"".join(spool.read(at, 65536) for at in range(0, len(CONTENT), 65536)) == CONTENT
        assert spool.read(len(CONTENT) + 5, 10) == b""
        assert sorted(os.listdir(tmp_path)) == ["blob", "home"]


@pytest.mark.parametrize("compression", ["gzip", "zstd", "xz"])
@pytest.mark.parametrize("size", [1, 7, 100_000])
def test_several_members_are_one_stream(compression: Format, size: int) -> None:
    pack = FORMATS[compression]
    blob = pack(b"one") + pack(b"") + pack(b"two" * 1000) + bytes(700)
    assert b"".join(decompress(chunks(blob, size), compression)) == b"one" + b"two" * 1000


@pytest.mark.parametrize("compression", ["gzip", "zstd", "xz"])
def test_pieces_are_of_limited_size(compression: Format) -> None:
    pieces = [len(piece) for piece in decompress(iter([FORMATS[compression](bytes(20 * MIB))]), compression)]
    assert sum(pieces) == 20 * MIB
    assert max(pieces) <= MIB


@pytest.mark.parametrize("compression", ["gzip", "zstd", "xz"])
def test_rubbish_and_cuts_are_refused(compression: Format) -> None:
    blob = FORMATS[compression](CONTENT)
    for bad in (blob[:-1], blob[: len(blob) // 2], b"rubbish, not compressed", blob + b"rubbish"):
        with pytest.raises(BadArchive, match=r"damaged|cut short"):
            list(decompress(chunks(bad, 65536), compression))


@pytest.mark.parametrize(("expected", "diff_id", "words"), [(digest(b"x"), "", "a layer is damaged"), ("", digest(b"x"), "not what the image says")])
@pytest.mark.parametrize("compression", ["none", "gzip"])
def test_wrong_digests(tmp_path: Path, compression: Format, expected: str, diff_id: str, words: str) -> None:
    with closing(spool_of(tmp_path, FORMATS[compression](CONTENT), compression, expected=expected, diff_id=diff_id)) as spool:
        spool.fill()
        with pytest.raises(BadArchive, match=words):
            spool.wait()


def test_reading_waits_for_what_is_not_there_yet(tmp_path: Path) -> None:
    with closing(spool_of(tmp_path, gzip.compress(CONTENT), "gzip")) as spool:
        found: list[bytes] = []
        reader = threading.Thread(target=lambda: found.append(spool.read(len(CONTENT) - 600, 10_000)))
        reader.start()
        spool.fill()
        reader.join()
    assert found
    assert found[0]
    assert CONTENT[-600:].startswith(found[0])


def test_a_reader_hears_of_what_went_wrong(tmp_path: Path) -> None:
    with closing(spool_of(tmp_path, gzip.compress(CONTENT)[:-20], "gzip")) as spool:
        reader_error: list[BaseException] = []

        def read() -> None:
            try:
                spool.read(len(CONTENT), 512)
            except BadArchive as error:
                reader_error.append(error)

        reader = threading.Thread(target=read)
        reader.start()
        spool.fill()
        reader.join()
    assert "cut short" in str(reader_error[0])


def test_stopping(tmp_path: Path) -> None:
    path = tmp_path / "blob"
    path.write_bytes(CONTENT)
    budget = Budget(Limits())
    with closing(Spool(Blob(path=path, compression="none"), tmp_path, budget)) as spool:
        budget.stopped.set()
        spool.fill()
        with pytest.raises(Cancelled):
            spool.wait()
