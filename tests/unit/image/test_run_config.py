"""What a program gets from the image's configuration, by the rules of docker run and docker exec."""

from __future__ import annotations

import pytest

from banger.image.run_config import program
from banger.model.records import ImageConfig

CONFIG = ImageConfig(
    environment=("PATH=/bin", "EMPTY=", "A=b=c"), working_directory="/srv", user="app:www", entrypoint=("/init", "-q"), command=("serve", "now")
)


@pytest.mark.parametrize(
    ("argv", "entrypoint", "expected"),
    [
        ((), None, ("/init", "-q", "serve", "now")),
        (("x", "y"), None, ("/init", "-q", "x", "y")),
        ((), ("sh",), ("sh",)),
        (("-c", "true"), ("sh",), ("sh", "-c", "true")),
        (("ls",), (), ("ls",)),
        ((), (), ()),
    ],
)
def test_run(argv: tuple[str, ...], entrypoint: tuple[str, ...] | None, expected: tuple[str, ...]) -> None:
    assert program(CONFIG, argv=argv, env={}, cwd="", user="", start=True, entrypoint=entrypoint).argv == expected


def test_exec_knows_no_entrypoint() -> None:
    assert program(CONFIG, argv=("ls",), env={}, cwd="", user="").argv == ("ls",)
    assert program(CONFIG, argv=(), env={}, cwd="", user="").argv == ()


def test_environment_directory_and_user_are_defaults() -> None:
    plain = program(CONFIG, argv=(), env={}, cwd="", user="")
    assert (plain.env, plain.cwd, plain.user) == ({"PATH": "/bin", "EMPTY": "", "A": "b=c"}, "/srv", "app:www")
    chosen = program(CONFIG, argv=(), env={"PATH": "/x", "NEW": "1"}, cwd="/tmp", user="root")
    assert (chosen.env, chosen.cwd, chosen.user) == ({"PATH": "/x", "EMPTY": "", "A": "b=c", "NEW": "1"}, "/tmp", "root")


def test_an_image_that_says_nothing() -> None:
    nothing = program(ImageConfig(environment=("=broken", "alone")), argv=(), env={}, cwd="", user="", start=True)
    assert (nothing.argv, nothing.env, nothing.cwd, nothing.user) == ((), {}, "", "")
