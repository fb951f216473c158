"""How a stream ended: the RESULT of ``exec`` and the ERROR of anything. Quick to import: the synchronous client decodes these itself."""

from __future__ import annotations

import errno
from dataclasses import dataclass
from typing import Final

from ..model.errors import ChannelLost, GuestError, GuestTimeout
from .fields import Fields, pack, text

EXITED: Final = 0
KILLED: Final = 1
NOT_STARTED: Final = 2

NOT_EXECUTABLE: Final = 126
NOT_FOUND: Final = 127

_HINTS: Final = {
    "not_ready": "wait until the VM is ready, then try again",
    "no_space": "free some space in the guest, or give it a larger disk",
    "no_user": "name a user that exists in the guest",
    "not_a_directory": "choose another destination, or remove what is in the way",
    "is_a_directory": "choose another destination, or remove what is in the way",
    "too_many_jobs": "wait until one of the jobs in this VM has ended, or end one with `banger vm job kill`",
    "refused": "nothing listens there; `banger vm ports` shows what does",
    "too_many_streams": "wait until one of the commands in this VM has ended",
}


@dataclass(frozen=True, slots=True)
class ExecOutcome:
    """How a command in the guest ended."""

    kind: int
    """EXITED, KILLED or NOT_STARTED."""
    number: int
    """Exit status, signal, or errno."""
    message: str = ""
    """What could not be done, when it was not started."""

    @classmethod
    def decode(cls, untrusted: bytes | memoryview) -> ExecOutcome:
        """Read the payload of the RESULT of ``exec``; raises GuestError when it makes no sense."""
        fields = Fields.parse(untrusted)
        outcome = cls(fields.u8(16), fields.u32(17), fields.text(18, ""))
        if outcome.kind > NOT_STARTED or outcome.number > (64 if outcome.kind == KILLED else 255):
            raise GuestError(f"malformed message from the guest: a command cannot end as ({outcome.kind}, {outcome.number})")
        return outcome

    @property
    def exit_status(self) -> int:
        """0..255 as a shell would show it: 128 + signal; 127 when the program was not found; 126 when it could not be started."""
        if self.kind == EXITED:
            return self.number
        if self.kind == KILLED:
            return 128 + self.number
        # The message begins with the step that failed; a missing directory (``chdir``) says nothing about the program.
        missing = self.number in (errno.ENOENT, errno.ENOTDIR) and self.message.startswith("exec ")
        return NOT_FOUND if missing else NOT_EXECUTABLE


def decode_refusal(untrusted: bytes | memoryview) -> GuestError:
    """The error that the payload of an ERROR frame stands for; itself an error about the payload when that is malformed."""
    try:
        fields = Fields.parse(untrusted)
        code, message = fields.text(1, limit=64), fields.text(2, "")
    except GuestError as error:
        return error
    if code == ChannelLost.code:
        return ChannelLost(message)
    if code == GuestTimeout.code:
        return GuestTimeout(message, hint="`banger vm health VM` asks whether it answers, `banger vm kill VM` ends one that does not")
    refusal = GuestError(message or f"the guest refused: {code}", hint=_HINTS.get(code, ""))
    refusal.guest_code = code
    return refusal


def encode_refusal(code: str, message: str) -> bytes:
    """Payload of an ERROR frame that we make ourselves for a client."""
    return pack((1, text(code)), (2, text(message)))
