"""Real git repositories, made by the tests."""

from __future__ import annotations

import hashlib
import os
import subprocess
from pathlib import Path

ENVIRONMENT = {
    "PATH": os.environ["PATH"], "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_NOSYSTEM": "1", "LC_ALL": "C.UTF-8",
    "GIT_AUTHOR_NAME": "A", "GIT_AUTHOR_EMAIL": "a@example.org", "GIT_COMMITTER_NAME": "A", "GIT_COMMITTER_EMAIL": "a@example.org",
}  # fmt: skip


def git(place: Path, *words: str, stdin: bytes | None = None, status: int = 0) -> str:
    """Run the user's git."""
    done = subprocess.run(["git", "-c", "protocol.file.allow=always", *words], cwd=place, input=stdin, capture_output=True, env=ENVIRONMENT)
    assert done.returncode == status, done.stderr.decode()
    return done.stdout.decode("utf-8", "surrogateescape")


def write(path: Path, content: bytes | str = b"x\n", *, age: int = 60) -> None:
    """A file that was last written ``age`` seconds ago."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    when = path.stat().st_mtime - age
    os.utime(path, (when, when))


def new_repository(place: Path) -> Path:
    """An empty repository."""
    place.mkdir(parents=True)
    git(place, "init", "-q", "-b", "main")
    git(place, "config", "user.name", "Ann")
    git(place, "config", "user.email", "ann@example.org")
    return place


def commit(place: Path, message: str = "change") -> str:
    """Commit everything; returns the commit's name."""
    git(place, "add", "-A")
    git(place, "commit", "-q", "--allow-empty", "-m", message)
    return git(place, "rev-parse", "HEAD").strip()


def varied_repository(place: Path) -> Path:
    """One with a bit of everything: names, modes, links, line ends, three branches, history."""
    repository = new_repository(place)
    write(repository / "README.md", "hello\n")
    commit(repository, "first")
    write(repository / "src/main.c", "int main(void) { return 0; }\n")
    write(repository / "bin/run", "#!/bin/sh\n")
    (repository / "bin/run").chmod(0o755)
    write(repository / "data.bin", bytes(range(256)) * 64)
    write(repository / "with space/and\nnewline", "odd\n")
    write(Path(os.fsdecode(os.fsencode(repository) + b"/caf\xe9-\xff.txt")), "latin\n")
    write(repository / "crlf.txt", b"one\r\ntwo\r\n")
    write(repository / "empty", b"")
    (repository / "link").symlink_to("src/main.c")
    (repository / "dangling").symlink_to("/nowhere/at all")
    for link in ("link", "dangling"):
        os.utime(repository / link, (1_700_000_000, 1_700_000_000), follow_symlinks=False)
    write(repository / ".gitignore", "*.o\nbuild/\n")
    commit(repository, "second")
    git(repository, "branch", "feature/one")
    git(repository, "branch", "other")
    git(repository, "mv", "README.md", "READ ME.md")
    commit(repository, "rename")
    write(repository / "src/main.o", "ignored")
    return repository


def tree_of(place: Path) -> dict[bytes, tuple[str, bytes]]:
    """Every file below ``place`` but ``.git``: kind and content."""
    top = os.fsencode(place)
    found: dict[bytes, tuple[str, bytes]] = {}
    for folder, folders, names in os.walk(top):
        folders[:] = [name for name in folders if name != b".git"]
        for name in [*names, *(name for name in folders if os.path.islink(os.path.join(folder, name)))]:
            path = os.path.join(folder, name)
            if name == b".git":
                continue
            if os.path.islink(path):
                found[path[len(top) + 1 :]] = ("link", os.readlink(path))
            else:
                with open(path, "rb") as file:
                    found[path[len(top) + 1 :]] = ("executable" if os.stat(path).st_mode & 0o100 else "file", file.read())
    return found


def fingerprint(place: Path) -> str:
    """A hash of every byte, name and time of change below ``place``, a repository's ``.git`` included."""
    digest = hashlib.sha256()
    for folder, folders, names in os.walk(os.fsencode(place)):
        folders.sort()
        for name in sorted([*names, *folders]):
            path = os.path.join(folder, name)
            info = os.lstat(path)
            digest.update(b"%s %d %d\0" % (path, info.st_mode, info.st_mtime_ns if not os.path.isdir(path) else 0))
            if os.path.isfile(path) and not os.path.islink(path):
                with open(path, "rb") as file:
                    digest.update(file.read())
    return digest.hexdigest()
