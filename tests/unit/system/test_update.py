"""Updates of a real installation on a host of its own, with the real daemon: what is refused, what fails and goes back, what is killed, and what works."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import banger
from banger import __version__
from tests.unit.system.private_host import OWNER, Done, PrivateHost
from tests.unit.system.releases import make_key, make_wheel, release, sign_again

pytestmark = [
    pytest.mark.root,
    pytest.mark.timeout(400),
    pytest.mark.skipif(os.getuid() != 0, reason="a host of one's own takes root"),
]
INSTALLED = ("/usr/local/bin/banger",)
LIBRARY = "/usr/local/lib/banger"
SOURCE = Path(banger.__file__).parent
DYING_DAEMON = {"banger/daemon/lifetime.py": b'"""Broken."""\n\nraise SystemExit("broken on purpose")\n'}


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_key(tmp_path_factory.mktemp("keys") / "key")


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory, key: Path) -> Path:
    """A place with one proper release, 1.0."""
    return release(tmp_path_factory.mktemp("good") / "releases", key, "1.0")


@pytest.fixture(scope="module")
def shared_host(tmp_path_factory: pytest.TempPathFactory, key: Path) -> Iterator[PrivateHost]:
    with PrivateHost(tmp_path_factory.mktemp("host")) as host:
        assert host.banger("system", "install", "--owner", "ada").status == 0
        host.run("cp", key.with_name("key.signers"), "/etc/banger/release_keys")
        host.run("ip", "link", "set", "lo", "up")
        yield host


@pytest.fixture
def host(shared_host: PrivateHost) -> Iterator[PrivateHost]:
    """Installed is ``__version__``, and it still is afterwards: for tests of what goes wrong."""
    before = state(shared_host)
    yield shared_host
    assert state(shared_host) == before


def update(host: PrivateHost, *words: str | Path, uid: int = 0) -> Done:
    return host.banger("update", *map(str, words), uid=uid, python=INSTALLED)


def state(host: PrivateHost) -> dict[str, object]:
    """All that an update may change, and whether the daemon answers. Nothing half-made may be there."""
    found = {name: what for name, what in host.snapshot().items() if not name.startswith(("/var/lib/", "/var/cache/", "/run/", f"{LIBRARY}/update.lock"))}
    assert not [name for name in found if ".staging" in name]
    return {**found, "daemon": daemon_version(host)}


def daemon_version(host: PrivateHost) -> str:
    return str(json.loads(host.banger("daemon", "status", "--json", uid=OWNER[1]).out)["version"])


def current(host: PrivateHost) -> str:
    return host.path(f"{LIBRARY}/current").readlink().name


def changed_copy(good: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(good, tmp_path / "changed"))


# -- refused before anything is touched ----------------------------------------------------------------------------------------------------------------


def wheel_of(out: Path) -> Path:
    return next(out.glob("1.0/banger-*.whl"))


def other_key(out: Path, _: Path) -> None:
    sign_again(out, make_key(out.parent / "other"), "manifest.json")


def other_key_for_sums(out: Path, _: Path) -> None:
    sign_again(out, make_key(out.parent / "other"), "1.0/SHA256SUMS")


def no_signature(out: Path, _: Path) -> None:
    (out / "manifest.json.sig").unlink()


def changed_manifest(out: Path, _: Path) -> None:
    (out / "manifest.json").write_bytes((out / "manifest.json").read_bytes() + b" ")


def changed_file(out: Path, _: Path) -> None:
    content = bytearray(wheel_of(out).read_bytes())
    content[1000] ^= 1
    wheel_of(out).write_bytes(content)


def truncated(out: Path, _: Path) -> None:
    os.truncate(wheel_of(out), 1000)


def longer(out: Path, _: Path) -> None:
    wheel_of(out).write_bytes(wheel_of(out).read_bytes() + b"x")


def large_sums(out: Path, key: Path) -> None:
    (out / "1.0/SHA256SUMS").write_bytes(b"0" * 17_000)
    sign_again(out, key, "1.0/SHA256SUMS")


def other_schema(out: Path, key: Path) -> None:
    (out / "manifest.json").write_text('{"schema_version": 7}')
    sign_again(out, key, "manifest.json")


def replace_wheel(out: Path, key: Path, name: str, contents: dict[str, bytes]) -> None:
    """Signed all the same: the one who signs was fooled."""
    text = (out / "manifest.json").read_text()
    manifest = json.loads(text)
    files = manifest["versions"]["1.0"]["files"]
    old = next(one for one in files if one["name"].startswith("click-"))
    (out / "1.0" / old["name"]).unlink()
    made = make_wheel(out / "1.0" / name, contents).read_bytes()
    sums = (out / "1.0/SHA256SUMS").read_text().replace(old["sha256"], hashlib.sha256(made).hexdigest()).replace(old["name"], name)
    pythons = manifest["versions"]["1.0"]["pythons"]
    manifest["versions"]["1.0"]["pythons"] = {python: [name if one == old["name"] else one for one in names] for python, names in pythons.items()}
    old |= {"name": name, "size": len(made), "sha256": hashlib.sha256(made).hexdigest()}
    (out / "manifest.json").write_text(json.dumps(manifest))
    (out / "1.0/SHA256SUMS").write_text(sums)
    sign_again(out, key, "manifest.json", "1.0/SHA256SUMS")


def traversal(out: Path, key: Path) -> None:
    replace_wheel(out, key, "click-99-py3-none-any.whl", {"../../../../../../../../run/evil": b"evil"})


def wrong_tag(out: Path, key: Path) -> None:
    replace_wheel(out, key, "click-99-cp399-cp399-any.whl", {"x.py": b""})


def incomplete(out: Path, key: Path) -> None:
    replace_wheel(out, key, "click-99-py3-none-any.whl", {"x.py": b""})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (other_key, "manifest.json is not signed"),
        (other_key_for_sums, "SHA256SUMS is not signed"),
        (no_signature, "manifest.json.sig is not there"),
        (changed_manifest, "manifest.json is not signed"),
        (changed_file, "is not the file that was signed"),
        (truncated, "ends after 1000 of"),
        (longer, "is longer than"),
        (large_sums, "larger than 16 KiB"),
        (other_schema, "schema 7"),
        (traversal, "a member is named"),
        (wrong_tag, "is not made for Python"),
        (incomplete, "failed with status 1"),
    ],
)
def test_a_bad_release(host: PrivateHost, good: Path, key: Path, tmp_path: Path, change: Callable[[Path, Path], None], message: str) -> None:
    out = changed_copy(good, tmp_path)
    change(out, key)
    host.calls()
    done = update(host, "--from", out)
    assert (done.status, done.out) == (1, "")
    assert message in done.err
    assert host.calls() == []
    assert not host.path("/run/evil").exists()


def test_what_is_refused_at_once(host: PrivateHost, good: Path, key: Path, tmp_path: Path) -> None:
    assert "nothing says where releases are" in update(host).err
    assert "no release 9.9" in update(host, "--from", good, "--to", "9.9").err
    refused = update(host, "--from", tmp_path / "nowhere", uid=OWNER[1])
    assert "only root can do this" in refused.err  # before anything is looked for
    source_tree = host.banger("update", "--from", str(good))
    assert (source_tree.status, "it is a source tree" in source_tree.err) == (2, True)
    older = release(tmp_path / "older/releases", key, "0.0.9")
    assert "is older than" in update(host, "--from", older).err
    later = release(tmp_path / "later/releases", key, "3.0", min_from="2.0")
    assert "first --to 2.0" in update(host, "--from", later).err
    keys = host.path("/etc/banger/release_keys")
    keys.chmod(0o666)
    assert "others may write" in update(host, "--from", good).err
    keys.chmod(0o644)
    held = host.path(f"{LIBRARY}/update.lock").open("a")
    fcntl.flock(held, fcntl.LOCK_EX)
    assert "another update is under way" in update(host, "--from", good).err
    held.close()
    assert host.run("mount", "-o", "remount,ro", "/usr/local").status == 0
    assert "read-only file system" in update(host, "--from", good).err
    assert host.run("mount", "-o", "remount,rw", "/usr/local").status == 0


def test_looking_changes_nothing_and_anybody_may(host: PrivateHost, good: Path) -> None:
    shutil.copytree(good, host.path("/run/homes/releases"))
    looked = update(host, "--check", "--from", "/run/homes/releases", "--json", uid=OWNER[1])
    found = json.loads(looked.out)
    assert (found["current"], found["latest"], found["newer"], found["units_changed"], found["updated"]) == (__version__, "1.0", True, False, False)
    host.path("/etc/banger/config.toml").write_text('release_url = "/run/homes/releases"\n')
    planned = update(host, "--dry-run")
    assert planned.out.splitlines()[0].startswith("download ")
    assert f"switch {LIBRARY}/current from {__version__} to 1.0" in planned.out
    host.path("/etc/banger/config.toml").unlink()
    shutil.rmtree(host.path("/run/homes/releases"))


@contextmanager
def background(host: PrivateHost, *words: str | Path, uid: int = 0) -> Iterator[subprocess.Popen[bytes]]:
    """A program that runs there meanwhile, and has said its first line."""
    enter = ["nsenter", f"--target={host.init}", "--mount", "--net", "--pid", "setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups"]
    environment = {"PATH": "/usr/bin:/bin", "HOME": "/run/homes/ada"}
    with subprocess.Popen([*enter, *words], env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline()
            yield process
        finally:
            os.killpg(process.pid, signal.SIGKILL)


def test_operations_under_way_hold_it_up(host: PrivateHost, good: Path) -> None:
    """A registry that never answers keeps an operation going."""
    silent = "import socket, time; s = socket.create_server(('127.0.0.1', 5000)); print('listening', flush=True); time.sleep(300)"
    with background(host, "/usr/bin/python3", "-c", silent):
        with background(host, *INSTALLED, "image", "pull", "localhost:5000/x:y", uid=OWNER[1]):
            done = update(host, "--from", good)
    assert (done.status, "under way: image.pull" in done.err) == (1, True), done.err
    assert host.banger("system", "restart").status == 0


# -- failing, and back -----------------------------------------------------------------------------------------------------------------------------------


def test_a_daemon_that_does_not_start(host: PrivateHost, key: Path, tmp_path: Path) -> None:
    out = release(tmp_path / "releases", key, "2.0", DYING_DAEMON)
    done = update(host, "--from", out)
    assert done.status == 1
    assert f"banger 2.0 failed, and {__version__} runs again: bangerd.service does not start" in done.err


def test_a_version_that_migrates_and_fails(host: PrivateHost, key: Path, tmp_path: Path) -> None:
    """Its daemon serves, so the database is migrated, but doctor finds something that it did not before."""
    migrations = (SOURCE / "store/migrations.py").read_text().rstrip()
    assert migrations.endswith(")")
    more = migrations[:-1] + '    Migration("future", ("CREATE TABLE future (x INTEGER) STRICT",)),\n)\n'
    doctor = 'import json, sys\nimport click\n\n@click.command()\n@click.option("--json", "j", is_flag=True)\ndef doctor(j):\n'
    doctor += '    print(json.dumps([{"name": "broken", "status": "fail", "detail": "on purpose"}]))\n'
    out = release(tmp_path / "releases", key, "2.0", {"banger/store/migrations.py": more.encode(), "banger/cli/doctor.py": doctor.encode()})
    done = update(host, "--from", out)
    assert done.status == 1
    assert f"banger 2.0 failed, and {__version__} runs again: broken: on purpose" in done.err, done.err
    assert "which migrates the database" in done.err
    assert "is again what it was before" in done.err
    assert sorted(path.name for path in host.path("/var/lib/banger").glob("banger.db.newer-*"))
    assert host.banger("vm", "list", uid=OWNER[1]).status == 0


def test_a_version_that_cannot_use_the_database(host: PrivateHost, key: Path, tmp_path: Path) -> None:
    none = b'"""None."""\nfrom dataclasses import dataclass\n\n@dataclass\nclass Migration:\n    name: str\n    statements: tuple\n\nMIGRATIONS = ()\n'
    out = release(tmp_path / "releases", key, "2.0", {"banger/store/migrations.py": none})
    host.calls()
    done = update(host, "--from", out)
    assert (done.status, "2.0 cannot use the database" in done.err) == (1, True), done.err
    assert host.calls() == []


_MOMENT = '''

def moment(name):
    """Kills the update and what it has started when the time has come."""
    import os, signal
    from pathlib import Path
    wanted = Path("/run/standin/kill-at")
    if wanted.exists() and wanted.read_text() == name:
        wanted.unlink()
        os.kill(os.getppid(), signal.SIGKILL)
        os.kill(os.getpid(), signal.SIGKILL)
'''


def patched(module: str, *changes: tuple[str, str]) -> bytes:
    """A module's text with something put behind lines of it."""
    text = (SOURCE / module).read_text()
    for line, more in changes:
        assert line in text
        text = text.replace(line, line + more)
    return text.encode()


