"""All checks together: deadlines, failures, what the daemon adds, and that nothing is changed."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from banger.doctor.fixes import apply, fixable
from banger.doctor.outcome import Command, Finding, Fix, NewFile, OutputTo, Result, commands, failed, passed, warned
from banger.doctor.run import PROBES, Probe, merged, run_checks, worst
from banger.model.checks import GROUPS, Check, Status
from banger.model.errors import BangerError, Unauthorized
from banger.store import Database
from tests.unit.doctor.grounds import make_ground

CHANGES = (
    "creat,mkdir,mkdirat,unlink,unlinkat,rmdir,rename,renameat,renameat2,link,linkat,symlink,symlinkat,mknod,mknodat,"
    "chmod,fchmod,fchmodat,chown,fchown,lchown,fchownat,truncate,ftruncate,utimensat,setxattr"
)


def check(ident: str, status: Status, detail: str = "", remedy: str = "") -> Check:
    return Check(id=ident, name="a check", status=status, detail=detail, remedy=remedy)


def test_ids_are_unique_and_of_a_group() -> None:
    ids = [probe.id for probe in PROBES]
    assert len(ids) == len(set(ids))
    assert {ident.partition(".")[0] for ident in ids} == set(GROUPS)
    document = (Path(__file__).parents[3] / "docs/doctor.md").read_text()
    assert [ident for ident in ids if f"`{ident}`" not in document] == []


def test_this_host_is_looked_at_and_every_trouble_has_a_remedy(tmp_path: Path) -> None:
    findings = run_checks(replace(make_ground(tmp_path), root=Path("/")))
    assert [finding.check.id for finding in findings] == [probe.id for group in GROUPS for probe in PROBES if probe.id.startswith(f"{group}.")]
    assert [finding for finding in findings if finding.check.status in ("warn", "fail") and not finding.check.remedy] == []
    assert not (tmp_path / "home/state").exists()


def test_a_check_that_crashes_or_hangs_is_a_finding(tmp_path: Path) -> None:
    def crash(_: object) -> Result:
        raise ZeroDivisionError("on purpose")

    def refuse(_: object) -> Result:
        raise BangerError("no", hint="do this")

    def hang(_: object) -> Result:
        threading.Event().wait(30)
        return passed("")

    probes = [Probe(f"host.{word}", word, look) for word, look in (("crash", crash), ("refuse", refuse), ("hang", hang), ("fine", lambda _: passed("yes")))]
    crashed, refused, hung, fine = (finding.check for finding in run_checks(make_ground(tmp_path), probes, look_seconds=0.2))
    assert (crashed.status, "ZeroDivisionError" in crashed.detail) == ("fail", True)
    assert (refused.status, refused.remedy) == ("fail", "do this")
    assert (hung.status, hung.detail) == ("fail", "no answer within 0.2 s")
    assert fine.status == "pass"


def test_what_works_for_the_daemon_works() -> None:
    mine = [Finding(check("virtualisation.kvm", "warn", "you may not", "usermod")), Finding(check("host.memory", "pass"))]
    told = [check("virtualisation.kvm", "pass", "a test guest runs"), check("host.memory", "warn", "less", "stop some")]
    assert [finding.check.detail for finding in merged(mine, told)] == ["a test guest runs", "less"]
    told = [check("virtualisation.kvm", "warn", "slow"), check("installation.leftovers", "warn", "1 scope", "banger gc")]
    kvm, _, leftovers = merged(mine, told)
    assert kvm.check.detail == "you may not"
    assert leftovers.fix == commands("banger gc", who="owner")


@pytest.mark.parametrize(("statuses", "expected"), [([], 0), (["pass", "skip"], 0), (["warn", "pass"], 1), (["warn", "fail"], 2)])
def test_the_worst_is_the_status(statuses: list[Status], expected: int) -> None:
    assert worst(Finding(check(f"host.{number}", status)) for number, status in enumerate(statuses)) == expected


# -- --fix -----------------------------------------------------------------------------------------------------------------------------------------


def test_a_fix_is_the_commands_that_it_shows(tmp_path: Path) -> None:
    ground = make_ground(tmp_path)
    fix = Fix((Command(("mkdir", str(tmp_path / "a b"))), NewFile(tmp_path / "a b/c", "it's\ntwo"), OutputTo(("echo", "x y"), tmp_path / "d")), who="owner")
    apply(ground, fix, lambda step: None)
    made = [(tmp_path / "a b/c").read_text(), (tmp_path / "d").read_text()]
    assert made == ["it's\ntwo\n", "x y\n"]
    for path in (tmp_path / "a b/c", tmp_path / "d"):
        path.unlink()
    (tmp_path / "a b").rmdir()
    subprocess.run(["sh", "-c", fix.text()], check=True, stdout=subprocess.DEVNULL)
    assert [(tmp_path / "a b/c").read_text(), (tmp_path / "d").read_text()] == made


def test_who_may_do_what(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    with pytest.raises(Unauthorized, match="is for other to do"):
        apply(make_ground(tmp_path, uid=os.getuid() + 1, user="other"), commands("true", who="owner"), told.append)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(Unauthorized) as raised:
        apply(make_ground(tmp_path), commands("modprobe tun"), told.append)
    assert (raised.value.hint, told) == ("sudo modprobe tun", [])


def test_a_step_that_fails_says_so(tmp_path: Path) -> None:
    for step in (Command(("false",)), NewFile(tmp_path / "no/where", "x")):
        with pytest.raises(BangerError):
            apply(make_ground(tmp_path), Fix((step,), who="owner"), lambda step: None)


def test_the_same_remedy_is_offered_once() -> None:
    def finding(ident: str, result: Result) -> Finding:
        return Finding(check(ident, result.status), result.fix)

    one, two = failed("no mkfs", commands("apt-get install e2fsprogs")), warned("no resize", commands("apt-get install e2fsprogs"))
    findings = [finding("host.a", one), finding("host.b", two), finding("host.c", failed("by hand", "do it")), finding("host.d", passed(""))]
    assert [one.check.id for one in fixable(findings)] == ["host.a"]


# -- nothing is changed ----------------------------------------------------------------------------------------------------------------------------


def snapshot(top: Path) -> dict[str, tuple[int, int, int, str]]:
    """Every file's mode, owner, time of change and content."""
    found = {}
    for path in (top, *top.rglob("*")):
        info = path.lstat()
        content = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
        found[str(path)] = (info.st_mode, info.st_uid, info.st_mtime_ns, content)
    return found


