"""A host of a test's own: namespaces with a copy of /etc, an empty /usr/local, /run, /var/lib and /var/cache, users, and a systemctl that stands in."""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

OWNER, OTHER = ("ada", 4242), ("bob", 4243)
_SETUP = """
set -eu
mount --make-rprivate /
cp -a /etc "$1/etc"
mount -t tmpfs -o mode=755 tmpfs /etc
cp -a "$1/etc/." /etc
rm -rf "$1/etc" /etc/banger
for directory in /usr/local /run /var/lib /var/cache; do mount -t tmpfs -o mode=755 tmpfs "$directory"; done
mkdir -p /run/systemd/system /run/standin /run/homes/ada /run/homes/bob /usr/local/bin /usr/local/lib /usr/local/sbin /usr/local/share/man
cp "$2" /usr/local/sbin/systemctl
chmod 755 /usr/local/sbin/systemctl
echo 'ada:x:4242:4242:Ada:/run/homes/ada:/bin/sh' >>/etc/passwd
echo 'bob:x:4243:4243:Bob:/run/homes/bob:/bin/sh' >>/etc/passwd
echo 'ada:x:4242:' >>/etc/group
echo 'bob:x:4243:' >>/etc/group
chown 4242:4242 /run/homes/ada
chown 4243:4243 /run/homes/bob
echo ready
exec sleep infinity
"""


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    status: int
    out: str
    err: str


class PrivateHost:
    """Use it in a ``with`` statement."""

    def __init__(self, scratch: Path) -> None:
        stand_in = Path(__file__).with_name("systemctl.py")
        self._holder = subprocess.Popen(
            ["unshare", "--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c", _SETUP, "sh", scratch, stand_in],
            stdout=subprocess.PIPE,
            stdin=subprocess.DEVNULL,
            text=True,
        )
        assert self._holder.stdout is not None
        assert self._holder.stdout.readline() == "ready\n"
        self.init = int(Path(f"/proc/{self._holder.pid}/task/{self._holder.pid}/children").read_text().split()[0])

    def run(self, *words: str | Path, uid: int = 0, timeout: float = 120) -> Done:
        """Run a command there, with an environment like that of sudo."""
        home = "/root" if uid == 0 else f"/run/homes/{'ada' if uid == OWNER[1] else 'bob'}"
        become = [] if uid == 0 else ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups"]
        enter = ["nsenter", f"--target={self.init}", "--mount", "--net", "--pid", "--wd=/", *become]
        env = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": home, "LANG": "C.UTF-8"}
        done = subprocess.run([*enter, *words], env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout)
        return Done(done.returncode, done.stdout, done.stderr)

    def banger(self, *words: str, uid: int = 0, python: tuple[str | Path, ...] | None = None) -> Done:
        """The program of the source tree, or the installed one for anybody but root."""
        program = python or ((sys.executable, "-m", "banger.cli.main") if uid == 0 else ("/usr/local/bin/banger",))
        return self.run(*program, *words, uid=uid)

    def path(self, name: str) -> Path:
        """That file as it can be reached from here."""
        return Path(f"/proc/{self.init}/root", name.lstrip("/"))

    def calls(self) -> list[str]:
        """What systemctl was asked to do since the last time this was called."""
        file = self.path("/run/standin/calls")
        lines = file.read_text().splitlines() if file.exists() else []
        file.unlink(missing_ok=True)
        return lines

    def snapshot(self) -> dict[str, str]:
        """Everything that an installation could change: names, kinds, modes, owners and contents."""
        found = {}
        for top in ("/etc", "/usr/local", "/run", "/var/lib", "/var/cache"):
            for path in self.path(top).rglob("*"):
                name = f"/{path.relative_to(self.path('/'))}"
                if not name.startswith(("/run/standin", "/run/homes")):
                    found[name] = _describe(path)
        return found

    def close(self) -> None:
        self._holder.kill()
        self._holder.communicate(timeout=30)

    def __enter__(self) -> PrivateHost:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _describe(path: Path) -> str:
    info = path.lstat()
    content = ""
    if stat.S_ISLNK(info.st_mode):
        content = os.readlink(path)
    elif stat.S_ISREG(info.st_mode):
        content = hashlib.sha256(path.read_bytes()).hexdigest()
    return f"{stat.filemode(info.st_mode)} {info.st_uid}:{info.st_gid} {content}"


def other_version(installed: Path, place: Path, version: str, *, broken: bool = False) -> tuple[str | Path, ...]:
    """Words that run a copy of an installed program that says to be another version; ``broken``: its daemon does not start."""
    shutil.copytree(installed, place)
    (place / "banger/__init__.py").write_text(f'"""banger."""\n\n__version__ = "{version}"\n')
    if broken:
        (place / "banger/daemon/main.py").write_text(
            '"""Broken."""\n\nimport sys\n\n\ndef main() -> int:\n    sys.stderr.write("bangerd: broken\\n")\n    return 1\n'
        )
    return "/usr/bin/python3", "-IS", "-c", f"import sys; sys.path.insert(0, {str(place)!r}); from banger.cli.main import main; sys.exit(main())"
