"""The output of a job, and its end. Jobs go on without the daemon, so who follows one outlives a daemon that ends: the next one continues where it stopped."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Final, Literal

from ..api.guest_types import JobOutput
from ..api.types import StreamTicket
from ..model.errors import ChannelLost, DaemonUnreachable, GuestError, NotFound, NotRunning
from .client import Client
from .stream import Delivered, Ended, run_stream

RECONNECT_SECONDS: Final = 60.0
"""How long the daemon, or its channel to the machine, may be away."""
_PAUSE_SECONDS: Final = 0.3


@dataclass(frozen=True, slots=True, kw_only=True)
class Follower:
    """Writes what a job wrote to stdout and stderr, or with ``none`` nothing; with ``follow`` until its end, through restarts of the daemon."""

    client: Client
    ref: str
    job_id: str
    which: Literal["both", "none"]
    follow: bool
    _delivered: Delivered = field(default_factory=Delivered)

    def run(self) -> Ended:
        """How the job ended. Raises NotFound, NotRunning; ChannelLost when the machine's run has ended, or the daemon for too long."""
        ticket = self._ask()
        while True:
            try:
                with self.client.attach(ticket.token) as sock:
                    return run_stream(sock, stdin=None, stdout=1, stderr=2, tty=False, forward_signals=False, delivered=self._delivered)
            except (ChannelLost, DaemonUnreachable) as lost:
                if not self.follow:
                    raise
                ticket = self._ask_again(lost)

    def _ask(self) -> StreamTicket:
        request = JobOutput(which=self.which, offset=self._delivered.offset, follow=self.follow)
        ticket: StreamTicket = self.client.call("vm.job_output", {"ref": self.ref, "id": self.job_id}, request)
        return ticket

    def _ask_again(self, lost: BaseException) -> StreamTicket:
        """Until a daemon, started on demand, has the machine's agent."""
        until = time.monotonic() + RECONNECT_SECONDS
        while True:
            time.sleep(_PAUSE_SECONDS)
            try:
                return self._ask()
            except (NotRunning, NotFound):
                raise lost from None
            except (DaemonUnreachable, GuestError) as error:
                if time.monotonic() > until:
                    hint = f"the job goes on: banger vm job wait {self.ref} {self.job_id}"
                    raise ChannelLost(f"the daemon hung up and was not back within {RECONNECT_SECONDS:g} s: {error.message}", hint=hint) from error
