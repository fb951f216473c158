"""What a guest needs for ssh: its host key, our key, and a drop-in for its sshd. Nobody's own authorized_keys is touched."""

from __future__ import annotations

from typing import Final

from ..guest.agent import FileToWrite
from .keys import KeyPair

HOST_KEY: Final = "/etc/ssh/ssh_host_ed25519_key"
AUTHORIZED_KEYS: Final = "/etc/ssh/banger_authorized_keys"
"""Readable by everyone, for sshd reads it as the user who logs in; StrictModes wants that only root may write it."""
DROP_IN: Final = "/etc/ssh/sshd_config.d/99-banger.conf"

_SETTINGS: Final = f"""\
# Written by banger at each start.
HostKey {HOST_KEY}
AuthorizedKeysFile .ssh/authorized_keys {AUTHORIZED_KEYS}
PermitRootLogin prohibit-password
PubkeyAuthentication yes
PasswordAuthentication no
KbdInteractiveAuthentication no
"""


def sshd_files(host_key: KeyPair, user_public: str) -> tuple[FileToWrite, ...]:
    """The files of one guest."""
    return (
        FileToWrite(path=HOST_KEY, content=host_key.private, mode=0o600),
        FileToWrite(path=f"{HOST_KEY}.pub", content=f"{host_key.public}\n".encode()),
        FileToWrite(path=AUTHORIZED_KEYS, content=f"{user_public} banger\n".encode()),
        FileToWrite(path=DROP_IN, content=_SETTINGS.encode()),
    )
