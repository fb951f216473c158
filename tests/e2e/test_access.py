"""Ways into a machine: OpenSSH's programs through the generated configuration, published ports, forwards; what the host sends along."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.e2e.instance import Done, Instance, clean_environment, wait_until

pytestmark = pytest.mark.timeout(300)

SERVER = """
import http.server, socketserver
class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address, request_queue_size, daemon_threads = True, 256, True
class Hello(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        body = self.path.encode() * 1000
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *_):
        pass
Server(("127.0.0.1", 80), Hello).serve_forever()
"""
UNIT = """
[Service]
ExecStart=/usr/bin/python3 /usr/local/bin/web.py
[Install]
WantedBy=multi-user.target
"""


@pytest.fixture(scope="module", autouse=True)
def host_files(instance: Instance) -> Iterator[None]:
    """What the user has on the host, before the machine of this module starts."""
    instance.stop_daemon()
    config, identity = instance.home / "config/config.toml", instance.home / ".gitconfig"
    config.parent.mkdir(mode=0o700, exist_ok=True)
    config.write_text('[[file_sync]]\nhost = "~/synced"\nguest = "~/there"\nmode = "0640"\n')
    (instance.home / "synced").write_text("first")
    identity.write_text("[user]\n\tname = Zoë Test\n\temail = z@example.org\n")
    yield
    instance.stop_daemon()
    for path in (config, identity, instance.home / "synced"):
        path.unlink()


@pytest.fixture(scope="module")
def port(instance: Instance, box: str) -> int:
    """A port of this host that leads to a web server in the machine, published while it runs."""
    for path, text in (("/usr/local/bin/web.py", SERVER), ("/etc/systemd/system/web.service", UNIT)):
        instance.ok("vm", "exec", box, "-i", "--", "tee", path, stdin=text.encode())
    instance.ok("vm", "exec", box, "--", "systemctl", "enable", "--now", "web.service")
    with socket.create_server(("127.0.0.1", 0)) as free:
        chosen: int = free.getsockname()[1]
    instance.ok("vm", "set", box, "--publish", f"{chosen}:80")
    return chosen


def run(instance: Instance, *words: str | Path, stdin: bytes | None = None) -> Done:
    """A program of the user's, without anything that says which banger is meant."""
    done = subprocess.run(words, input=stdin, capture_output=True, env=clean_environment(), timeout=120)
    return Done(done.returncode, done.stdout, done.stderr.decode(errors="replace"))


def config(instance: Instance) -> str:
    return str(instance.json("ssh-config")["config"])


def ok(done: Done) -> str:
    assert done.status == 0, done.err
    return done.out


def get(port: int, path: str = "/x") -> bytes:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request("GET", path)
        return connection.getresponse().read()
    finally:
        connection.close()


def serves(port: int) -> bool:
    try:
        return get(port) == b"/x" * 1000
    except (OSError, http.client.HTTPException):
        return False


# -- ssh ---------------------------------------------------------------------------------------------------------------------------------------------


def test_status_and_words_are_verbatim(instance: Instance, box: str) -> None:
    assert instance.run("vm", "ssh", box, "--", "sh", "-c", "exit 42").status == 42
    done = instance.run("vm", "ssh", box, "--", "printf", "%s|", "a b", "$HOME", "it's", stdin=b"")
    assert (done.status, done.out) == (0, "a b|$HOME|it's|")
    assert instance.run("vm", "ssh", f"{box}.vm", "--", "cat", stdin=b"\0through\n").raw == b"\0through\n"


def test_ssh_by_itself(instance: Instance, box: str) -> None:
    assert ok(run(instance, "ssh", "-F", config(instance), f"{box}.vm", "hostname")).strip() == box
    # once more from the user's own configuration, as `ssh-config --install` leaves it
    own = instance.home / ".ssh/config"
    own.parent.mkdir(mode=0o700)
    own.write_text("Host *\n  User nobody\n  Port 1\n")
    before = own.read_bytes()
    instance.ok("ssh-config", "--install")
    instance.ok("ssh-config", "--install")
    assert instance.json("ssh-config")["installed"]
    assert ok(run(instance, "ssh", "-F", own, f"{box}.vm", "hostname")).strip() == box
    instance.ok("ssh-config", "--uninstall")
    assert own.read_bytes() == before
    own.unlink()
    own.parent.rmdir()


def test_copies(instance: Instance, box: str, tmp_path: Path) -> None:
    content = os.urandom(300_000)
    (tmp_path / "file").write_bytes(content)
    options = ("-F", config(instance))
    ok(run(instance, "scp", "-q", *options, tmp_path / "file", f"{box}.vm:/root/by-scp"))
    ok(run(instance, "sftp", "-q", *options, "-b", "-", f"{box}.vm", stdin=f"put {tmp_path}/file by-sftp\nget by-scp {tmp_path}/back\n".encode()))
    assert (tmp_path / "back").read_bytes() == content
    sums = ok(run(instance, "ssh", *options, f"{box}.vm", "sha256sum", "by-scp", "by-sftp")).split()
    assert sums[0] == sums[2]


