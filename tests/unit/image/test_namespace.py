"""The namespace dies with the one who made it, and says what is missing."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from banger.host.process import identify, wait_exit
from banger.host.run import run
from banger.image import namespace
from banger.model.errors import BangerError, CommandFailed, MissingTool

BUILDER = """
import asyncio, sys
from banger.host.run import run
from banger.image.namespace import inside
asyncio.run(run(inside(["sh", "-c", f"echo up > {sys.argv[1]}; exec sleep 1000"]), deadline=1000))
"""


async def appears(path: Path) -> None:
    async with asyncio.timeout(20):
        while not path.exists():
            await asyncio.sleep(0.01)


def children_of(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.usefixtures("needs_namespace")
async def test_root_inside_and_nothing_mounted_outside() -> None:
    done = await run(namespace.inside(["sh", "-c", "id -u && mount -t tmpfs tmpfs /mnt && grep -c ' /mnt ' /proc/self/mounts"]), deadline=30)
    assert done.stdout.split() == [b"0", b"1"]
    assert " /mnt tmpfs " not in Path("/proc/self/mounts").read_text()


@pytest.mark.usefixtures("needs_namespace")
async def test_a_killed_daemon_leaves_no_build_running(tmp_path: Path) -> None:
    up = tmp_path / "up"
    daemon = subprocess.Popen([sys.executable, "-c", BUILDER, str(up)], env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}, start_new_session=True)
    try:
        await appears(up)
        unshare = children_of(daemon.pid)[0]
        processes = [identify(unshare), identify(children_of(unshare)[0])]
    finally:
        daemon.send_signal(signal.SIGKILL)
        daemon.wait()
    async with asyncio.timeout(20):
        for process in processes:
            await wait_exit(process)


@pytest.mark.usefixtures("needs_namespace")
async def test_a_cancelled_build_ends_everything_in_it(tmp_path: Path) -> None:
    up = tmp_path / "up"
    task = asyncio.create_task(run(namespace.inside(["sh", "-c", f"echo $$ > {up}; setsid sleep 1000"]), deadline=1000))
    await appears(up)
    tree = next(pid for pid in children_of(os.getpid()) if b"unshare" in Path(f"/proc/{pid}/cmdline").read_bytes())
    inner = identify(children_of(tree)[0])
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    async with asyncio.timeout(20):
        await wait_exit(inner)


async def test_missing_subordinate_ids_name_the_remedy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("uid", "gid"):
        (tmp_path / name).write_text("somebody:100000:65536\nelse:300000:65536\nnonsense\n")
    monkeypatch.setattr(namespace, "_SUBORDINATE", (tmp_path / "uid", tmp_path / "gid"))
    monkeypatch.setattr("os.geteuid", lambda: os.getuid() or 1)
    monkeypatch.setattr(namespace, "find_tool", Path)
    with pytest.raises(MissingTool, match="has no range of ids for") as caught:
        await namespace.check()
    assert caught.value.hint.startswith("sudo usermod --add-subuids 365536-431071 --add-subgids 365536-431071 ")


async def test_a_host_that_forbids_namespaces_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    async def refuse(*_: object, **__: object) -> None:
        raise CommandFailed("unshare: unshare failed: Operation not permitted")

    monkeypatch.setattr(namespace, "run", refuse)
    monkeypatch.setattr(namespace, "_check_subordinate_ids", lambda: None)
    monkeypatch.setattr(namespace, "find_tool", Path)
    with pytest.raises(BangerError, match="Operation not permitted") as caught:
        await namespace.check()
    assert caught.value.hint