def test_a_whole_run_writes_nothing(tmp_path: Path) -> None:
    """Seen from outside: no system call of any of its processes changes a file, and the instance's own are the same byte for byte."""
    home = tmp_path / "banger"
    (home / "state").mkdir(parents=True, mode=0o700)
    Database.open(home / "state/banger.db").close()
    (home / "state/bangerd.log").write_text("{}\n")
    before = snapshot(home)
    trace = tmp_path / "trace"
    argv = ["strace", "-f", "-qq", "-o", str(trace), "-e", f"trace={CHANGES},openat,open", sys.executable, "-B", "-m", "banger.cli.main", "doctor", "--json"]
    done = subprocess.run(argv, env={**os.environ, "BANGER_HOME": str(home)}, capture_output=True, text=True)
    assert done.returncode in (0, 1, 2), done.stderr
    assert done.stdout.startswith("["), done.stderr
    assert snapshot(home) == before
    changing = [line for line in trace.read_text().splitlines() if " = -1 " not in line and "resumed" not in line and _changes(line)]
    assert changing == []


def _changes(line: str) -> bool:
    call = line.split(maxsplit=1)[1]
    if call.startswith(("openat(", "open(")):
        writes = any(word in call for word in ("O_WRONLY", "O_RDWR", "O_CREAT", "O_TRUNC"))
        return writes and '"/dev/' not in call and '"/proc/' not in call  # /dev/null, /dev/kvm; a namespace's /proc/self/setgroups
    return call.partition("(")[0] in CHANGES.split(",")
