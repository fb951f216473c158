"""Checks of what making images takes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from banger.doctor import images
from banger.image import namespace
from banger.model.config import Config
from banger.model.errors import BangerError
from banger.model.records import ImageRecord
from banger.store import Database, ImageTable
from tests.unit.doctor.grounds import make_ground, put

ADA = {"uid": 4242, "user": "ada"}


def test_switches_of_the_kernel(tmp_path: Path) -> None:
    assert images.switches(make_ground(tmp_path, uid=0)).status == "skip"
    ada = make_ground(tmp_path, **ADA)
    assert images.switches(ada).status == "pass"
    put(ada, "/proc/sys/kernel/apparmor_restrict_unprivileged_userns", "1\n")
    found = images.switches(ada)
    assert (found.status, "AppArmor" in found.detail, found.remedy) == ("fail", True, "sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0")
    put(ada, "/proc/sys/user/max_user_namespaces", "0\n")
    assert "user.max_user_namespaces=15000 && " in images.switches(ada).remedy


def test_subordinate_ids(tmp_path: Path) -> None:
    ada = make_ground(tmp_path, **ADA)
    put(ada, "/etc/subuid", "bob:100000:65536\nada:165536:1000\n")
    found = images.subordinate_ids(ada)
    assert (found.status, found.remedy) == ("fail", "sudo usermod --add-subuids 166536-232071 --add-subgids 166536-232071 ada")
    put(ada, "/etc/subuid", "4242:165536:65536\n")
    put(ada, "/etc/subgid", "ada:165536:65536\n")
    assert images.subordinate_ids(ada).status == "pass"


def test_namespaces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def refused() -> None:
        raise BangerError("no namespaces", hint="sudo sysctl ...")

    assert images.namespaces(make_ground(tmp_path, uid=os.geteuid() + 1)).status == "skip"
    monkeypatch.setattr(namespace, "check", refused)
    ground = make_ground(tmp_path)
    assert (images.namespaces(ground).status, images.namespaces(ground).remedy) == ("fail", "sudo sysctl ...")
    database = Database.open(_private(ground.layout.database))
    record: dict[str, Any] = {"source": "s", "path": "/i", "digest": "sha256:0", "size_bytes": 1, "kernel_name": "k", "created_at": 1.0}
    ImageTable(database).insert(ImageRecord(id="i", name="debian-bookworm", **record))
    database.close()
    assert images.namespaces(ground).status == "warn", "what is here can be run without"
    assert images.default_image(ground).detail == "debian-bookworm is here"


def _private(path: Path) -> Path:
    path.parent.mkdir(parents=True, mode=0o700)
    return path


def test_the_default_image(tmp_path: Path) -> None:
    assert "first use" in images.default_image(make_ground(tmp_path)).detail
    unknown = images.default_image(make_ground(tmp_path, config=Config(default_image_name="nonsense")))
    assert (unknown.status, "default_image_name" in unknown.remedy) == ("fail", True)
    ground = make_ground(tmp_path)
    catalog = ground.layout.catalogs[-1] / "mine.toml"
    catalog.parent.mkdir(parents=True)
    catalog.write_text("[nonsense]\n")
    assert images.default_image(ground).status == "fail", "a mistake in a catalog"