def deadly(number: int) -> dict[str, bytes]:
    """A version that can be killed at any moment of its installation, with units of its own."""
    services = patched(
        "system/services.py",
        ("def wait_ready(uid: int) -> DaemonStatus:\n", "    moment('ready')\n"),
        ("def reload_units() -> None:\n", "    moment('reload')\n"),
    )
    return {
        "banger/system/install.py": patched(
            "system/install.py",
            ("def _make(change: Change) -> Undo:\n", "    services.moment(type(change).__name__ + (change.path.suffix if isinstance(change, File) else ''))\n"),
        ),
        "banger/system/services.py": services + _MOMENT.encode(),
        "banger/system/units.py": patched("system/units.py", ("Documentation=man:banger(1)", f" man:other{number}(1)")),
    }


@pytest.mark.parametrize(("number", "moment"), [*enumerate(("ProgramFiles", "Link", "File.toml", "File.service", "reload", "ready"))])
def test_killed_anywhere_and_run_again(shared_host: PrivateHost, key: Path, tmp_path: Path, number: int, moment: str) -> None:
    """What is current then is complete, its programs can be used, and the next update gets to the end."""
    host, version, before = shared_host, f"0.{number + 2}", current(shared_host)
    out = release(tmp_path / "releases", key, version, deadly(number), units=f"{number:064}")
    host.path("/run/standin/kill-at").write_text(moment)
    killed = update(host, "--from", out)
    assert killed.status in (-9, 137), killed.err
    assert not host.path("/run/standin/kill-at").exists()
    assert current(host) == (before if moment in ("ProgramFiles", "Link") else version)
    for program in ("banger", "bangerd"):
        assert host.run(f"/usr/local/bin/{program}", "--version", uid=OWNER[1]).out.split()[-1] == current(host)
    again = update(host, "--from", out)
    assert again.status == 0, again.err
    assert (current(host), daemon_version(host)) == (version, version)
    assert f"man:other{number}(1)" in host.path("/etc/systemd/system/bangerd.service").read_text()
    assert {before, version} <= {path.name for path in host.path(f"{LIBRARY}/versions").iterdir()}
    assert not host.path(f"{LIBRARY}/update.staging").exists()


