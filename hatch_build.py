"""Package build: compiles the guest program and puts it into the package. Needs make, a C compiler and a static libc (gcc, libc6-dev)."""

from __future__ import annotations

import shutil
import subprocess
import sysconfig
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class GuestProgram(BuildHookInterface[Any]):
    """Places ``guest/build/banger-guest`` at ``src/banger/guest/program/banger-guest`` for wheels and editable installs."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Called by hatchling before it collects files."""
        if self.target_name != "wheel":
            return
        root = Path(self.root)
        subprocess.run(["make", "--silent", "-C", root / "guest", "all"], check=True)
        program = root / "src/banger/guest/program/banger-guest"
        program.parent.mkdir(exist_ok=True)
        shutil.copy2(root / "guest/build/banger-guest", program)
        build_data["pure_python"] = False
        build_data["tag"] = "py3-none-" + sysconfig.get_platform().replace("-", "_").replace(".", "_")
