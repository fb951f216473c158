"""``./dev lab``: a laboratory of one's own, kept from run to run."""

from __future__ import annotations

import argparse
import os
import sys

from tests.lab import laboratory


def main() -> int:
    parser = argparse.ArgumentParser(prog="./dev lab", description="A machine that is a host with systemd, cgroup v2, device-mapper and KVM.")
    verbs = parser.add_subparsers(dest="verb")
    verbs.add_parser("up", help="make or start it, and bring today's program in (the default)")
    verbs.add_parser("shell", help="a shell of root's in it")
    tests = verbs.add_parser("test", help="run tests/lab in a fresh laboratory, or in the kept one with --keep; further arguments go to pytest", add_help=False)
    tests.add_argument("--keep", action="store_true")
    down = verbs.add_parser("down", help="stop it")
    down.add_argument("--delete", action="store_true", help="and forget it; its image stays in the cache")
    arguments, rest = parser.parse_known_args()
    if rest and arguments.verb != "test":
        parser.error(f"unknown arguments: {' '.join(rest)}")
    if obstacle := laboratory.obstacle():
        print(f"dev: {obstacle}", file=sys.stderr)
        return 1
    match arguments.verb:
        case "shell":
            return laboratory.shell()
        case "test":
            environment = os.environ | ({"BANGER_LAB_KEEP": "1"} if arguments.keep else {})
            words = rest or ["tests/lab"]
            os.execve(sys.executable, [sys.executable, "-m", "pytest", *words], environment)
        case "down":
            laboratory.remove_kept(delete=arguments.delete)
        case _:
            kept = laboratory.kept_laboratory()
            print(f"{kept.name} is up: ./dev lab shell, or BANGER_HOME={kept.outside.home} banger vm exec {kept.name} -- COMMAND", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
