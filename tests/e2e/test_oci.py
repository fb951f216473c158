"""Container images from a real registry boot and behave as a container user expects; and images go out of this instance and come back."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.conftest import on_disk
from tests.e2e.containers import busybox_tar, push, scratch_tar
from tests.e2e.instance import Instance
from tests.registry import Registry, running_registry

SHELL = {"Cmd": ["sh", "-c", "echo from the command in $PWD for $GREETING"], "Env": ["PATH=/bin", "GREETING=you and me"]}
APP = {"User": "app:www", "WorkingDir": "/srv/work", "Entrypoint": ["echo", "entry"], "Cmd": ["command"], "Env": ["PATH=/bin", "COLOR=red"]}


@pytest.fixture(scope="module")
def registry() -> Iterator[Registry]:
    directory = on_disk("banger-registry-")
    try:
        with running_registry(directory / "registry") as running:
            push(running, directory / "shell", "tiny/shell:latest", busybox_tar(), SHELL)
            push(running, directory / "app", "tiny/app:1.0", busybox_tar({"etc/group": "root:x:0:\nwww:x:33:\n"}), APP)
            push(running, directory / "short", "tiny/short:latest", busybox_tar({"sbin/init": "#!/bin/sh\necho this is all\nexit 3\n"}), SHELL)
            push(running, directory / "scratch", "tiny/scratch:latest", scratch_tar())
            yield running
    finally:
        import shutil

        shutil.rmtree(directory)


@pytest.fixture(autouse=True)
def no_images_left(instance: Instance) -> Iterator[None]:
    """The shared instance keeps only what it had."""
    before = {row["name"] for row in instance.rows("images")}
    yield
    if extra := [row["name"] for row in instance.rows("images") if row["name"] not in before]:
        instance.ok("image", "delete", *extra)


def test_an_image_without_systemd_and_python(instance: Instance, registry: Registry) -> None:
    word = f"{registry.host}/tiny/shell"
    out = instance.ok("vm", "run", "--rm", "--image", word, "--", "sh", "-c", "stat -c %a /tmp; cat /etc/os-release")
    assert out == '1777\nID=tiny\nNAME="busybox alone"\n'
    shown = instance.json("image", "show", word)
    assert (shown["reference"], shown["config"]["command"]) == (f"docker://{word}:latest", SHELL["Cmd"])
    assert shown["manifest_digest"].startswith("sha256:")
    began = time.monotonic()
    again = instance.run("image", "pull", word)
    assert (again.status, again.out.strip()) == (0, shown["name"])
    assert "is up to date" in again.err
    assert time.monotonic() - began < 30, "it was fetched again"
    assert len([row for row in instance.rows("images") if row["id"] == shown["id"]]) == 1


def test_an_init_that_ends_at_once_is_told(instance: Instance, registry: Registry) -> None:
    done = instance.run("vm", "run", "--rm", "--image", f"{registry.host}/tiny/short", "--", "sleep", "60")
    assert done.status == 125
    assert "its init ended with status 3" in done.err
    assert "this is all" in done.err
    assert "Traceback" not in done.err


def test_the_images_command_is_what_runs(instance: Instance, registry: Registry) -> None:
    done = instance.ok("vm", "run", "--rm", "--image", f"{registry.host}/tiny/shell:latest")
    assert done == "from the command in /root for you and me\n"


def test_user_directory_environment_and_entrypoint(instance: Instance, registry: Registry) -> None:
    word = f"{registry.host}/tiny/app:1.0"
    assert instance.ok("vm", "run", "--name", "app", "--image", word, "--", "word") == "entry word\n"
    script = "id -u; id -g; pwd; echo $COLOR; echo $HOME"
    assert instance.ok("vm", "exec", "app", "--", "sh", "-c", script).split() == ["1000", "33", "/srv/work", "red", "/srv"]
    overridden = ("-u", "root", "-w", "/", "-e", "COLOR=blue", "app", "--", "sh", "-c", script)
    assert instance.ok("vm", "exec", *overridden).split() == ["0", "0", "/", "blue", "/root"]
    assert instance.run("vm", "exec", "-w", "/nowhere", "app", "--", "pwd").status == 126
    instance.ok("vm", "delete", "app")
    assert instance.ok("vm", "run", "--rm", "--image", word, "--entrypoint", "wc", "-u", "0", "--", "-c", "/etc/group") == "20 /etc/group\n"


def test_one_static_program_and_nothing_else(instance: Instance, registry: Registry) -> None:
    assert instance.ok("vm", "run", "--rm", "--image", f"{registry.host}/tiny/scratch", "--", "/echo", "hello") == "hello\n"


def test_a_tag_that_moves(instance: Instance, registry: Registry, tmp_path: Path) -> None:
    word = f"{registry.host}/tiny/moving:1"
    push(registry, tmp_path / "one", "tiny/moving:1", busybox_tar({"etc/generation": "one\n"}), {"Env": ["PATH=/bin", "GENERATION=one"]})
    instance.ok("vm", "run", "-d", "--name", "old", "--image", word)
    first = instance.json("image", "show", word)
    push(registry, tmp_path / "two", "tiny/moving:1", busybox_tar({"etc/generation": "two\n"}), {"Env": ["PATH=/bin", "GENERATION=two"]})
    instance.ok("image", "pull", word)
    second = instance.json("image", "show", word)
    assert (second["name"], second["reference"]) == (first["name"], first["reference"])
    assert second["manifest_digest"] != first["manifest_digest"]
    asked = ("sh", "-c", "cat /etc/generation; echo $GENERATION")
    assert instance.ok("vm", "exec", "old", "--", *asked) == "one\none\n"
    instance.ok("vm", "restart", "old")
    assert instance.ok("vm", "exec", "old", "--", *asked) == "one\none\n"
    refused = instance.run("image", "delete", first["id"])
    assert refused.status == 2
    assert "in use by old" in refused.err
    assert instance.json("vm", "show", "old")["record"]["image_name"] == f"{first['name']}.{first['id'][:12]}", "what its image is called now"
    assert instance.ok("vm", "run", "--rm", "--image", first["name"], "--", *asked) == "two\ntwo\n"
    instance.ok("vm", "delete", "old")
    collected = instance.json("image", "gc", "--budget", "100G")
    assert [(one["id"], one["removed"]) for one in collected] == [(first["id"], True)]
    assert instance.json("image", "show", word)["id"] == second["id"]


def test_out_as_a_bundle_and_back(instance: Instance, registry: Registry, tmp_path: Path) -> None:
    word, bundle = f"{registry.host}/tiny/app:1.0", tmp_path / "app.bundle"
    instance.ok("image", "pull", word, "--name", "app-image")
    before = instance.json("image", "show", "app-image")
    instance.ok("image", "export", "app-image", "-o", str(bundle))
    instance.ok("image", "delete", "app-image")
    damaged = tmp_path / "damaged.bundle"
    damaged.write_bytes(bundle.read_bytes()[:-2000])
    assert "damaged" in instance.run("image", "import", str(damaged), "--name", "broken").err
    wrong = instance.run("image", "import", str(bundle), "--name", "wrong", "--sha256", "0" * 64)
    assert (wrong.status, "has digest" in wrong.err) == (2, True)
    instance.ok("image", "import", "-", "--name", "back", stdin=bundle.read_bytes())
    after = instance.json("image", "show", "back")
    assert [after[key] for key in ("digest", "config", "manifest_digest", "size_bytes")] == [
        before[key] for key in ("digest", "config", "manifest_digest", "size_bytes")
    ]
    assert instance.ok("vm", "run", "--rm", "--image", "back", "--", "home") == "entry home\n"
    assert not list((instance.home / "cache/spool").iterdir())


def test_a_tar_of_a_root_file_system(instance: Instance, tmp_path: Path) -> None:
    tar = tmp_path / "rootfs.tar"
    tar.write_bytes(busybox_tar({"etc/generation": "tar one\n"}))
    assert instance.ok("vm", "run", "--rm", "--image", str(tar), "--", "cat", "/etc/generation") == "tar one\n"
    name = instance.json("image", "show", str(tar))["name"]
    assert name == "rootfs"
    tar.write_bytes(busybox_tar({"etc/generation": "tar two\n"}))
    assert instance.json("image", "pull", str(tar))["name"] == name
    rootfs = Path(instance.json("image", "show", name)["path"], "rootfs.ext4")
    mine = tmp_path / "mine.ext4"
    mine.write_bytes(rootfs.read_bytes())
    instance.ok("image", "register", "--name", "mine", "--rootfs", str(mine))
    assert instance.json("image", "show", "mine")["managed"] is False
    instance.ok("image", "promote", "mine")
    mine.unlink()
    assert instance.ok("vm", "run", "--rm", "--image", "mine", "--", "cat", "/etc/generation") == "tar two\n"


@pytest.mark.timeout(500)
def test_a_recipe_of_ones_own(instance: Instance, tmp_path: Path) -> None:
    recipe = tmp_path / "small.toml"
    recipe.write_text('suite = "trixie"\npackages = ["busybox-static"]\n[files]\n"/etc/motto" = "mine\\n"\n')
    instance.ok("image", "build", str(recipe), timeout=400)
    assert instance.ok("vm", "run", "--rm", "--image", "small", "--", "cat", "/etc/motto", "/etc/debian_version").startswith("mine\n13")


def test_refusals(instance: Instance, registry: Registry, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("not an image at all\n" * 200)
    for words, message in (
        (("pull", "tinyy"), "no image 'tinyy'"),
        (("pull", f"{registry.host}/tiny/none"), "tiny/none"),
        (("pull", str(tmp_path / "absent.tar")), "there is no file"),
        (("pull", "https://127.0.0.1:1/x.bundle"), "needs its digest"),
        (("import", str(tmp_path / "text.txt"), "--name", "text"), "neither a tar"),
        (("register", "--name", "text", "--rootfs", str(tmp_path / "text.txt")), "not an ext4"),
        (("export", "debian-bookworm", "-o", str(tmp_path / "no/where")), "does not exist"),
        (("promote", "debian-bookworm"), "own already"),
    ):
        done = instance.run("image", *words)
        assert done.status in (1, 2), words
        assert message in done.err
        assert "Traceback" not in done.err
    assert json.loads(instance.ok("image", "cache", "prune", "--dry-run", "--json"))["removed"] is False
