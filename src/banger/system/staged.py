"""A version of the program in a directory of its own, run as a program: what is asked of it before it is current, and how it installs itself."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ..host.run import Completed
from ..host.run_sync import run_sync
from ..model.errors import BadVersion, BangerError, CommandFailed
from .owner import Owner

_QUICK_SECONDS: Final = 60.0
_DOCTOR_SECONDS: Final = 240.0
"""It probes the host's KVM with a real guest."""
_INSTALL_SECONDS: Final = 1800.0
"""More than all that systemd may take to end and start the services, there and back."""
# As the installed launchers: isolated, and with nothing but that version on its path.
_RUN: Final = (
    "import sys; sys.path.insert(0, sys.argv[1]); from {module} import main; sys.argv[:2] = ['{name}']; sys.dont_write_bytecode = True; sys.exit(main())"
)
_INCOMPATIBLE: Final = 2


@dataclass(frozen=True, slots=True)
class Staged:
    """The program in ``place``, which anybody can read."""

    place: Path
    interpreter: Path
    owner: Owner

    def check(self, version: str) -> bool:
        """See that it runs, is ``version`` and can use the owner's database; whether it will migrate that. Raises BangerError, BadVersion."""
        for module, name in (("banger.cli.main", "banger"), ("banger.daemon.main", "bangerd"), ("banger.helper.main", "banger-helper")):
            told = self._as_owner(module, name, "--version").stdout.decode(errors="replace").strip()
            if told.split()[-1:] != [version]:
                raise BadVersion(f"{name} of the release {version} says to be {told[:100]!r}", hint="tell whoever makes the releases")
        done = self.check_migrations()
        if done.status == _INCOMPATIBLE:
            raise BadVersion(f"{version} cannot use the database: {done.stdout.decode(errors='replace').strip()}", hint="--to VERSION names another release")
        return done.status == 1

    def check_migrations(self) -> Completed:
        """``bangerd --check-migrations`` of the owner's database."""
        return self._as_owner("banger.daemon.main", "bangerd", "--system", "--check-migrations", allowed=(0, 1, _INCOMPATIBLE))

    def gives_up_database(self) -> bool:
        """Whether another version has migrated the database beyond what this one knows."""
        return self.check_migrations().status == _INCOMPATIBLE

    def restore_database(self) -> str:
        """Put the copy back that the other version made; the daemon must not run. Says what was done. Raises BangerError."""
        return self._as_owner("banger.daemon.main", "bangerd", "--system", "--restore-older").stdout.decode(errors="replace").strip()

    def install(self) -> bool:
        """Have it install itself with the settings of what is installed, and restart the services; whether anything had to be done.

        Raises BangerError with its reason; it has taken everything back then, as far as it could.
        """
        try:
            done = run_sync(self._words("banger.cli.main", "banger", "system", "install", "--json"), deadline=_INSTALL_SECONDS)
            return bool(json.loads(done.stdout)["steps"])
        except CommandFailed as error:
            raise _told(error) from error
        except (ValueError, KeyError, TypeError) as error:
            raise BangerError("what installs the version gave no answer that can be understood") from error

    def failing(self) -> dict[str, str]:
        """What ``banger doctor`` finds to fail, with its reasons. Raises BangerError when it cannot be asked."""
        done = self._as_owner("banger.cli.main", "banger", "doctor", "--json", deadline=_DOCTOR_SECONDS, allowed=(0, 1, 2))
        try:
            return {str(one.get("id", one["name"])): str(one["detail"]) for one in json.loads(done.stdout) if one["status"] == "fail"}
        except (ValueError, KeyError, TypeError) as error:
            raise BangerError("`banger doctor` gave no answer that can be understood") from error

    def _as_owner(self, module: str, name: str, *words: str, deadline: float = _QUICK_SECONDS, allowed: tuple[int, ...] = (0,)) -> Completed:
        become = ["setpriv", f"--reuid={self.owner.uid}", f"--regid={self.owner.gid}", "--init-groups", "--reset-env"]
        return run_sync([*become, *self._words(module, name, *words)], deadline=deadline, allowed=allowed, cwd=Path("/"))

    def _words(self, module: str, name: str, *words: str) -> list[str | Path]:
        return [self.interpreter, "-ISB", "-c", _RUN.format(module=module, name=name), self.place, *words]


def _told(error: CommandFailed) -> BangerError:
    """What the program said in its last line of JSON, instead of the command that was run."""
    for line in reversed(error.message.splitlines()):
        try:
            told = json.loads(line)["error"]
            return BangerError(str(told["message"]), hint=str(told["hint"]))
        except (ValueError, KeyError, TypeError):
            continue
    return error
