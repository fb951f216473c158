"""The block in the user's own ~/.ssh/config: idempotent, and nothing else is touched."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from banger.client.user_ssh_config import BEGIN, END, install, is_installed, uninstall, with_block, without_block
from banger.model.errors import BadRequest

INCLUDE = 'Include "/x/config"'
OTHERS = st.binary(max_size=300).filter(lambda content: BEGIN not in content and END not in content)


@given(OTHERS)
def test_in_and_out_again_leaves_every_byte(content: bytes) -> None:
    once = with_block(content, INCLUDE)
    assert once.startswith(BEGIN + INCLUDE.encode() + b"\n" + END)
    assert once.endswith(content)
    assert with_block(once, INCLUDE) == once
    assert without_block(once) == content
    assert without_block(content) == content


def test_another_instance_takes_the_place_wherever_the_block_is() -> None:
    moved = b"Host a\r\n  User b\n" + BEGIN + b"Include /old\n" + END + b"# end"
    assert with_block(moved, INCLUDE) == with_block(b"Host a\r\n  User b\n# end", INCLUDE)


def test_half_a_block_is_not_guessed_at() -> None:
    with pytest.raises(BadRequest, match="lost its last line"):
        without_block(BEGIN + b"Include /x\nHost a\n")


def test_a_file_is_made_private_and_kept_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / ".ssh/config"
    assert not is_installed(path, INCLUDE)
    assert not uninstall(path) and not path.parent.exists()
    assert install(path, INCLUDE) and is_installed(path, INCLUDE)
    assert [stat.S_IMODE(one.stat().st_mode) for one in (path, path.parent)] == [0o600, 0o700]
    path.chmod(0o644)
    inode = path.stat().st_ino
    assert not install(path, INCLUDE) and path.stat().st_ino == inode
    assert install(path, "Include /other") and not is_installed(path, INCLUDE)
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert uninstall(path) and path.read_bytes() == b"" and not uninstall(path)


def test_links_are_followed_and_stay_links(tmp_path: Path) -> None:
    real = tmp_path / "dotfiles/config"
    real.parent.mkdir()
    real.write_bytes(b"Host *\n")
    link = tmp_path / ".ssh/config"
    link.parent.mkdir()
    link.symlink_to("../dotfiles/config")
    assert install(link, INCLUDE)
    assert link.is_symlink() and real.read_bytes() == with_block(b"Host *\n", INCLUDE)
    assert uninstall(link) and link.is_symlink() and real.read_bytes() == b"Host *\n"


def test_what_is_no_file_is_left_alone(tmp_path: Path) -> None:
    with pytest.raises(BadRequest, match="not a regular file"):
        install(tmp_path, INCLUDE)
