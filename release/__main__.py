"""``./dev release``: build, gather, write down and sign a release. The same tree gives the same bytes."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from banger import __version__
from banger.model.errors import BangerError
from banger.system.units import units_digest
from banger.system.wheel import python_version
from release.publish import Edition, publish
from release.wheels import ROOT, build_wheel, gather_dependencies


def main(words: list[str]) -> int:
    options = parse(words)
    epoch = source_date(allow_dirty=options.allow_dirty)
    with tempfile.TemporaryDirectory(prefix="banger-release-") as scratch:
        wheel = build_wheel(Path(scratch), epoch)
        pythons = {python: [wheel, *gather_dependencies(Path(scratch, python), python, options.wheels)] for python in options.python or [python_version()]}
        edition = Edition(version=__version__, epoch=epoch, units=units_digest(), min_from=options.min_from, pythons=pythons)
        notes = publish(options.out, edition, key=options.key, signers=options.signers)
    for note in notes:
        print(f"release: {note}", file=sys.stderr)
    print(options.out / __version__)
    return 0


def parse(words: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="./dev release", description="Make a release of this tree. Publishing is copying the directory to a web server.")
    parser.add_argument(
        "--key", type=Path, help="private key to sign with, or the public one of a key that ssh-agent has; without it the release is not signed"
    )
    parser.add_argument("--out", type=Path, default=ROOT / "dist/release", help="directory of all releases; those that are there stay (default: dist/release)")
    parser.add_argument("--python", action="append", metavar="X.Y", help="a Python to gather for; can be given several times (default: the one that runs this)")
    parser.add_argument("--wheels", type=Path, help="directory with the wheels of what banger needs, instead of the package index")
    parser.add_argument("--min-from", default="0.0", metavar="VERSION", help="the oldest version that can be updated to this one directly")
    parser.add_argument(
        "--signers",
        type=Path,
        default=ROOT / "src/banger/system/release_keys",
        help="public keys that the signature must be by (default: those of the package)",
    )
    parser.add_argument("--allow-dirty", action="store_true", help="also with changes that are not committed")
    return parser.parse_args(words)


def source_date(*, allow_dirty: bool) -> int:
    """Seconds since the epoch of the commit (https://reproducible-builds.org/specs/source-date-epoch/), or what the environment says."""
    if not allow_dirty and (changes := git("status", "--porcelain")):
        raise BangerError(f"there are changes that are not committed:\n{changes}", hint="commit them, or --allow-dirty")
    return int(os.environ.get("SOURCE_DATE_EPOCH") or git("log", "-1", "--format=%ct"))


def git(*words: str) -> str:
    return subprocess.run(["git", "-C", ROOT, *words], check=True, capture_output=True, text=True).stdout.strip()


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except BangerError as failure:
        print(f"release: {failure.message}" + (f"\nhint: {failure.hint}" if failure.hint else ""), file=sys.stderr)
        sys.exit(1)
