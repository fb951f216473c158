"""An instance of banger inside the laboratory."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from tests.e2e.instance import Done
from tests.lab.laboratory import PATIENCE, Laboratory
from tests.lab.materials import GUEST

TINY = "tiny"
"""An image of busybox alone: machines of it are ready as soon as the kernel is."""
BOOT_SECONDS = "120"
"""How long a machine inside may take to say hello."""


@dataclass(frozen=True)
class Inside:
    """Driven as ``user`` does. ``home``: an instance of that user's own; "" = the one that an environment without variables leads to."""

    laboratory: Laboratory
    user: str
    home: str = ""
    program: str = "banger"

    def run(self, *words: str, stdin: bytes | None = None, timeout: float = PATIENCE) -> Done:
        """Run ``banger WORDS`` to its end."""
        place = [f"BANGER_HOME={self.home}"] if self.home else []
        environment = ["env", f"BANGER_BOOT_TIMEOUT={BOOT_SECONDS}", "PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin", *place]
        return self.laboratory.run(*environment, self.program, *words, user=self.user, stdin=stdin, timeout=timeout)

    def ok(self, *words: str, stdin: bytes | None = None, timeout: float = PATIENCE) -> str:
        """Standard output of ``banger WORDS``, which must succeed."""
        done = self.run(*words, stdin=stdin, timeout=timeout)
        assert done.status == 0, f"in the laboratory, as {self.user}: banger {' '.join(words)}: status {done.status}\n{done.err}\n{done.out}"
        return done.out

    def json(self, *words: str) -> Any:
        """What ``banger WORDS --json`` says."""
        return json.loads(self.ok(*words, "--json"))

    def import_guest(self) -> None:
        """Have the image ``tiny`` and its kernel, unless they are there, and start machines from it unless told otherwise."""
        if self.run("image", "show", TINY).status != 0:
            self.configure(f'default_image_name = "{TINY}"\n')
            self.ok("kernel", "import", TINY, "--from", f"/{GUEST}/kernel", "--force")
            self.ok("image", "import", f"/{GUEST}/tiny.tar", "--name", TINY, "--kernel", TINY)

    def configure(self, settings: str) -> None:
        """Write ``config.toml``, which the daemon reads when it starts next."""
        place = f"{self.home}/config" if self.home else "/etc/banger"
        script = f"mkdir -p {place} && cat >{place}/config.toml"
        self.laboratory.ok("sh", "-ec", script, user=self.user if self.home else "root", stdin=settings.encode())
        self.run("daemon", "stop")

    def start(self, name: str, *options: str) -> None:
        """A machine of the image ``tiny`` that runs."""
        self.ok("vm", "run", "-d", "--name", name, "--image", TINY, "--vcpu", "1", "--memory", "256M", *options)

    def delete_everything(self) -> None:
        """Delete all machines and stop the daemon."""
        for machine in self.json("vm", "list"):
            self.ok("vm", "delete", machine["id"])
        self.run("daemon", "stop")
