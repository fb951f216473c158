"""This instance: its settings, directories, database, keys, and its daemon."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Final

from .. import __version__
from ..access.ssh_config import include_line
from ..client.user_ssh_config import default_path, is_installed
from ..host import facts
from ..host.files import tail
from ..host.run import find_tool
from ..model.config import describe_sizes, size_defaults
from ..model.limits import defaults_for_host
from ..store.inspection import look
from .ground import Ground
from .outcome import Command, Fix, OutputTo, Result, failed, passed, refused, skipped, warned
from .packages import missing_tools, no_tool

_LOG_BYTES: Final = 64 * 1024


def configuration(ground: Ground) -> Result:
    """``config.toml`` can be understood."""
    if ground.config_error is not None:
        return refused(ground.config_error)
    file = ground.layout.config_file
    return passed(str(file) if file.exists() else f"built in; {file} would change it")


def machine_size(ground: Ground) -> Result:
    """What a machine gets that is not told otherwise, and why."""
    if ground.config is None:
        return skipped("not known: config.toml cannot be read")
    return passed(describe_sizes(size_defaults(ground.config, defaults_for_host(facts.cpu_count(), facts.memory_bytes()))))


def directories(ground: Ground) -> Result:
    """Those that must be private: sockets, keys, disks."""
    found = [path for path in (ground.layout.runtime, ground.layout.state, ground.layout.ssh) if os.path.lexists(path)]
    for path in found:
        try:
            info = path.lstat()
        except PermissionError:
            return skipped(f"not for uid {os.getuid()} to see: {path}")
        if not stat.S_ISDIR(info.st_mode):
            return failed(f"{path} is not a directory", f"mv {path} {path}.old")
        if info.st_uid != ground.uid:
            return failed(f"{path} belongs to uid {info.st_uid}, not to {ground.user}", f"sudo chown -R {ground.user}: {path}")
        if info.st_mode & 0o077:
            return failed(f"{path} has mode {stat.S_IMODE(info.st_mode):04o}, others can reach it", _chmod(0o700, path))
    return passed(f"{', '.join(map(str, found))} private" if found else f"{ground.layout.state} will be made")


def _chmod(mode: int, path: Path) -> Fix:
    return Fix((Command(("chmod", f"{mode:o}", str(path))),), who="owner")


def store(ground: Ground) -> Result:
    """The database, by its schema and a quick check of its pages."""
    if ground.layout.state.exists() and not os.access(ground.layout.state, os.R_OK | os.X_OK):
        return skipped(f"not for uid {os.getuid()} to see")
    found = look(ground.layout.database)
    if found is None:
        return passed(f"{ground.layout.database} will be made")
    if found.schema > found.newest_schema:
        detail = f"{ground.layout.database} was written by a newer banger (schema {found.schema}, this one knows {found.newest_schema})"
        return failed(detail, "use the newer banger (banger update), or another BANGER_HOME")
    if found.schema < found.newest_schema:
        return passed(f"schema {found.schema}; the next daemon brings it to {found.newest_schema} and keeps a copy")
    return passed(f"schema {found.schema}, {found.machines} machine{'' if found.machines == 1 else 's'}")


def failures(ground: Ground) -> Result:
    """What went wrong lately, for whoever looks for a reason."""
    if ground.layout.state.exists() and not os.access(ground.layout.state, os.R_OK | os.X_OK):
        return skipped(f"not for uid {os.getuid()} to see")
    found = look(ground.layout.database)
    if found is None or found.recent_failures == 0:
        return passed("none in the last 24 hours")
    return passed(f"{found.recent_failures} in the last 24 hours (banger events); the last: {found.last_failure.splitlines()[0][:160]}")


def daemon(ground: Ground) -> Result:
    """Whether it answers. One that does not run is no trouble where the next command starts it, unless it could not start the last time."""
    if ground.daemon is not None:
        return passed(f"pid {ground.daemon.pid}, version {ground.daemon.version}, {ground.daemon.running_vms} running")
    if ground.daemon_error is not None:
        return refused(ground.daemon_error)
    if reason := _last_failure(ground.layout.daemon_log):
        return warned(f"none runs; the last one could not start: {reason}", f"remedy what it says; see {ground.layout.daemon_log}")
    return passed("none runs; the next command starts it, and a test guest is only run by it")


def _last_failure(log: Path) -> str:
    """Why the daemon that wrote last did not start; "" when it did."""
    try:
        lines = tail(log, _LOG_BYTES).splitlines()
    except OSError:
        return ""
    reason = ""
    for line in lines:
        try:
            untrusted = json.loads(line)
            level, message = str(untrusted["level"]), str(untrusted["message"])
        except (ValueError, KeyError, TypeError):
            continue
        if level == "critical":
            reason = str(untrusted.get("traceback", message)).strip().splitlines()[-1][:300]
        elif message == "ready":
            reason = ""
    return reason


def versions(ground: Ground) -> Result:
    """That all parts are of one version; the helper's is compared where it is asked."""
    found = {"this command": __version__}
    if ground.daemon is not None:
        found["daemon"] = ground.daemon.version
    if ground.installation is not None and ground.system:
        found["install.toml"] = ground.installation.version
    shown = ", ".join(f"{what} {version}" for what, version in found.items())
    if len(set(found.values())) == 1:
        return passed(shown)
    if ground.system:
        return warned(f"{shown}: they differ", f"sudo banger system install --owner {ground.user}; or sudo banger system restart when the new one is installed")
    return warned(f"{shown}: they differ", Fix((Command(("banger", "daemon", "stop")),), who="owner"))


