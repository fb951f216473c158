"""Stand-ins for what images are made of: kernels that are a file each, and a source that says what it likes."""

from __future__ import annotations

import asyncio
import hashlib
from dataclasses import dataclass, field
from pathlib import Path

from banger.host.paths import Layout
from banger.image.sources.protocol import ROOTFS, Made
from banger.model.names import new_id
from banger.model.progress import Report
from banger.model.records import ImageConfig, KernelRecord


class FakeKernels:
    """Kernels that are a file each, and count how often they are made."""

    def __init__(self, layout: Layout) -> None:
        self._directory = layout.kernels
        self.made: dict[str, KernelRecord] = {}
        self.failure: Exception | None = None

    async def ensure(self, name: str, report: Report) -> KernelRecord:
        await asyncio.sleep(0)
        if self.failure:
            raise self.failure
        if name not in self.made:
            path = self._directory / name
            path.mkdir(parents=True)
            (path / "vmlinux").write_bytes(b"kernel")
            self.made[name] = KernelRecord(id=new_id(), name=name, source="", path=str(path), version="6.1", digest="sha256:0", size_bytes=6, created_at=1.0)
        return self.made[name]

    async def check_known(self, name: str) -> None:
        pass

    def has(self, name: str) -> bool:
        return name in self.made

    async def initramfs_of(self, kernel: KernelRecord) -> Path:
        return self._directory / f"{kernel.name}.cpio"

    async def settle(self) -> None:
        pass


@dataclass
class PlayedSource:
    """A source whose content and revision are set by the test."""

    name: str = "dev"
    reference: str = "docker://ghcr.io/acme/dev:1"
    kernel: str = "k"
    content: bytes = b"one"
    config: ImageConfig = field(default_factory=ImageConfig)
    asked_kernel: str = ""
    made: int = 0
    asked: int = 0
    gate: asyncio.Event | None = None

    @property
    def origin(self) -> str:
        return self.reference or "stdin"

    async def revision(self, report: Report) -> str:
        self.asked += 1
        return self._digest

    async def make(self, staging: Path, report: Report) -> Made:
        self.made += 1
        (staging / ROOTFS).write_bytes(self.content)
        if self.gate:
            await self.gate.wait()
        return Made(digest=self._digest, manifest_digest=self._digest, revision=self._digest, config=self.config, kernel=self.asked_kernel, facts={"more": 1})

    @property
    def _digest(self) -> str:
        return "sha256:" + hashlib.sha256(self.content).hexdigest()
