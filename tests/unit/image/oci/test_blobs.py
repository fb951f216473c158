"""The cache of blobs."""

from __future__ import annotations

import asyncio
import errno
import os
import sys
from pathlib import Path

import pytest

from banger.host.locks import try_lock
from banger.image.oci.blobs import BlobCache
from banger.image.oci.partial import Partial
from banger.model.errors import BangerError, NoSpace
from tests.ociimages import digest_of

CONTENT = bytes(range(256)) * 10_000
DIGEST = digest_of(CONTENT)


@pytest.fixture
def cache(tmp_path: Path) -> BlobCache:
    return BlobCache(tmp_path / "cache")


class Loader:
    """Brings CONTENT, and counts."""

    def __init__(self, content: bytes = CONTENT) -> None:
        self.content = content
        self.offsets: list[int] = []

    async def __call__(self, partial: Partial) -> None:
        self.offsets.append(partial.offset)
        for start in range(partial.offset, len(self.content), 100_000):
            await partial.write(self.content[start : start + 100_000])


async def put(cache: BlobCache, content: bytes) -> Path:
    return await cache.fetch(digest_of(content), len(content), Loader(content))


async def test_fetched_once(cache: BlobCache) -> None:
    load, heard = Loader(), list[int]()
    path = await cache.fetch(DIGEST, len(CONTENT), load, heard.append)
    assert path == cache.path(DIGEST)
    assert path.read_bytes() == CONTENT
    assert heard == sorted(heard)
    assert heard[-1] == len(CONTENT)
    assert await cache.fetch(DIGEST, len(CONTENT), load) == path
    assert load.offsets == [0]
    assert path.stat().st_mode & 0o777 == 0o600
    assert cache.root.stat().st_mode & 0o777 == 0o700


async def test_empty_blob(cache: BlobCache) -> None:
    assert (await put(cache, b"")).read_bytes() == b""


async def test_damage_is_found_by_size_and_on_demand_by_digest(cache: BlobCache) -> None:
    path, load = await put(cache, CONTENT), Loader()
    path.write_bytes(CONTENT[:-1])
    assert (await cache.fetch(DIGEST, len(CONTENT), load)).read_bytes() == CONTENT
    assert load.offsets == [0]
    assert await cache.verify(DIGEST)
    path.write_bytes(CONTENT[:-1] + b"x")
    assert not await cache.verify(DIGEST)
    assert not path.exists()
    assert not await cache.verify(DIGEST)


async def test_manifest_with_a_wrong_size_cannot_remove_what_others_use(cache: BlobCache) -> None:
    path = await put(cache, CONTENT)
    with pytest.raises(BangerError, match=f"has 5 bytes, it has {len(CONTENT)}"):
        await cache.fetch(DIGEST, 5, Loader())
    assert path.read_bytes() == CONTENT


async def test_wrong_content_is_refused_and_leaves_nothing(cache: BlobCache) -> None:
    with pytest.raises(BangerError, match=f"what came for {DIGEST} is damaged"):
        await cache.fetch(DIGEST, len(CONTENT), Loader(CONTENT[:-1] + b"x"))
    assert [path for path in cache.root.rglob("*") if path.is_file()] == []


async def test_more_than_expected_is_refused(cache: BlobCache) -> None:
    with pytest.raises(BangerError, match="is longer than the 10 bytes"):
        await cache.fetch(DIGEST, 10, Loader())


async def test_interrupted_load_goes_on(cache: BlobCache) -> None:
    async def broken(partial: Partial) -> None:
        await partial.write(CONTENT[:1234])
        raise BangerError("the cable is out")

    with pytest.raises(BangerError, match="cable"):
        await cache.fetch(DIGEST, len(CONTENT), broken)
    load = Loader()
    assert (await cache.fetch(DIGEST, len(CONTENT), load)).read_bytes() == CONTENT
    assert load.offsets == [1234]


async def test_other_process_is_waited_for_and_continued_when_it_dies(cache: BlobCache) -> None:
    """A real process holds the lock on its half, and is killed."""
    partial = cache.root / "partial" / DIGEST.removeprefix("sha256:")
    partial.parent.mkdir(parents=True)
    script = "import fcntl, sys; f = open(sys.argv[1], 'wb', 0); fcntl.flock(f, fcntl.LOCK_EX); f.write(bytes(range(256))); print(flush=True); sys.stdin.read()"
    other = await asyncio.create_subprocess_exec(sys.executable, "-c", script, str(partial), stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE)
    assert other.stdout is not None
    await other.stdout.readline()
    load = Loader()
    task = asyncio.create_task(cache.fetch(DIGEST, len(CONTENT), load))
    await asyncio.sleep(0.3)
    assert not task.done()
    assert load.offsets == []
    other.kill()
    assert (await task).read_bytes() == CONTENT
    assert load.offsets == [256]
    await other.wait()


async def test_full_disk(cache: BlobCache, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_self: Partial, _block: bytes) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(Partial, "_store", full)
        with pytest.raises(NoSpace, match="no space left while fetching an image"):
            await cache.fetch(DIGEST, len(CONTENT), Loader())
    assert [path for path in cache.root.rglob("*") if path.is_file()] == []
    assert (await put(cache, CONTENT)).read_bytes() == CONTENT


async def test_documents(cache: BlobCache) -> None:
    asked: list[str] = []

    async def load() -> bytes:
        asked.append("x")
        return b"{}"

    digest = digest_of(b"{}")
    assert [await cache.document(digest, 100, load) for _ in range(2)] == [b"{}", b"{}"]
    assert len(asked) == 1
    cache.path(digest).write_bytes(b"[]")
    assert await cache.document(digest, 100, load) == b"{}"
    with pytest.raises(BangerError, match="was to have the digest"):
        await cache.document(digest_of(b"[]"), 100, load)


async def test_prune(cache: BlobCache) -> None:
    kept, old, new = [await put(cache, content) for content in (b"kept", b"old one", b"new")]
    os.utime(old, (0, 0))
    partials = cache.root / "partial"
    (partials / "left").write_bytes(b"half")
    (partials / "held").write_bytes(b"half")
    os.utime(partials / "left", (0, 0))
    os.utime(partials / "held", (0, 0))
    lock = try_lock(partials / "held")
    assert lock is not None
    try:
        keep = {digest_of(b"kept")}
        would = cache.prune(keep, unused_for=3600, dry_run=True)
        assert (would.count, would.size_bytes) == (2, 11)
        assert old.exists()
        assert cache.prune(keep, unused_for=3600) == would
        assert (kept.exists(), old.exists(), new.exists()) == (True, False, True)
        assert would.kept == 2, "the new one, and the one that is being loaded"
        assert cache.prune(keep).count == 1
        assert {path.name for path in cache.root.rglob("*") if path.is_file()} == {kept.name, "held"}
    finally:
        os.close(lock)


def test_prune_of_nothing(cache: BlobCache) -> None:
    assert cache.prune(()).count == 0
