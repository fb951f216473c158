"""Run as root of a namespace: makes a small root file system with everything that is easily lost on the way to an ext4."""

from __future__ import annotations

import os
import socket
import struct
import sys
from pathlib import Path

CAPABILITY = struct.pack("<5I", 0x02000001, 1 << 13, 0, 0, 0)
"""cap_net_raw=ep as VFS_CAP_REVISION_2 (linux/capability.h)."""


def put(path: Path, content: bytes = b"", mode: int = 0o644, uid: int = 0, gid: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    os.chown(path, uid, gid)
    path.chmod(mode)


def main(root: Path) -> None:
    os.umask(0o022)
    for name in ("dev", "etc/ssh", "etc/apt/apt.conf.d", "run/lock", "usr/bin", "var/lib/dpkg", "home/user"):
        (root / name).mkdir(parents=True)
    put(root / "usr/bin/sudo", b"S" * 5000, 0o4755)
    put(root / "usr/bin/expiry", b"E", 0o2755, 0, 42)
    put(root / "usr/bin/ping", b"P")
    os.setxattr(root / "usr/bin/ping", "security.capability", CAPABILITY)
    put(root / "etc/shadow", b"root:*:1::::::\n", 0o000)
    put(root / "home/user/file", b"x", 0o600, 1000, 1000)
    put(root / "home/user/last", b"x", 0o600, 65534, 65534)
    os.link(root / "usr/bin/sudo", root / "usr/bin/sudo2")
    (root / "etc/long").symlink_to("x" * 200)
    (root / "etc/odd\nname \\ \"'\udcff").touch()
    (root / "var/tmp").mkdir()
    (root / "var/tmp").chmod(0o1777)
    with (root / "var/sparse").open("wb") as file:
        file.truncate(50_000_000)
    put(root / "etc/ssh/ssh_host_rsa_key", b"secret", 0o600)
    put(root / "etc/hostname", b"the host's own name")
    put(root / "var/lib/dpkg/status", b"Package: git\nVersion: 1:2.39\n\nPackage: dash\nVersion: 0.5\n")
    # What a hostile package could do: lead our changes out of the tree.
    (root / sys.argv[2].lstrip("/")).mkdir(parents=True)
    (root / "etc/default").symlink_to(sys.argv[2])
    (root / "etc/resolv.conf").symlink_to(f"{sys.argv[2]}/victim")
    with socket.socket(socket.AF_UNIX) as sock:
        os.chdir(root / "run")
        sock.bind("left.sock")


main(Path(sys.argv[1]))
