"""What all checks stand on: which instance is meant, whose it is, how it is configured and whether its daemon answers."""

from __future__ import annotations

import os
import pwd
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ..api.types import DaemonStatus
from ..client import Client
from ..client.discovery import Endpoint, find_endpoint
from ..host.config import load_config
from ..host.installation import read_installation
from ..host.paths import Layout
from ..model.config import Config
from ..model.errors import BangerError, NoDaemon
from ..model.installation import Installation
from ..model.network import NetworkPlan, network_plan

ASK_SECONDS: Final = 3.0
"""A daemon answers who it is in milliseconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ground:
    """One host, seen for one instance."""

    layout: Layout
    endpoint: Endpoint
    uid: int
    """Whose instance it is."""
    user: str
    config: Config | None
    config_error: BangerError | None = None
    installation: Installation | None = None
    installation_error: BangerError | None = None
    daemon: DaemonStatus | None = None
    daemon_error: BangerError | None = None
    """Why a daemon that should answer does not; None when none runs and none has to."""
    root: Path = Path("/")
    """Where the host's own files are, for tests."""

    def at(self, path: str | Path) -> Path:
        """A file of the host."""
        return self.root / str(path).lstrip("/")

    def read(self, path: str | Path) -> str:
        """Text of a small file of the host; "" when it cannot be read."""
        try:
            return self.at(path).read_text(errors="replace")
        except OSError:
            return ""

    @property
    def system(self) -> bool:
        """The instance of an installed system."""
        return self.layout == Layout.system()

    @property
    def plan(self) -> NetworkPlan | None:
        """The bridge's network; None when this instance has none."""
        if self.config is None or self.config.network.mode == "user":
            return None
        if self.system:
            return self.installation.network if self.installation else None
        return network_plan(self.config.network.bridge, self.config.network.subnet) if self.config.network.mode == "bridge" else None

    @property
    def is_owner(self) -> bool:
        """The instance is that of whoever runs this."""
        return os.geteuid() == self.uid


def survey() -> Ground:
    """Look who we are. Root looks at the installed system unless it names an instance of its own. Raises BangerError when it cannot be known which is meant."""
    installation, installation_error = _installation()
    endpoint = _endpoint(installation)
    layout = endpoint.layout or Layout.from_environment()
    uid = installation.uid if installation is not None and layout == Layout.system() else os.getuid()
    config, config_error = _config(layout)
    daemon, daemon_error = _daemon(endpoint)
    return Ground(
        layout=layout,
        endpoint=endpoint,
        uid=uid,
        user=user_name(uid),
        config=config,
        config_error=config_error,
        installation=installation,
        installation_error=installation_error,
        daemon=daemon,
        daemon_error=daemon_error,
    )


def user_name(uid: int) -> str:
    """The user's name, or the number when no account has it."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _installation() -> tuple[Installation | None, BangerError | None]:
    try:
        return read_installation(), None
    except BangerError as error:
        return None, error


def _endpoint(installation: Installation | None) -> Endpoint:
    if os.geteuid() == 0 and installation is not None and not {"BANGER_HOME", "BANGER_SOCKET"} & os.environ.keys():
        system = Layout.system()
        return Endpoint(api=system.api_socket, attach=system.attach_socket, layout=system, uid=installation.uid)
    try:
        return find_endpoint()
    except BangerError:  # whose the system is cannot be known: that is a finding of its own
        return Endpoint.of(Layout.from_environment())


def _config(layout: Layout) -> tuple[Config | None, BangerError | None]:
    try:
        return load_config(layout.config_file), None
    except BangerError as error:
        return None, error


def _daemon(endpoint: Endpoint) -> tuple[DaemonStatus | None, BangerError | None]:
    """Never starts one."""
    try:
        with open_client(endpoint, ASK_SECONDS) as client:
            status: DaemonStatus = client.call("daemon.status")
            return status, None
    except NoDaemon as error:
        return None, error if endpoint.system else None
    except BangerError as error:
        return None, error


def open_client(endpoint: Endpoint, timeout: float) -> Client:
    """A client that starts nothing. Root looks at a directory that is its owner's, so it asks the socket without the check whose it is."""
    if endpoint.uid is not None:
        endpoint = Endpoint(api=endpoint.api, attach=endpoint.attach, layout=None, uid=endpoint.uid)
    return Client(endpoint, start=False, timeout=timeout)
