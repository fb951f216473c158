"""What QEMU can do on this host: found out once per boot of the host, by running a tiny guest, and remembered."""

from __future__ import annotations

import asyncio
import contextlib
import grp
import hashlib
import json
import logging
import os
import re
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from ...host import facts, process
from ...host.files import write_atomically
from ...host.kvm import KVM_DEVICE, kvm_groups
from ...host.run import run, spawn
from ...model.errors import CommandFailed, VmmError
from ..protocol import VmmProbe
from .command import Processor, probe_command

log = logging.getLogger(__name__)

PROBE_DEADLINE: Final = 10.0
SLOW_RETRY_SECONDS: Final = 300.0
"""A guest that did not start in time may have run on a host that was busy, as at its boot: asked again after so long, and never written down."""
_OK: Final = b"banger-probe-ok"
_KVM_FAILED: Final = b"KVM internal error"
"""QEMU pauses such a guest for ever instead of ending."""
_SLOW: Final = "running in slow software emulation (TCG)"
_OUTPUT_LIMIT: Final = 65536
_REINSTALL: Final = "sudo apt-get install --reinstall qemu-system-x86"


@dataclass(frozen=True, slots=True, kw_only=True)
class KvmAccess:
    """Whether a process may open the KVM device."""

    allowed: bool
    groups: tuple[int, ...] = ()
    """Supplementary groups that a process of another uid must be given for it."""
    note: str = ""
    hint: str = ""


def kvm_access(uid: int, device: Path = KVM_DEVICE) -> KvmAccess:
    """Access of a VMM that runs as ``uid`` (-1 = as ourselves), from the device's mode alone."""
    try:
        info = device.stat()
    except OSError:
        return KvmAccess(
            allowed=False,
            note=f"no {device} on this host: {_SLOW}",
            hint="enable virtualisation in the firmware, or nested virtualisation where this host is a virtual machine itself",
        )
    if uid < 0 and os.access(device, os.R_OK | os.W_OK):
        return KvmAccess(allowed=True)
    if uid >= 0 and (groups := kvm_groups(info)) is not None:
        return KvmAccess(allowed=True, groups=groups)
    who = "you" if uid < 0 else "an unprivileged VMM"
    return KvmAccess(allowed=False, note=f"{who} may not open {device}: {_SLOW}", hint=_access_remedy(device, info, uid))


def _access_remedy(device: Path, info: os.stat_result, uid: int) -> str:
    """What opens the device for a process of ``uid``: membership where a group may open it, else a group that may."""
    open_to_group = info.st_gid != 0 and info.st_mode & 0o060 == 0o060
    if open_to_group and uid < 0:
        return f"sudo usermod -aG {_group_name(info.st_gid)} $USER, then log in again"
    join = " && sudo usermod -aG kvm $USER, then log in again" if uid < 0 else ""
    return f"sudo groupadd --force --system kvm && sudo chgrp kvm {device} && sudo chmod 660 {device}{join}"


def _group_name(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)


