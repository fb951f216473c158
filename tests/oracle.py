"""The leak oracle: looks at the host, not at banger.

``leftovers`` is what belongs to an instance and should not be there once all its machines are deleted (but those that fixtures keep); ``broken_promises``
is where the host differs from what the surviving rows promise. Both look at processes, sockets, files, mounts, loop and device-mapper devices, network
links, nftables and cgroups (scopes), rows and journal.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from tests.e2e.instance import Instance

VOLATILE = ("agent.sock", "control.sock", "network.sock", "handles.json")
"""What the directory of a machine has only while it runs."""


def processes_of(home: str) -> Iterator[tuple[int, str]]:
    """Pid and reason for every process that names something below ``home`` in its arguments, or has it open."""
    for pid in map(int, filter(str.isdigit, os.listdir("/proc"))):
        if pid == os.getpid():
            continue
        words = _arguments(pid)
        if home in words:
            yield pid, words
        elif held := next((target for target in open_files(pid) if target.startswith(home)), None):
            yield pid, f"{words} holds {held}"


def _arguments(pid: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    return ""


def parent_of(pid: int) -> int:
    """Parent of a process; 0 when it has ended."""
    with contextlib.suppress(OSError):
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    return 0


def open_files(pid: int) -> list[str]:
    """What the process has open; nothing when we may not look."""
    targets = []
    with contextlib.suppress(OSError):
        for fd in os.listdir(f"/proc/{pid}/fd"):
            with contextlib.suppress(OSError):
                targets.append(os.readlink(f"/proc/{pid}/fd/{fd}"))
    return targets


def processes(instance: Instance) -> list[str]:
    """Processes of the instance other than its daemon and the machines that are kept."""
    daemon = instance.daemon_pid()
    return [
        f"process {pid}: {why[:200]}"
        for pid, why in processes_of(str(instance.home))
        if pid != daemon and not any(vm_id in why or holds(pid, vm_id) for vm_id in instance.kept)
    ]


def holds(pid: int, vm_id: str) -> bool:
    """A VMM gets its disks and sockets as descriptors, so its arguments need not name its machine."""
    return any(vm_id in target for target in open_files(pid))


def files(instance: Instance) -> list[str]:
    """Machine directories that nobody keeps, and anything half-made."""
    left = [f"directory {path}" for path in instance.state.glob("vms/*") if path.name not in instance.kept]
    return left + [f"half-made {path}" for path in instance.home.rglob("*.staging")]


def sockets(instance: Instance) -> list[str]:
    """Bound unix sockets below the instance's home, other than the daemon's and those of kept machines."""
    left = []
    for line in Path("/proc/net/unix").read_text().splitlines()[1:]:
        words = line.split()
        path = words[7] if len(words) > 7 else ""
        if path.startswith(str(instance.home)) and not path.startswith(str(instance.runtime)) and not any(vm_id in path for vm_id in instance.kept):
            left.append(f"socket {path}")
    return left


def kernel_objects(instance: Instance) -> list[str]:
    """Mounts and loop devices that lie on the instance's files (the mount that is the home itself does not count), and whatever else in the kernel
    bears the id of one of its machines that nobody keeps."""
    home = f"{instance.home}/"
    mounts = [words[4] for words in map(str.split, Path("/proc/self/mountinfo").read_text().splitlines()) if words[4].startswith(home)]
    loops = []
    for backing in Path("/sys/block").glob("loop*/loop/backing_file"):
        with contextlib.suppress(OSError):
            if backing.read_text().startswith(home):
                loops.append(backing.parts[3])
    return [f"mount {path}" for path in mounts] + [f"loop device {name}" for name in loops] + named_objects(machines_ever(instance) - instance.kept)


def machines_ever(instance: Instance) -> set[str]:
    """Ids of the machines that the instance has, or had as far as its events go back."""
    return {row["id"] for row in instance.rows("vms")} | {row["vm_id"] for row in instance.rows("events") if row["vm_id"]}


def named_objects(vm_ids: set[str]) -> list[str]:
    """Network links, nftables rules, device-mapper devices and cgroups that bear an id, or its first eight digits, in their name."""
    marks = {vm_id[:8] for vm_id in vm_ids}
    found = [f"network link {path.name}" for path in Path("/sys/class/net").iterdir() if _bears(f"{path.name} {_text(path / 'ifalias')}", marks)]
    found += [f"device-mapper device {name}" for path in Path("/sys/block").glob("dm-*/dm/name") if _bears(name := _text(path).strip(), marks)]
    found += [f"cgroup {path}" for path in _cgroups() if _bears(path.name, marks)]
    return found + [f"nftables: {line.strip()}" for line in _nftables() if _bears(line, marks)]


def _bears(words: str, marks: set[str]) -> bool:
    return any(mark in words for mark in marks)


def _text(path: Path) -> str:
    with contextlib.suppress(OSError):
        return path.read_text()
    return ""


def _cgroups() -> Iterator[Path]:
    for directory, names, _ in os.walk("/sys/fs/cgroup"):
        yield from (Path(directory, name) for name in names)


def _nftables() -> list[str]:
    program = shutil.which("nft", path="/usr/sbin:/usr/bin:/sbin")
    if program is None or os.geteuid() != 0:
        return []
    return subprocess.run([program, "list", "ruleset"], capture_output=True, text=True, timeout=10).stdout.splitlines()


def rows(instance: Instance) -> list[str]:
    """Rows of machines that nobody keeps, and journal entries: nothing is under way between tests."""
    machines = [f"row of {row['name']} ({row['id']}) in state {row['state']}" for row in instance.rows("vms") if row["id"] not in instance.kept]
    return machines + [f"open journal entry {row['kind']} of {row['vm_id']}" for row in instance.rows("journal")]


def leftovers(instance: Instance) -> list[str]:
    """Everything that belongs to the instance and should not be there; empty when all is well."""
    return [*rows(instance), *files(instance), *sockets(instance), *kernel_objects(instance), *processes(instance)]


def broken_promises(instance: Instance) -> list[str]:
    """Where the host differs from what the rows of the machines promise; empty when all is well. Nothing may be under way."""
    records = instance.rows("vms")
    running = {row["id"] for row in records if row["state"] == "running"}
    wrong = [f"open journal entry {row['kind']} of {row['vm_id']}, step {row['step']}" for row in instance.rows("journal")]
    wrong += [f"half-made {path}" for path in instance.home.rglob("*.staging")]
    wrong += [f"directory of no row: {path}" for path in instance.state.glob("vms/*") if path.name not in {row["id"] for row in records}]
    wrong += _processes_of_nobody(instance, running)
    for row in records:
        check = _broken_running if row["id"] in running else _broken_idle
        wrong += [f"{row['name']} ({row['state']}): {what}" for what in check(instance.state / "vms" / row["id"], row["id"])]
    return wrong + kernel_objects_beyond(instance, running)


def kernel_objects_beyond(instance: Instance, running: set[str]) -> list[str]:
    """Objects of the kernel that belong to machines which do not run."""
    return named_objects(machines_ever(instance) - running)


def _processes_of_nobody(instance: Instance, running: set[str]) -> list[str]:
    daemon = instance.daemon_pid()
    return [
        f"process {pid} of no running machine: {why[:200]}"
        for pid, why in processes_of(str(instance.home))
        if pid != daemon and not any(vm_id in why or holds(pid, vm_id) for vm_id in running)
    ]


def _broken_running(directory: Path, vm_id: str) -> list[str]:
    vmms = [pid for pid in map(int, filter(str.isdigit, os.listdir("/proc"))) if f"banger-{vm_id}" in _arguments(pid).split()]
    wrong = [f"{name} is missing" for name in ("agent.sock", "handles.json", "system.overlay", "root.ext4") if not (directory / name).exists()]
    if len(vmms) != 1:
        return [*wrong, f"{len(vmms)} VMM processes instead of one"]
    with contextlib.suppress(OSError):
        noted = json.loads((directory / "handles.json").read_text())["vmm"]["pid"]
        if noted != vmms[0]:
            wrong.append(f"handles.json names process {noted}, the VMM is {vmms[0]}")
    return wrong


def _broken_idle(directory: Path, vm_id: str) -> list[str]:
    return [f"{name} is still there" for name in VOLATILE if (directory / name).exists()]