def ssh_client(_: Ground) -> Result:
    """For ``vm ssh`` and editors; exec and cp need none."""
    if no_tool("ssh") or no_tool("ssh-keygen"):
        return missing_tools(["ssh", "ssh-keygen"], "vm ssh and `ssh NAME.vm` need it", "warn")
    return passed(str(find_tool("ssh")))


def ssh_key(ground: Ground) -> Result:
    """The key that opens every machine: both halves, and for its owner alone."""
    private = ground.layout.ssh_identity
    public = private.with_name(f"{private.name}.pub")
    try:
        info = private.lstat()
    except FileNotFoundError:
        return passed("made with the first machine")
    except PermissionError:
        return skipped(f"not for uid {os.getuid()} to see")
    if not stat.S_ISREG(info.st_mode):
        return failed(f"{private} is not a file", f"mv {private} {private}.old; a new one is made with the next start")
    if info.st_mode & 0o077 or info.st_uid != ground.uid:
        return failed(f"{private} has mode {stat.S_IMODE(info.st_mode):04o} of uid {info.st_uid}: ssh refuses it", _chmod(0o600, private))
    if not public.exists():
        return failed(f"the public half of {private} is missing", Fix((OutputTo(("ssh-keygen", "-y", "-f", str(private)), public),), who="owner"))
    return passed(str(private))


def ssh_include(ground: Ground) -> Result:
    """Whether plain ssh knows the machines. Root looks at its own configuration, which is not the owner's."""
    if not ground.is_owner:
        return skipped(f"in the home of {ground.user}")
    if is_installed(default_path(), include_line(ground.layout.ssh_config)):
        return passed(f"{default_path()} includes it")
    return passed("not included: banger vm ssh works without; banger ssh-config --install makes `ssh NAME.vm` work")


CHECKS: Final[tuple[tuple[str, str, Callable[[Ground], Result]], ...]] = (
    ("installation.configuration", "configuration", configuration),
    ("installation.machine-size", "machine size", machine_size),
    ("installation.directories", "directories", directories),
    ("installation.store", "database", store),
    ("installation.daemon", "daemon", daemon),
    ("installation.versions", "versions", versions),
    ("installation.failures", "failures", failures),
    ("installation.ssh-client", "ssh client", ssh_client),
    ("installation.ssh-key", "ssh key", ssh_key),
    ("installation.ssh-config", "ssh configuration", ssh_include),
)