def test_over_http_and_once_more(shared_host: PrivateHost, key: Path, tmp_path: Path) -> None:
    """Last, since it leaves another version behind."""
    host = shared_host
    before = current(host)
    units = (SOURCE / "system/units.py").read_text().replace("RestartSec=500ms", "RestartSec=600ms")
    out = release(tmp_path / "releases", key, "1.0", {"banger/system/units.py": units.encode()}, units="12" * 32)
    installed_at = [line for line in host.path("/etc/banger/install.toml").read_text().splitlines() if line.startswith("installed_at")]
    serve = ("/usr/bin/python3", "-u", "-m", "http.server", "--bind", "127.0.0.1", "--directory", out, "8000")
    with background(host, *serve):
        looked = update(host, "--check", "--from", "http://127.0.0.1:8000/")
        assert "banger 1.0 can be installed" in looked.out
        assert "with other units" in looked.out
        done = update(host, "--from", "http://127.0.0.1:8000/")
    assert (done.status, done.out) == (0, f"banger 1.0 is installed (before: {before})\n"), done.err
    assert (current(host), daemon_version(host)) == ("1.0", "1.0")
    assert "RestartSec=600ms" in host.path("/etc/systemd/system/bangerd.service").read_text()
    assert installed_at[0] in host.path("/etc/banger/install.toml").read_text()
    assert 'version = "1.0"' in host.path("/etc/banger/install.toml").read_text()
    assert {path.name for path in host.path(f"{LIBRARY}/versions").iterdir()} == {before, "1.0"}
    for path in host.path(LIBRARY).rglob("*"):
        assert path.lstat().st_uid == 0
        assert path.is_symlink() or not path.lstat().st_mode & 0o022
    again = update(host, "--from", out)
    assert (again.status, again.out) == (0, "banger 1.0 is installed, and nothing had to be changed\n"), again.err
    assert host.banger("system", "uninstall", "--purge", python=INSTALLED).status == 0
    assert not host.path(LIBRARY).exists()
