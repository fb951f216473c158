"""Whether a document was signed with a key that releases are signed with: ssh-keygen(1), ``-Y verify``, with a list of keys as its ALLOWED SIGNERS."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Final

from ..host.installation import read_guarded
from ..host.paths import Layout
from ..host.run_sync import run_sync
from ..model.errors import BangerError, CommandFailed, Unauthorized
from .places import Places

NAMESPACE: Final = "banger-release"
"""What the signature is for: one that was made for anything else is worth nothing here."""
PRINCIPAL: Final = "banger-release"
_PACKAGE_KEYS: Final = Path(__file__).with_name("release_keys")
_VERIFY_SECONDS: Final = 30.0


def trusted_keys(places: Places) -> bytes:
    """The administrator's ``/etc/banger/release_keys`` when there is one, which only root may have written; else those that came with this banger.

    Raises Unauthorized or BadRequest for a file that cannot be believed, BangerError when no key is known.
    """
    path = places.at(Layout.system().config / "release_keys")
    try:
        keys = read_guarded(path, 0)
    except FileNotFoundError:
        path, keys = _PACKAGE_KEYS, _PACKAGE_KEYS.read_bytes()
    except OSError as error:
        raise BangerError(f"{path} cannot be read: {error.strerror}", hint=f"sudo chmod 644 {path}") from error
    if not any(line.strip() and not line.strip().startswith(b"#") for line in keys.splitlines()):
        raise BangerError(
            f"no key is known that releases are signed with ({path} has none)",
            hint=f"put the publisher's public key into {Layout.system().config / 'release_keys'}: docs/system.md, Update",
        )
    return keys


def verify(document: bytes, untrusted_signature: bytes, keys: bytes, name: str) -> None:
    """Raises Unauthorized unless one of the keys has signed ``document``, which is called ``name``. Raises MissingTool without ssh-keygen."""
    with tempfile.TemporaryDirectory(prefix="banger-verify-") as scratch:
        signers, signature = Path(scratch, "signers"), Path(scratch, "signature")
        signers.write_bytes(keys)
        signature.write_bytes(untrusted_signature)
        try:
            run_sync(["ssh-keygen", "-Y", "verify", "-f", signers, "-I", PRINCIPAL, "-n", NAMESPACE, "-s", signature], deadline=_VERIFY_SECONDS, stdin=document)
        except CommandFailed as error:
            raise Unauthorized(
                f"{name} is not signed with a key that releases are signed with; nothing was installed",
                hint="is it the right address? Then tell whoever makes the releases",
            ) from error
