"""The laboratory: a machine of our own that is a host with systemd, cgroup v2, device-mapper, nftables and KVM, driven from outside.

Its image is built once per recipe and kept with its kernel below ``cache_directory()``, as files that no database knows, so that any version of banger may
use them. Python is emulated in there: a command of banger's takes a second or two.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from banger.host.paths import private_directory
from tests.e2e.instance import Done, Instance
from tests.lab import materials

RECIPE = Path(__file__).with_name("laboratory.toml")
IMAGE = "banger-lab"
KERNEL = "banger-lab"
MACHINE = "lab"
OWNER = "dev"
"""The ordinary user who owns what is installed inside."""
STRANGER = "eve"
"""Another one, who must see nothing of it."""
PATIENCE = 300.0
"""Seconds that one command inside may take: machines inside boot in about ten when nothing else runs."""
_BUILD_SECONDS = 1800.0


def obstacle() -> str:
    """Why there can be no laboratory on this host; "" = there can."""
    if missing := [tool for tool in ("qemu-system-x86_64", "mmdebstrap", "zstd") if shutil.which(tool) is None]:
        return f"the laboratory needs {', '.join(missing)}: ./dev setup"
    if not Path("/bin/busybox").exists():
        return "the laboratory needs busybox-static: ./dev test installs it"
    if sys.version_info[:2] != (3, 11):
        return f"the laboratory runs Debian 12's Python 3.11, and this is {sys.version_info[0]}.{sys.version_info[1]}: compiled packages do not fit"
    return ""


def cache_directory() -> Path:
    """Where images for laboratories are kept: BANGER_LAB_HOME, else a directory of this user's in /var/tmp, for no test touches a home."""
    return Path(os.environ.get("BANGER_LAB_HOME") or f"/var/tmp/banger-lab-{os.getuid()}")


@dataclass(frozen=True, slots=True)
class Parts:
    """What a laboratory is made of, as files."""

    rootfs: Path
    kernel: Path
    """A directory with vmlinux, modules/ and config."""


