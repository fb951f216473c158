"""Bad input: one clear line (what happened, what to do, op id), a status that is not 0, and nothing left behind (the oracle looks after each test)."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator

import pytest

from tests import oracle
from tests.e2e.instance import BIN, Done, Instance

pytestmark = pytest.mark.timeout(120)


def check_refusal(done: Done, status: int, *words: str) -> None:
    assert done.status == status, (done.status, done.err)
    assert done.raw == b""
    assert "Traceback" not in done.err
    told = [line for line in done.err.splitlines() if not line.startswith(("spec:", "banger: auto_pull_image"))]
    assert told[0].startswith("banger: "), done.err
    assert len(told) <= 3, done.err  # what happened, what to do, op id
    assert re.search(r"\bop-[0-9a-f]{12}\b", done.err), done.err
    for word in words:
        assert word in done.err, done.err


SPECS = [
    (("--image", "no-such-image"), ("no-such-image",)),
    (("--image", "debian-bokworm"), ("debian-bookworm",)),
    (("--image", "../../etc"), ("/etc", "oci:DIR")),
    (("--name", "Bad_Name"), ("Bad_Name", "a-z")),
    (("--name", "-x"), ("a-z",)),
    (("--name", "a" * 64), ("63",)),
    (("--vcpu", "0"), ("vcpu",)),
    (("--vcpu", "65"), ("64",)),
    (("--memory", "1M"), ("memory", "128M")),
    (("--memory", "lots"), ("size",)),
    (("--disk-size", "1M"), ("disk-size", "64M")),
    (("--disk-size", "0"), ("disk-size",)),
    (("--disk-size", "1P"), ("disk-size",)),
    (("--system-overlay-size", "1M"), ("system-overlay-size", "64M")),
]


@pytest.mark.parametrize(("words", "told"), SPECS, ids=" ".join)
def test_run_refuses(instance: Instance, words: tuple[str, ...], told: tuple[str, ...]) -> None:
    check_refusal(instance.run("vm", "run", "--rm", *words, "--", "true"), 125, *told)
    assert oracle.leftovers(instance) == []


@pytest.mark.parametrize(("words", "told"), SPECS, ids=" ".join)
def test_create_refuses(instance: Instance, words: tuple[str, ...], told: tuple[str, ...]) -> None:
    done = instance.run("vm", "create", "--no-start", *words)
    check_refusal(done, 1 if words[1].startswith(("no-such", "debian", "..")) else 2, *told)
    assert oracle.leftovers(instance) == []


@pytest.mark.parametrize("words", [("-d", "--rm"), ("-d", "--", "true"), ("--detach", "--rm", "--", "true")])
def test_detach_excludes_rm_and_a_command(instance: Instance, words: tuple[str, ...]) -> None:
    done = instance.run("vm", "run", *words)
    assert done.status == 125
    assert "Traceback" not in done.err
    assert "-d" in done.err
    assert oracle.leftovers(instance) == []


def test_a_name_that_exists(instance: Instance) -> None:
    instance.ok("vm", "create", "--no-start", "--name", "taken")
    try:
        check_refusal(instance.run("vm", "create", "--no-start", "--name", "taken"), 1, "taken", "exists")
        check_refusal(instance.run("vm", "run", "--rm", "--name", "taken", "--", "true"), 125, "taken", "exists")
        assert len(instance.rows("vms")) == 1
    finally:
        instance.ok("vm", "delete", "taken")


@pytest.fixture
def crowd(instance: Instance) -> Iterator[list[str]]:
    """Ids of so many machines that two begin with the same digit."""
    ids = [instance.json("vm", "create", "--no-start", "--disk-size", "64M", "--system-overlay-size", "64M")["id"] for _ in range(17)]
    yield ids
    for vm_id in ids:
        instance.ok("vm", "delete", vm_id)


def test_references(instance: Instance, crowd: list[str]) -> None:
    first_digits = [vm_id[0] for vm_id in crowd]
    shared = next(digit for digit in first_digits if first_digits.count(digit) > 1)
    check_refusal(instance.run("vm", "show", shared), 2, shared, "ambiguous")
    assert instance.json("vm", "show", crowd[0][:12])["record"]["id"] == crowd[0]
    assert instance.json("vm", "show", crowd[0])["record"]["id"] == crowd[0]
    assert len(instance.json("vm", "list")) == 17


@pytest.mark.parametrize("verb", ["show", "start", "stop", "restart", "kill", "delete", "logs"])
def test_a_machine_that_is_not_there(instance: Instance, verb: str) -> None:
    check_refusal(instance.run("vm", verb, "nobody"), 1, "nobody")


@pytest.mark.parametrize(("noun", "verb"), [("image", "show"), ("image", "pull"), ("image", "delete"), ("kernel", "show")])
def test_an_artifact_that_is_not_there(instance: Instance, noun: str, verb: str) -> None:
    check_refusal(instance.run(noun, verb, "nothing"), 1, "nothing")


@pytest.mark.parametrize("words", [("vm", "frobnicate"), ("vm", "list", "--nonsense"), ("vm", "show"), ("nonsense",)])
def test_wrong_words(instance: Instance, words: tuple[str, ...]) -> None:
    done = instance.run(*words)
    assert done.status == 2
    assert "Traceback" not in done.err


@pytest.fixture
def without_qemu(sibling: Instance) -> Instance:
    """An instance on a host where QEMU is not installed: the program is hidden in a mount namespace."""
    hide = 'mount --bind /dev/null /usr/bin/qemu-system-x86_64 && exec "$@"'
    namespace = ("unshare", "--mount") if os.getuid() == 0 else ("unshare", "--user", "--map-root-user", "--mount")
    sibling.program = (*namespace, "sh", "-c", hide, "sh", str(BIN / "banger"))
    return sibling


def test_no_qemu(without_qemu: Instance) -> None:
    check_refusal(without_qemu.run("vm", "run", "--rm", "--", "true"), 125, "qemu-system-x86_64 is not installed", "apt-get install qemu-system-x86")
    assert oracle.leftovers(without_qemu) == []


def test_doctor_names_the_missing_package(without_qemu: Instance) -> None:
    done = without_qemu.run("doctor")
    assert done.status == 2
    assert "qemu-system-x86" in done.out
