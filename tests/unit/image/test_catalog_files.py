"""Catalogs beside the embedded one, and recipes of users: read, merged, refused with file and key."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from banger.image.catalog import embedded
from banger.image.catalog_files import MAX_BYTES, CatalogFiles, read, read_recipe
from banger.model.errors import BadRequest

DIGEST = "sha256:" + "0" * 64


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_without_files_it_is_the_embedded_one(tmp_path: Path) -> None:
    assert CatalogFiles((tmp_path / "nothing",)).read() is embedded()


def test_later_directories_win_and_changes_are_seen(tmp_path: Path) -> None:
    files = CatalogFiles((tmp_path / "etc", tmp_path / "user"))
    write(tmp_path / "etc/a.toml", '[images.dev]\nreference = "docker://ghcr.io/acme/dev:1"\n[images.alpine]\nreference = "docker://mirror/alpine:3"\n')
    mine = write(tmp_path / "user/a.toml", f'[images.dev]\nbundle = "https://acme.example/dev.tar.zst"\ndigest = "{DIGEST}"\nsize_bytes = 9\n')
    catalog = files.read()
    assert files.read() is catalog
    assert (catalog.entries["dev"].bundle, catalog.entries["dev"].size_bytes) == ("https://acme.example/dev.tar.zst", 9)
    assert catalog.entries["alpine"].reference == "docker://mirror/alpine:3"
    assert {image.name: image.source for image in catalog.images()}["debian-trixie"] == "recipe"
    mine.unlink()
    assert files.read().entries["dev"].reference == "docker://ghcr.io/acme/dev:1"


@pytest.mark.parametrize("kind", ["fifo", "zeros", "dangling"])
def test_what_is_no_file_is_refused_at_once(tmp_path: Path, kind: str) -> None:
    odd = tmp_path / "odd.toml"
    if kind == "fifo":
        os.mkfifo(odd)
    else:
        odd.symlink_to("/dev/zero" if kind == "zeros" else "/nowhere")
    with pytest.raises(BadRequest, match=f"{odd} cannot be read"):
        CatalogFiles((tmp_path,)).read()


def test_a_file_that_hangs_is_waited_for_no_longer_than_the_deadline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = threading.Event()
    files = CatalogFiles((tmp_path,), deadline=0.05)
    monkeypatch.setattr(files, "_look", lambda: gate.wait(30) and embedded())
    threads = threading.active_count()
    for _ in range(3):
        with pytest.raises(BadRequest, match="does not answer"):
            files.read()
    assert threading.active_count() == threads + 1, "one thread hangs, not one for each who asks"
    reading = files._reading
    gate.set()
    assert reading is not None and reading.result(10) is embedded()
    assert CatalogFiles((tmp_path,)).read() is embedded()


def test_a_recipe_may_take_the_name_of_a_container_image(tmp_path: Path) -> None:
    write(tmp_path / "a.toml", '[recipes.alpine]\nsuite = "trixie"\npackages = ["busybox"]\n')
    catalog = CatalogFiles((tmp_path,)).read()
    assert "alpine" in catalog.recipes and "alpine" not in catalog.entries


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("[imagse.x]\n", "unknown key imagse", "did you mean images?"),
        ('[images.x]\nreferense = "a"\n', "images.x: unknown key referense", "did you mean reference?"),
        ("[images.x]\n", "images.x needs either `reference` or `bundle`", ""),
        ('[images.x]\nbundle = "https://a/b"\n', "images.x: a bundle needs a digest", ""),
        ("[images.x]\nreference = 3\n", "images.x: Expected `str`, got `int` - at `$.reference`", ""),
        ("[images]\nx = 3\n", "images.x is not a table", ""),
        ("images = 3\n", "unknown key images", ""),
        ('[recipes.x]\nsuite = "bookworm"\n', "recipes.x: Object missing required field `packages`", ""),
        ('[recipes.x]\nsuite = "wheezy"\npackages = []\n', "recipes.x: unknown suite 'wheezy'", "one of: bookworm, trixie"),
        ('[recipes.x]\nsuite = "trixie"\npackages = []\ndistribution = "d"\n', "recipes.x: unknown distribution 'd'", ""),
        ('[recipes.x]\nsuite = "trixie"\npackages = []\nfiles = { "etc/x" = "" }\n', "'etc/x' is not an absolute path", ""),
        ('["images"."../x"]\nreference = "a"\n', ".toml: images.../x: bad image name", ""),
        ('[images.x]\nreference = "docker://A"\n', ".toml: images.x: 'docker://A' is not an image reference", ""),
        ('[images.x]\nreference = "file:///etc/shadow"\n', "images.x: 'file:///etc/shadow' is not an image reference", ""),
        ('[images.x]\nbundle = "http://a/b"\ndigest = "sha256:1"\n', "images.x: 'http://a/b' is not an https URL", ""),
        ('[images.x]\nreference = "docker://a"\ndigest = "sha256:1"\n', "images.x: 'sha256:1' is not a digest", ""),
        ('[recipes.x]\nsuite = "trixie"\npackages = []\nfiles = { "/../../x" = "" }\n', "'/../../x' has a `..` in it", ""),
        ('[recipes.x]\nsuite = "trixie"\npackages = []\nremove = ["/a/../../x"]\n', "'/a/../../x' has a `..` in it", ""),
        ("[images\n", "is not TOML", ""),
    ],
)
def test_a_mistake_is_told_with_its_file_and_key(tmp_path: Path, text: str, message: str, hint: str) -> None:
    file = write(tmp_path / "mine.toml", text)
    with pytest.raises(BadRequest) as caught:
        CatalogFiles((tmp_path,)).read()
    assert message in caught.value.message
    assert str(file) in caught.value.message
    assert hint in caught.value.hint


def test_a_file_that_is_too_large(tmp_path: Path) -> None:
    file = write(tmp_path / "large.toml", "")
    os.truncate(file, MAX_BYTES + 1)
    with pytest.raises(BadRequest, match="larger than"):
        read([file])


def test_a_users_recipe_is_completed_by_its_distribution(tmp_path: Path) -> None:
    file = write(
        tmp_path / "web.toml",
        'suite = "trixie"\npackages = ["systemd", "nginx"]\nkernel = "k"\n'
        '[files]\n"/etc/hosts" = "mine"\n"/etc/localtime" = "x"\n[links]\n"/etc/fstab" = "/x"\n',
    )
    recipe = read_recipe(file, "web", embedded().distributions)
    assert (recipe.name, recipe.suite, recipe.packages, recipe.kernel) == ("web", "trixie", ("systemd", "nginx"), "k")
    assert recipe.files["/etc/hosts"] == "mine"
    assert recipe.files["/etc/hostname"] == "localhost\n"
    assert "/etc/localtime" not in recipe.links and recipe.links["/etc/fstab"] == "/x" and "/etc/fstab" not in recipe.files
    assert "/var/lib/apt/lists/*" in recipe.remove