def prepare(cache: Path) -> Parts:
    """The parts for today's recipe, built if they are not there yet. Others who want the same wait."""
    private_directory(cache)
    place = cache / hashlib.sha256(RECIPE.read_bytes()).hexdigest()[:12]
    with (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not place.is_dir():
            _build(cache, place)
    return Parts(place / "rootfs.ext4", place / "kernel")


def _build(cache: Path, place: Path) -> None:
    """Build ``place`` and remove those of older recipes."""
    print("building the laboratory's image: two minutes, once per recipe", file=sys.stderr)
    for old in cache.glob("????????????"):
        shutil.rmtree(old)
    with tempfile.TemporaryDirectory(prefix="build-", dir=cache) as temporary:
        builder = Instance(Path(temporary, "home"))
        try:
            builder.ok("image", "build", str(RECIPE), "--name", IMAGE, timeout=_BUILD_SECONDS)
        finally:
            builder.stop_daemon()
        made = Path(temporary, "made")
        made.mkdir()
        (image,) = builder.state.glob("images/*/rootfs.ext4")
        (kernel,) = builder.state.glob("kernels/*/vmlinux")
        image.rename(made / "rootfs.ext4")
        kernel.parent.rename(made / "kernel")
        (made / "kernel/manifest.json").unlink()
        made.rename(place)


@dataclass(frozen=True)
class Laboratory:
    """A laboratory that runs. ``outside`` is the instance that it is a machine of."""

    outside: Instance
    name: str = MACHINE

    def run(self, *words: str, user: str = "root", stdin: bytes | None = None, timeout: float = PATIENCE) -> Done:
        """Run a command inside to its end, by its argument vector."""
        stdin_options = ("-i",) if stdin is not None else ("-n",)
        return self.outside.run("vm", "exec", *stdin_options, "-T", "-u", user, "-w", "/", self.name, "--", *words, stdin=stdin, timeout=timeout)

    def ok(self, *words: str, user: str = "root", stdin: bytes | None = None, timeout: float = PATIENCE) -> str:
        """Standard output of a command that must succeed."""
        done = self.run(*words, user=user, stdin=stdin, timeout=timeout)
        assert done.status == 0, f"in the laboratory, as {user}: {' '.join(words)}: status {done.status}\n{done.err}\n{done.out}"
        return done.out

    def sh(self, script: str, user: str = "root", timeout: float = PATIENCE) -> str:
        """Standard output of a shell script that must succeed: one round trip for many commands."""
        return self.ok("sh", "-ec", script, user=user, timeout=timeout)

    def copy_in(self, source: Path, target: str) -> None:
        """Copy a file or tree into the laboratory."""
        self.outside.ok("vm", "cp", "-q", str(source), f"{self.name}:{target}")

    def bring(self, bundle: Callable[[Path], Path]) -> None:
        """Unpack an archive at the laboratory's root. ``bundle`` makes it in the directory that it is given."""
        with tempfile.TemporaryDirectory(prefix="banger-lab-", dir="/var/tmp") as temporary:
            archive = bundle(Path(temporary))
            self.copy_in(archive, f"/var/tmp/{archive.name}")
        self.sh(f"tar --zstd -xf /var/tmp/{archive.name} -C / --keep-directory-symlink && rm /var/tmp/{archive.name}")

    def install_program(self) -> None:
        """Bring in banger as it is in this tree, in place of what was there."""
        self.sh(f"rm -rf /{materials.PROGRAM}")
        self.bring(materials.bundle_program)
        self.sh(f"ln -sfn /{materials.PROGRAM}/bin/banger /usr/bin/banger")

    def reboot(self) -> None:
        """Restart the laboratory, and wait until its systemd is up."""
        self.outside.ok("vm", "restart", "--wait", "booted", self.name, timeout=PATIENCE)


def boot(outside: Instance, parts: Parts, name: str = MACHINE) -> Laboratory:
    """Make a laboratory and bring in all but the program. ``outside`` must be allowed to emulate a CPU with virtualisation (``new_home``)."""
    outside.ok("kernel", "import", KERNEL, "--from", str(parts.kernel))
    outside.ok("image", "register", "--name", IMAGE, "--rootfs", str(parts.rootfs), "--kernel", KERNEL)
    # One CPU: two that take turns wait for each other in slices of 100 ms, and machines inside starve; see also new_home.
    size = ("--memory", "4G", "--vcpu", "2" if os.environ.get("BANGER_LAB_PARALLEL") else "1", "--disk-size", "4G", "--system-overlay-size", "12G")
    outside.ok("vm", "run", "-d", "--nat", "--name", name, "--image", IMAGE, *size, "--wait", "booted", timeout=PATIENCE)
    laboratory = Laboratory(outside, name)
    laboratory.bring(partial(materials.bundle_kernel, parts.kernel))
    users = f"useradd --create-home --shell /bin/bash {OWNER}; useradd --create-home --shell /bin/bash {STRANGER}; usermod -aG kvm {OWNER}"
    sudo = f"echo '{OWNER} ALL=(ALL) NOPASSWD: ALL' >/etc/sudoers.d/laboratory"
    laboratory.sh(f"systemctl restart systemd-modules-load; {users}; {sudo}; udevadm settle")
    return laboratory


def new_home(home: Path) -> Instance:
    """An instance below ``home`` whose machines can run machines. Sockets' paths are limited to 107 bytes: keep it short."""
    (home / "config").mkdir(parents=True, mode=0o700, exist_ok=True)
    # In turns, Debian 12's QEMU hangs neither the laboratory nor what runs in it; in parallel is quicker and good enough to look around.
    parallel = "parallel = true\n" if os.environ.get("BANGER_LAB_PARALLEL") else ""
    (home / "config/config.toml").write_text(f'[qemu]\ncpu_model = "max"\n{parallel}')
    return Instance(home)


@contextmanager
def temporary_laboratory() -> Iterator[Laboratory]:
    """A fresh laboratory with today's program, which is gone afterwards."""
    parts = prepare(cache_directory())
    home = Path(tempfile.mkdtemp(prefix="banger-lab-", dir="/var/tmp"))
    home.chmod(0o755)  # the kernel and the image are opened by us, the VMM has a uid of its own
    outside = new_home(home / "home")
    try:
        laboratory = boot(outside, parts)
        laboratory.install_program()
        yield laboratory
    finally:
        outside.delete_everything()
        shutil.rmtree(home)


def kept_home() -> Path:
    """Where ``./dev lab`` keeps its machine."""
    return cache_directory() / "home"


def kept_laboratory(*, program: bool = True) -> Laboratory:
    """The laboratory of ``./dev lab``: made, or started again with what it had; with today's program unless told otherwise."""
    outside = new_home(kept_home())
    laboratory = Laboratory(outside)
    if outside.run("vm", "show", MACHINE).status == 0:
        outside.ok("vm", "start", "--wait", "booted", MACHINE, timeout=PATIENCE)
    else:
        laboratory = boot(outside, prepare(cache_directory()))
        program = True
    if program:
        laboratory.install_program()
    return laboratory


def shell() -> int:
    """An interactive shell in the kept laboratory; its status."""
    laboratory = kept_laboratory(program=False)
    return subprocess.run(laboratory.outside.argv("vm", "shell", MACHINE), env=laboratory.outside.environment).returncode


def remove_kept(*, delete: bool) -> None:
    """Stop the kept laboratory, or delete it and its instance."""
    outside = new_home(kept_home())
    if outside.run("vm", "show", MACHINE).status == 0:
        outside.ok("vm", "delete" if delete else "stop", MACHINE)
    outside.stop_daemon()
    if delete:
        shutil.rmtree(outside.home)
