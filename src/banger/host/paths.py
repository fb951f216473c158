"""Where everything lies. Every file and directory name of banger is in this module."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ..model.errors import BadRequest, Unauthorized

INSTALL_FILE: Final = Path("/etc/banger/install.toml")
"""Written by ``banger system install``; belongs to root."""
HELPER_SOCKET: Final = Path("/run/banger-helper/helper.sock")
"""Where systemd listens for the privileged helper."""
UNIX_PATH_MAX: Final = 107
"""Longest path of a unix socket (unix(7): sun_path has 108 bytes, one is the terminator)."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Directories of one instance of banger."""

    config: Path
    state: Path
    cache: Path
    runtime: Path

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None) -> Layout:
        """The instance that these environment variables mean: wholly below ``BANGER_HOME``, else the XDG directories of the user."""
        env = os.environ if environment is None else environment
        if home := env.get("BANGER_HOME"):
            root = _readable(Path(home).absolute(), "BANGER_HOME")
            return cls(config=root / "config", state=root / "state", cache=root / "cache", runtime=root / "run")
        user_home = Path(env.get("HOME") or Path.home())

        def xdg(variable: str, default: str) -> Path:
            value = env.get(variable, "")
            return (Path(value) if value.startswith("/") else user_home / default) / "banger"

        runtime = env.get("XDG_RUNTIME_DIR", "")
        return cls(
            config=xdg("XDG_CONFIG_HOME", ".config"),
            state=xdg("XDG_STATE_HOME", ".local/state"),
            cache=xdg("XDG_CACHE_HOME", ".cache"),
            runtime=Path(runtime) / "banger" if runtime.startswith("/") else Path(f"/tmp/banger-runtime-{os.getuid()}"),  # noqa: S108 - checked by private_directory
        )

    @classmethod
    def system(cls) -> Layout:
        """The instance of an installed system, which runs as its owner (``banger system install``)."""
        return cls(config=Path("/etc/banger"), state=Path("/var/lib/banger"), cache=Path("/var/cache/banger"), runtime=Path("/run/banger"))

    @property
    def config_file(self) -> Path:
        return self.config / "config.toml"

    @property
    def catalogs(self) -> tuple[Path, ...]:
        """Directories of catalogs beside the embedded one, in the order in which they win over each other."""
        return tuple(dict.fromkeys((Path("/etc/banger/catalog.d"), self.config / "catalog.d")))

    @property
    def database(self) -> Path:
        return self.state / "banger.db"

    @property
    def daemon_lock(self) -> Path:
        """Flocked by the one daemon of this instance for as long as it lives."""
        return self.state / "bangerd.lock"

    @property
    def boot_note(self) -> Path:
        """Id of the last boot of the host after which machines were started by themselves."""
        return self.state / "boot_id"

    @property
    def daemon_start_lock(self) -> Path:
        """Flocked by a client while it starts a daemon."""
        return self.runtime / "start.lock"

    @property
    def daemon_log(self) -> Path:
        return self.state / "bangerd.log"

    @property
    def api_socket(self) -> Path:
        return self.runtime / "bangerd.sock"

    @property
    def attach_socket(self) -> Path:
        return self.runtime / "attach.sock"

    @property
    def images(self) -> Path:
        return self.state / "images"

    @property
    def kernels(self) -> Path:
        return self.state / "kernels"

    @property
    def initramfs_cache(self) -> Path:
        return self.cache / "initramfs"

    @property
    def oci_cache(self) -> Path:
        """Blobs of container images, by digest."""
        return self.cache / "oci"

    @property
    def spool(self) -> Path:
        """Where the command line puts what it reads from stdin for the daemon."""
        return self.cache / "spool"

    @property
    def probe_cache(self) -> Path:
        """Results of probing the host, by boot id."""
        return self.cache / "probe"

    @property
    def workspace_cache(self) -> Path:
        """What clients remember of the workspaces that they prepared."""
        return self.cache / "workspaces"

    @property
    def ssh(self) -> Path:
        """Keys, pins and configuration of ssh."""
        return self.state / "ssh"

    @property
    def ssh_identity(self) -> Path:
        """The private key that logs in to every machine."""
        return self.ssh / "id_ed25519"

    @property
    def ssh_known_hosts(self) -> Path:
        return self.ssh / "known_hosts"

    @property
    def ssh_config(self) -> Path:
        """What ``banger ssh-config --install`` includes."""
        return self.ssh / "config"

    @property
    def vms(self) -> Path:
        return self.state / "vms"

    def vm(self, vm_id: str) -> VMLayout:
        """File names of one VM."""
        return VMLayout(self.vms / vm_id)


@dataclass(frozen=True, slots=True)
class VMLayout:
    """Files below one VM's directory."""

    root: Path

    @property
    def overlay_disk(self) -> Path:
        return self.root / "system.overlay"

    @property
    def work_disk(self) -> Path:
        return self.root / "root.ext4"

    @property
    def console_log(self) -> Path:
        return self.root / "console.log"

    @property
    def vmm_log(self) -> Path:
        return self.root / "vmm.log"

    @property
    def handles(self) -> Path:
        return self.root / "handles.json"

    @property
    def agent_socket(self) -> Path:
        return self.root / "agent.sock"

    @property
    def control_socket(self) -> Path:
        """QMP, or a VMM's API."""
        return self.root / "control.sock"

    @property
    def network_socket(self) -> Path:
        return self.root / "network.sock"

    @property
    def ssh_host_key(self) -> Path:
        return self.root / "ssh_host_ed25519_key"

    @property
    def network_log(self) -> Path:
        return self.root / "network.log"


def _readable(path: Path, variable: str) -> Path:
    """``path`` itself; raises BadRequest when it is not UTF-8, for then neither JSON nor a log could name what lies below it."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise BadRequest(f"{variable} is not valid UTF-8: {str(path)!r}", hint=f"set {variable} to a directory with a UTF-8 name") from None
    return path


def private_directory(path: Path) -> Path:
    """Make ``path`` (and its parents) mode 0700, or check that it already is ours and private; returns it.

    Raises Unauthorized for a symbolic link, another owner, or a mode that lets others in: somebody could have made it before us.
    """
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    try:
        path.mkdir(mode=0o700)
    except FileExistsError:
        check_private(path)
    return path


def check_private(path: Path) -> None:
    """Raises Unauthorized unless ``path`` is a real directory of ours with no access for others, FileNotFoundError when it is not there."""
    info = path.lstat()
    if not path.is_dir() or path.is_symlink():
        raise Unauthorized(f"{path} is not a directory", hint=f"remove {path}")
    if info.st_uid != os.getuid():
        raise Unauthorized(f"{path} belongs to uid {info.st_uid}, not to you (uid {os.getuid()})", hint=f"remove {path} or set XDG_RUNTIME_DIR or BANGER_HOME")
    if info.st_mode & 0o077:
        raise Unauthorized(f"{path} has mode {info.st_mode & 0o777:04o}, others can reach it", hint=f"chmod 700 {path}")