def test_rsync(instance: Instance, box: str, tmp_path: Path) -> None:
    """The image has no rsync of its own: this host's goes in with its libraries and their loader."""
    program = tmp_path / "program"
    program.mkdir()
    listed = subprocess.run(["ldd", "/usr/bin/rsync"], capture_output=True, text=True, check=True).stdout
    for path in ("/usr/bin/rsync", *(word for word in listed.split() if word.startswith("/"))):
        (program / Path(path).name).write_bytes(Path(path).read_bytes())
        (program / Path(path).name).chmod(0o755)
    ok(run(instance, "scp", "-rq", "-F", config(instance), program, f"{box}.vm:/root/rs"))
    (loader,) = (path.name for path in program.glob("ld-linux*"))
    tree = tmp_path / "tree"
    (tree / "a b").mkdir(parents=True)
    (tree / "a b/c").write_bytes(b"content")
    there = f"--rsync-path=/root/rs/{loader} --library-path /root/rs /root/rs/rsync"
    ok(run(instance, "rsync", "-a", "-e", f"ssh -F {config(instance)}", there, f"{tree}/", f"{box}.vm:/root/tree/"))
    assert instance.ok("vm", "exec", box, "--", "cat", "/root/tree/a b/c") == "content"


def test_git(instance: Instance, box: str, tmp_path: Path) -> None:
    make = "git init -q made && cd made && git commit -q --allow-empty -m first && git log -1 --format='%an <%ae>'"
    assert instance.ok("vm", "exec", box, "--", "sh", "-c", make).strip() == "Zoë Test <z@example.org>"
    git = ("git", "-c", f"core.sshCommand=ssh -F {config(instance)}")
    ok(run(instance, *git, "clone", "-q", f"{box}.vm:/root/made", tmp_path / "clone"))
    assert ok(run(instance, "git", "-C", tmp_path / "clone", "log", "--format=%s")).strip() == "first"


def test_another_host_key_is_refused(instance: Instance, box: str, tmp_path: Path) -> None:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / "other"], check=True)
    public = " ".join((tmp_path / "other.pub").read_text().split()[:2])
    for pins in (f"{box}.vm {public}\n", ""):
        (tmp_path / "pins").write_text(pins)
        done = run(instance, "ssh", "-F", config(instance), "-o", f"UserKnownHostsFile={tmp_path}/pins", f"{box}.vm", "touch", "/root/intruder")
        assert done.status == 255 and "Host key verification failed" in done.err
        assert (tmp_path / "pins").read_text() == pins
    assert instance.run("vm", "exec", box, "--", "test", "-e", "/root/intruder").status == 1


def test_only_the_key_gets_in(instance: Instance, box: str, tmp_path: Path) -> None:
    done = run(
        instance, "ssh", "-F", config(instance), "-o", f"IdentityFile={tmp_path}/none", "-o", "IdentitiesOnly=yes", "-i", "/dev/null", f"{box}.vm", "true"
    )
    assert done.status == 0  # the configuration's own key is still offered
    lines = [line for line in Path(config(instance)).read_text().splitlines() if "IdentityFile" not in line]
    (tmp_path / "config").write_text("\n".join([*lines, f"    IdentityFile {tmp_path}/none", ""]))
    done = run(instance, "ssh", "-F", tmp_path / "config", f"{box}.vm", "true")
    assert done.status == 255 and "Permission denied (publickey)" in done.err


def test_nobodys_own_keys_are_touched(instance: Instance, box: str) -> None:
    listed = instance.ok("vm", "exec", box, "--", "sh", "-c", "ls -A /root/.ssh 2>/dev/null; sshd -T | grep -i '^strictmodes\\|^authorizedkeysfile'")
    assert listed.splitlines() == ["strictmodes yes", "authorizedkeysfile .ssh/authorized_keys /etc/ssh/banger_authorized_keys"]
    assert not (instance.home / ".ssh").exists()


def test_without_an_ssh_server(instance: Instance, box: str) -> None:
    instance.ok("vm", "exec", box, "--", "systemctl", "stop", "ssh.socket", "ssh.service")
    try:
        done = instance.run("vm", "ssh", box, "--", "true")
        assert done.status == 255
        assert f"{box} is up and nothing listens on port 22" in done.err and f"banger vm shell {box}" in done.err and f"banger vm logs {box}" in done.err
    finally:
        instance.ok("vm", "exec", box, "--", "systemctl", "start", "ssh.socket")
    assert instance.run("vm", "ssh", box, "--", "true").status == 0


# -- ports -------------------------------------------------------------------------------------------------------------------------------------------


def test_a_published_port(instance: Instance, box: str, port: int) -> None:
    wait_until(lambda: serves(port), "the web server answers")
    shown = [one for one in instance.json("vm", "ports", box)[0]["result"]["ports"] if one["port"] == 80]
    assert [one["endpoint"] for one in shown] == [f"127.0.0.1:{port}"]
    assert f"127.0.0.1:{port} -> 80" in instance.ok("vm", "show", box)
    listening = subprocess.run(["ss", "-Hltn", f"sport = :{port}"], capture_output=True, text=True, check=True).stdout
    assert [line.split()[3] for line in listening.splitlines()] == [f"127.0.0.1:{port}"]  # loopback alone


