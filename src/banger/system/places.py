"""Where an installation puts what. Every name of it is here; those of the instance that it serves are in ``host.paths``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ..host.own_program import INSTALLED_LIBRARY, INSTALLED_PROGRAMS
from ..host.paths import HELPER_SOCKET, INSTALL_FILE, Layout

DAEMON_UNIT: Final = "bangerd.service"
HELPER_UNIT: Final = "banger-helper.service"
HELPER_SOCKET_UNIT: Final = "banger-helper.socket"
LIBRARY: Final = INSTALLED_LIBRARY
DAEMON_PROGRAM: Final = INSTALLED_PROGRAMS / "bangerd"
HELPER_PROGRAM: Final = LIBRARY / "bin/banger-helper"


@dataclass(frozen=True, slots=True)
class Places:
    """The files of an installation below ``root``, which is / unless the installation is only laid out for somebody to look at or to package."""

    root: Path = Path("/")

    @property
    def staged(self) -> bool:
        """Not this host's own files."""
        return self.root != Path("/")

    def at(self, path: Path | str) -> Path:
        """Where that path of the installed system is now."""
        return self.root / str(path).lstrip("/")

    @property
    def versions(self) -> Path:
        """A directory per version of the program."""
        return self.at(LIBRARY / "versions")

    @property
    def current(self) -> Path:
        """Link to the version that is started."""
        return self.at(LIBRARY / "current")

    @property
    def inventory(self) -> Path:
        """What was put outside of ``LIBRARY``."""
        return self.at(LIBRARY / "inventory.json")

    @property
    def programs(self) -> tuple[tuple[Path, str], ...]:
        """Launchers, each with the module that it runs."""
        return (
            (self.at(INSTALLED_PROGRAMS / "banger"), "banger.cli.main"),
            (self.at(DAEMON_PROGRAM), "banger.daemon.main"),
            (self.at(HELPER_PROGRAM), "banger.helper.main"),
        )

    @property
    def install_file(self) -> Path:
        return self.at(INSTALL_FILE)

    @property
    def configuration(self) -> Path:
        return self.at(Layout.system().config)

    @property
    def catalogs(self) -> Path:
        return self.at(Layout.system().catalogs[0])

    def unit(self, name: str) -> Path:
        return self.at(Path("/etc/systemd/system") / name)

    @property
    def manual(self) -> Path:
        return self.at("/usr/local/share/man/man1")

    def completion(self, shell: str) -> Path:
        """Where that shell looks for the completion of ``banger``."""
        return self.at(
            {
                "bash": "/usr/local/share/bash-completion/completions/banger",
                "zsh": "/usr/local/share/zsh/site-functions/_banger",
                "fish": "/usr/local/share/fish/vendor_completions.d/banger.fish",
            }[shell]
        )

    @property
    def data(self) -> tuple[Path, ...]:
        """What the owner's daemon keeps: machines, images, caches. systemd makes these."""
        system = Layout.system()
        return self.at(system.state), self.at(system.cache)

    @property
    def sockets(self) -> tuple[Path, ...]:
        """Runtime directories, which systemd makes and we keep over restarts."""
        return self.at(Layout.system().runtime), self.at(HELPER_SOCKET.parent)