class Prober:
    """Answers "which accelerator works" from memory, else from the cache directory, else by trying."""

    def __init__(self, cache: Path, *, device: Path = KVM_DEVICE, deadline: float = PROBE_DEADLINE, slow_retry: float = SLOW_RETRY_SECONDS) -> None:
        self._file = cache / "qemu.json"
        self._device = device
        self._deadline = deadline
        self._slow_retry = slow_retry
        self._known: dict[str, VmmProbe] = {}
        self._doubtful: dict[str, tuple[VmmProbe, float]] = {}
        """What was too slow to be known, and until when (monotonic) it holds."""
        self._one_at_a_time = asyncio.Lock()

    async def probe(self, binary: Path, kernel: Path, initramfs: Path, uid: int) -> VmmProbe:
        """What works for a VMM of ``uid`` (-1 = ourselves); probed anew when binary, kernel, initramfs or device changes, and after a boot of the host.

        Raises VmmError when one of the files is gone.
        """
        try:
            key = self._key(binary, kernel, initramfs, uid)
        except FileNotFoundError as error:
            raise VmmError(f"cannot probe {binary.name}: {error.filename} is gone") from error
        if found := self._remembered(key):
            return found
        async with self._one_at_a_time:
            if not self._known:
                self._known = self._load()
            if found := self._remembered(key):
                return found
            try:
                found, settled = await self._try(binary, kernel, initramfs, uid)
            except VmmError as error:  # asked again next time: what it lacks may be installed without a change of the binary
                return VmmProbe(usable=False, binary=str(binary), note=error.message, hint=error.hint)
            if settled:
                self._known[key] = found
                self._save()
            else:
                self._doubtful[key] = found, time.monotonic() + self._slow_retry
            return found

    def _remembered(self, key: str) -> VmmProbe | None:
        doubtful, until = self._doubtful.get(key, (None, 0.0))
        return self._known.get(key) or (doubtful if time.monotonic() < until else None)

    def _key(self, binary: Path, kernel: Path, initramfs: Path, uid: int) -> str:
        # The initramfs is named after its content, and its times change whenever it is used.
        identity = [_identity(binary), _identity(kernel), str(initramfs), _access_of(self._device), uid >= 0]
        return hashlib.sha256(json.dumps(identity).encode()).hexdigest()

    def _load(self) -> dict[str, VmmProbe]:
        try:
            stored = json.loads(self._file.read_bytes())
            if stored["boot_id"] == facts.boot_id():
                return {key: VmmProbe(**value) for key, value in stored["probes"].items()}
        except FileNotFoundError:
            pass
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            log.warning("ignoring a damaged probe cache", extra={"file": str(self._file), "error": repr(error)})
        return {}

    def _save(self) -> None:
        content = {"boot_id": facts.boot_id(), "probes": {key: asdict(probe) for key, probe in self._known.items()}}
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            write_atomically(self._file, json.dumps(content, indent=1).encode())
        except OSError as error:
            log.warning("cannot keep the probe's result", extra={"file": str(self._file), "error": str(error)})

    async def _try(self, binary: Path, kernel: Path, initramfs: Path, uid: int) -> tuple[VmmProbe, bool]:
        """The answer, and whether it holds until something changes."""
        version = await version_of(binary)
        access = kvm_access(uid, self._device)
        note, hint, settled = access.note, access.hint, True
        if access.allowed:
            try:
                reason = await run_kvm_guest(binary, kernel, initramfs, uid=uid, groups=access.groups, deadline=self._deadline)
            except TimeoutError:
                reason, settled = f"a test guest did not start within {self._deadline:g} s", False
            if not reason:
                return VmmProbe(usable=True, binary=str(binary), version=version, accelerator="kvm"), True
            note, hint = f"KVM does not work on this host ({reason}): {_SLOW}", ""
        log.info("kvm is not usable", extra={"note": note})
        return VmmProbe(usable=True, binary=str(binary), version=version, accelerator="tcg", note=note, hint=hint), settled


def _identity(path: Path) -> list[object]:
    info = path.stat()
    return [str(path), info.st_ino, info.st_size, info.st_mtime_ns]


def _access_of(device: Path) -> list[int]:
    try:
        info = device.stat()
    except OSError:
        return []
    return [info.st_mode, info.st_uid, info.st_gid, info.st_rdev]


async def version_of(binary: Path) -> str:
    """The binary's version such as ``7.2.22``. Raises VmmError when it does not run, or does not say: then it is broken, or no QEMU."""
    try:
        said = await run([binary, "--version"], deadline=10)
    except (CommandFailed, OSError) as error:
        raise VmmError(f"{binary} does not run: {error}", hint=_REINSTALL) from error
    match = re.search(rb"version ([0-9][0-9A-Za-z.+-]*)", said.stdout)
    if match is None:
        raise VmmError(f"{binary} --version does not say a version", hint=_REINSTALL)
    return match[1].decode()


async def run_kvm_guest(binary: Path, kernel: Path, initramfs: Path, *, uid: int, groups: tuple[int, ...], deadline: float) -> str:
    """Boot the guest's own kernel under KVM until it says that it lives; "" when it does, else why not. Raises TimeoutError after ``deadline`` seconds."""
    processor = Processor(accelerator="kvm", model="host", tsc_khz=facts.tsc_khz())
    with contextlib.ExitStack() as files:
        fds = [files.enter_context(path.open("rb")).fileno() for path in (kernel, initramfs)]
        read_end, write_end = os.pipe2(os.O_CLOEXEC)
        output = files.enter_context(os.fdopen(read_end, "rb", buffering=0))
        try:
            guest = spawn(probe_command(binary, processor, kernel=fds[0], initramfs=fds[1]), output=write_end, pass_fds=fds, uid=uid, groups=groups)
        finally:
            os.close(write_end)
        try:
            async with asyncio.timeout(deadline):
                return await _verdict(output)
        finally:
            await process.end(guest)


async def _verdict(output: object) -> str:
    reader = asyncio.StreamReader(limit=_OUTPUT_LIMIT)
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), output)
    try:
        untrusted_said = b""
        while chunk := await reader.read(4096):
            untrusted_said = (untrusted_said + chunk)[-_OUTPUT_LIMIT:]
            if _OK in untrusted_said:
                return ""
            if _KVM_FAILED in untrusted_said:
                return "the test guest died in instruction emulation"
        lines = untrusted_said.decode(errors="replace").strip().splitlines()
        return f"the test guest ended early: {lines[-1].strip()[:200]!r}" if lines else "the test guest ended early"
    finally:
        transport.close()