def test_a_hundred_at_once(box: str, port: int) -> None:
    wait_until(lambda: serves(port), "the web server answers")
    with ThreadPoolExecutor(100) as pool:
        answers = list(pool.map(lambda number: get(port, f"/{number}"), range(100)))
    assert answers == [f"/{number}".encode() * 1000 for number in range(100)]


def test_a_port_that_is_taken(instance: Instance, box: str, port: int) -> None:
    done = instance.run("vm", "create", "--name", "unlucky", "--publish", f"{port}:80")
    assert done.status == 1 and f"port 127.0.0.1:{port} of this host is taken" in done.err
    assert [row["name"] for row in instance.rows("vms")] == [box]
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = other.getsockname()[1]
        before = instance.json("vm", "show", box)["record"]
        assert "is taken" in instance.run("vm", "set", box, "--publish", f"{taken}:80").err
        assert instance.json("vm", "show", box)["record"] == before
    assert serves(port)
    for status, *words in ((2, "--publish", "80"), (2, "--publish", "70000:80"), (2, "--unpublish", "9"), (2, "--publish", f"{port}:81")):
        assert instance.run("vm", "set", box, *words).status == status, words


def test_a_port_to_nobody(instance: Instance, box: str) -> None:
    with instance.started("vm", "forward", box, "0:9") as process:
        assert process.stdout is not None
        endpoint = process.stdout.readline().decode().split()[0]
        with socket.create_connection(("127.0.0.1", int(endpoint.rpartition(":")[2])), timeout=30) as sock:
            with contextlib.suppress(ConnectionResetError):
                assert sock.recv(1) == b""


def test_forwards_live_with_their_holder(instance: Instance, box: str, port: int) -> None:
    with instance.started("vm", "forward", box, "0:80", "[::1]:0:22", "--json") as process:
        assert process.stdout is not None
        web, ssh = json.loads(process.stdout.readline())
        wait_until(lambda: serves(web["host_port"]), "the forward serves")
        with socket.create_connection(("::1", ssh["host_port"]), timeout=30) as sock:
            assert sock.recv(4) == b"SSH-"
        process.send_signal(signal.SIGKILL)
    wait_until(lambda: not serves(web["host_port"]), "the forward has gone with its holder")
    assert serves(port)


def test_connect_passes_each_end_on(instance: Instance, box: str) -> None:
    done = instance.run("vm", "connect", box, "80", stdin=b"GET /y HTTP/1.0\r\n\r\n")
    assert done.status == 0 and done.raw.endswith(b"/y" * 1000)
    assert instance.run("vm", "connect", box, "/run/nobody").status == 1
    assert instance.run("vm", "connect", box, "nonsense").status == 2


def test_all_of_it_survives_the_daemon_and_a_restart(instance: Instance, box: str, port: int) -> None:
    pins = (instance.state / "ssh/known_hosts").read_text()
    pid = instance.daemon_pid()
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    instance.ok("vm", "list")
    wait_until(lambda: serves(port), "the port is open again")
    assert instance.run("vm", "ssh", box, "--", "true").status == 0

    assert instance.ok("vm", "exec", box, "--", "sh", "-c", "cat there; echo; stat -c %a there; git config --global core.editor vi").split() == ["first", "640"]
    (instance.home / "synced").write_text("second")
    instance.ok("vm", "stop", box)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port)).close()
    done = instance.run("vm", "ssh", box, "--", "true")
    assert done.status == 125 and f"banger vm start {box}" in done.err
    assert "(while it runs)" in instance.ok("vm", "show", box)

    instance.ok("vm", "start", box)
    assert instance.run("vm", "ssh", box, "--", "sh", "-c", "exit 7").status == 7  # while it boots: it waits for sshd
    wait_until(lambda: serves(port), "the port serves again", 60)
    assert (instance.state / "ssh/known_hosts").read_text() == pins
    assert instance.ok("vm", "exec", box, "--", "sh", "-c", "cat there; echo; git config --global core.editor; git config --global user.name").split() == [
        "second", "vi", "Zoë", "Test",
    ]  # fmt: skip


def test_a_port_taken_while_no_daemon_ran(instance: Instance, box: str, port: int) -> None:
    instance.stop_daemon()
    with socket.create_server(("127.0.0.1", port)):
        shown = instance.json("vm", "show", box)["published"]
        assert [(one["open"], "is taken" in one["error"]) for one in shown] == [(False, True)]
        assert "not open: port" in instance.ok("vm", "show", box)
    assert any(row["operation"] == "vm.publish" and "is taken" in row["message"] for row in instance.rows("events"))
    instance.ok("vm", "set", box, "--unpublish", str(port))
    assert instance.json("vm", "show", box)["published"] == []
