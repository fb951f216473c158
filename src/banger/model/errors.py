"""Every error a user can meet.

BangerError                       operation_failed
├── BadRequest                    bad_request
├── NotFound                      not_found
├── AlreadyExists                 already_exists
├── NotRunning                    not_running
├── NotStopped                    not_stopped
├── Unauthorized                  unauthorized
├── BadVersion                    bad_version
├── UnknownMethod                 unknown_method
├── Cancelled                     cancelled
├── DaemonUnreachable             daemon_unreachable
│   └── NoDaemon                  daemon_unreachable
├── HelperUnreachable             helper_unreachable
├── MissingTool                   missing_tool
├── CommandFailed                 operation_failed
├── NoSpace                       no_space
├── GuestError                    guest_error
│   ├── GuestTimeout              guest_timeout
│   └── ChannelLost               channel_lost
├── VmmError                      vmm_error
└── StoreError                    store_error

``code`` is stable and meant for programs, ``message`` says what happened, ``hint`` says what to do, ``op_id`` finds the log lines.
"""

from __future__ import annotations

from typing import ClassVar, Final


class BangerError(Exception):
    """Base of all expected failures; shown to the user without a traceback."""

    code: ClassVar[str] = "operation_failed"

    def __init__(self, message: str, *, hint: str = "", op_id: str = "", vm: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.op_id = op_id
        self.vm = vm
        """Name of the VM that is still there for inspection, when there is one."""


class BadRequest(BangerError):
    """The caller's words are wrong; nothing was done."""

    code = "bad_request"


class NotFound(BangerError):
    """No such VM, image, kernel or operation."""

    code = "not_found"


class AlreadyExists(BangerError):
    """The name is taken."""

    code = "already_exists"


class NotRunning(BangerError):
    """The verb needs a running VM."""

    code = "not_running"


class NotStopped(BangerError):
    """The verb needs a VM that does not run."""

    code = "not_stopped"


class Unauthorized(BangerError):
    """The peer may not do this, or a socket or directory has the wrong owner or mode."""

    code = "unauthorized"


class BadVersion(BangerError):
    """Client and daemon, or daemon and guest program, are of different versions."""

    code = "bad_version"


class UnknownMethod(BangerError):
    """The daemon has no such route."""

    code = "unknown_method"


class Cancelled(BangerError):
    """The operation was cancelled and rolled back."""

    code = "cancelled"


class DaemonUnreachable(BangerError):
    """No daemon answers on the socket and none could be started."""

    code = "daemon_unreachable"


class NoDaemon(DaemonUnreachable):
    """Nobody listens on the socket; known to the client alone."""


class HelperUnreachable(BangerError):
    """The privileged helper does not answer."""

    code = "helper_unreachable"


class MissingTool(BangerError):
    """A program of the host is not installed; the hint names the package."""

    code = "missing_tool"


class CommandFailed(BangerError):
    """A program of the host failed; the message holds the quoted command and the end of its output."""


class NoSpace(BangerError):
    """A file system is full, or the subnet of the machines has no free address."""

    code = "no_space"


class GuestError(BangerError):
    """The program in the guest refused or failed."""

    code = "guest_error"
    guest_code: str = ""
    """The guest's own word for why it refused (docs/agent-protocol.md, section 6), such as ``not_found``; "" when it did not."""


class GuestTimeout(GuestError):
    """The guest did not answer in time."""

    code = "guest_timeout"


class ChannelLost(GuestError):
    """The channel to the guest ended."""

    code = "channel_lost"


class VmmError(BangerError):
    """The virtual machine monitor did not start, or died."""

    code = "vmm_error"


class StoreError(BangerError):
    """The database is unusable: newer, damaged or on a full disk."""

    code = "store_error"


def _tree(root: type[BangerError]) -> list[type[BangerError]]:
    return [root] + [leaf for child in root.__subclasses__() for leaf in _tree(child)]


#: Stable code -> class, for rebuilding an error on the client's side. ``operation_failed`` is the root.
BY_CODE: Final[dict[str, type[BangerError]]] = {kind.code: kind for kind in reversed(_tree(BangerError))}


def from_code(code: str, message: str, *, hint: str = "", op_id: str = "", vm: str = "") -> BangerError:
    """The error that a reply with this code stands for; an unknown code becomes a plain BangerError."""
    return BY_CODE.get(code, BangerError)(message, hint=hint, op_id=op_id, vm=vm)
