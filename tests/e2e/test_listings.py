"""What the verbs print: for people, and as JSON."""

from __future__ import annotations

import json

import pytest

from tests.e2e.instance import IMAGE, Instance

pytestmark = pytest.mark.timeout(200)


def test_machines_are_listed(instance: Instance, box: str) -> None:
    assert box in instance.ok("vm", "list")
    assert box in instance.ok("ps")
    assert box in [record["name"] for record in instance.json("ps")]


def test_a_stopped_machine_can_be_left_out(instance: Instance) -> None:
    instance.ok("vm", "create", "--no-start", "--name", "idle")
    try:
        assert "idle" in instance.ok("ps")
        assert "idle" not in instance.ok("ps", "--running")
    finally:
        instance.ok("vm", "delete", "idle")


def test_show_tells_the_truth(instance: Instance, box: str) -> None:
    shown = instance.json("vm", "show", box)
    assert shown["alive"]
    assert shown["record"]["image_name"] == IMAGE
    assert shown["record"]["runtime"]["accelerator"] in ("kvm", "tcg")
    assert shown["record"]["runtime"]["booted"]
    assert shown["guest_kernel"].endswith("-cloud-amd64")
    assert box in instance.ok("vm", "show", box)


def test_logs(instance: Instance, box: str) -> None:
    assert instance.ok("vm", "logs", box).strip()


@pytest.mark.parametrize(
    "words",
    [
        ("vm", "list"),
        ("ps",),
        ("image", "list"),
        ("image", "show", IMAGE),
        ("kernel", "list"),
        ("kernel", "show", "debian-cloud"),
        ("daemon", "status"),
        ("version",),
    ],
    ids=" ".join,
)
def test_every_reading_verb_speaks_json(instance: Instance, words: tuple[str, ...]) -> None:
    assert instance.json(*words) is not None
    assert instance.ok(*words).strip() or words[-1] in ("list", "ps")


def test_changing_verbs_speak_json(instance: Instance) -> None:
    created = instance.json("vm", "create", "--no-start", "--name", "json-box")
    assert (created["name"], created["state"]) == ("json-box", "stopped")
    assert instance.json("vm", "start", "json-box")[0]["result"]["state"] == "running"
    assert instance.json("vm", "restart", "json-box")[0]["result"]["state"] == "running"
    assert instance.json("vm", "stop", "json-box")[0]["result"]["state"] == "stopped"
    assert instance.json("vm", "delete", "json-box")[0]["result"]["name"] == "json-box"


def test_doctor(instance: Instance) -> None:
    """With the daemon: a test guest has run, or why not is told. Everything that a machine needs is there."""
    done = instance.run("doctor", "--json")
    checks = {check["id"]: check for check in json.loads(done.out)}
    assert not [check for check in checks.values() if check["status"] == "fail"], checks
    assert all(check["remedy"] for check in checks.values() if check["status"] == "warn")
    assert done.status == int(any(check["status"] == "warn" for check in checks.values()))
    assert checks["images.default"]["detail"].startswith("debian-bookworm (")
    assert checks["installation.leftovers"]["status"] == "pass"
    assert checks["installation.daemon"]["detail"].startswith("pid ")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shell_completion(instance: Instance, shell: str) -> None:
    assert "banger" in instance.ok("completion", shell)


@pytest.mark.parametrize("words", [(), ("vm",), ("vm", "run"), ("vm", "exec"), ("image",), ("kernel",), ("daemon",), ("doctor",)], ids=" ".join)
def test_help(instance: Instance, words: tuple[str, ...]) -> None:
    assert "Usage" in instance.ok(*words, "--help")
