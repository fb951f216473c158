"""The embedded catalog and the error for names it lacks."""

from __future__ import annotations

from banger.image.catalog import embedded, unknown
from banger.model.limits import DEFAULT_IMAGE
from banger.model.names import check_artifact_name


def test_every_entry_is_complete() -> None:
    catalog = embedded()
    assert DEFAULT_IMAGE in catalog.recipes
    for name, recipe in catalog.recipes.items():
        assert check_artifact_name(name) == recipe.name == name
        assert recipe.kernel in catalog.kernels
        assert recipe.distribution in catalog.distributions
        assert all(path.startswith("/") for path in (*recipe.remove, *recipe.links, *recipe.files))
        assert not set(recipe.links) & set(recipe.files)
    for name, kernel in catalog.kernels.items():
        assert check_artifact_name(name, "kernel") == kernel.name == name
        assert kernel.distribution in catalog.distributions


def test_default_image_has_what_the_first_shell_needs() -> None:
    recipe = embedded().recipes[DEFAULT_IMAGE]
    wanted = "systemd dbus udev openssh-server git curl ca-certificates python3 sudo iproute2 procps less vim-tiny".split()
    assert set(wanted) <= set(recipe.packages)
    assert "/etc/ssh/ssh_host_*" in recipe.remove
    assert recipe.files["/etc/machine-id"] == ""


def test_unknown_name_gives_the_nearest_ones() -> None:
    error = unknown("debain-bookwrm", ["debian-bookworm", "alpine"])
    assert error.code == "not_found"
    assert error.message == "no image 'debain-bookwrm'"
    assert error.hint == "did you mean debian-bookworm? see: banger image list --available"


def test_unknown_name_with_nothing_near() -> None:
    assert unknown("zzz", ["debian-bookworm"], "kernel").hint == "see: banger kernel list --available"
