"""`./dev bench [NAME...]`: measure, print, write the raw samples to bench/results/latest.json and, after a whole run, the table to README.md."""

from __future__ import annotations

import json
import platform
import sys
import time
from pathlib import Path
from typing import Final

from banger import __version__
from banger.host import facts
from bench.hosts import accelerator_of, instance
from bench.measures import MEASURES
from bench.samples import Finding

ROOT: Final = Path(__file__).parents[1]
RESULTS: Final = ROOT / "bench/results/latest.json"
_BEGIN, _END = "<!-- numbers: written by ./dev bench -->\n", "<!-- /numbers -->"


def main(names: list[str]) -> int:
    """Run the named measures, or all; returns 1 when a limit is not reached."""
    unknown = [name for name in names if name not in MEASURES]
    if unknown:
        print(f"no such measure: {', '.join(unknown)}; there are {', '.join(MEASURES)}", file=sys.stderr)
        return 2
    findings: dict[str, list[Finding]] = {}
    with instance() as found:
        host = describe_host(accelerator_of(found))
        for name in names or MEASURES:
            findings[name] = MEASURES[name](found)
            for finding in findings[name]:
                print(f"{'ok  ' if finding.reached else 'MISS'} {finding.what}: {finding.shown} ({finding.wanted})", flush=True)
    write_results(host, findings)
    if not names:
        write_table(host, [finding for group in findings.values() for finding in group])
    return 0 if all(finding.reached for group in findings.values() for finding in group) else 1


def describe_host(accelerator: str) -> str:
    model = next((line.split(":", 1)[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")), "unknown CPU")
    return f"{facts.cpu_count()} x {model}, Linux {platform.release()}, Python {platform.python_version()}, accelerator {accelerator}"


def write_results(host: str, findings: dict[str, list[Finding]]) -> None:
    """Replace the groups that were measured, keep the others."""
    RESULTS.parent.mkdir(exist_ok=True)
    known = json.loads(RESULTS.read_text())["measures"] if RESULTS.exists() else {}
    stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    fresh = {name: {"at": stamp, "host": host, "findings": [finding.as_json() for finding in group]} for name, group in findings.items()}
    RESULTS.write_text(json.dumps({"version": __version__, "measures": known | fresh}, indent=1) + "\n")


def write_table(host: str, findings: list[Finding]) -> None:
    """Put the table between its markers in README.md."""
    path = ROOT / "README.md"
    before, _, rest = path.read_text().partition(_BEGIN)
    _, _, after = rest.partition(_END)
    rows = "".join(f"| {finding.what} | {finding.shown} | {finding.wanted} |\n" for finding in findings)
    words = f"Medians of one run of `./dev bench` (raw samples: [bench/results/latest.json](bench/results/latest.json)) on {host}:\n\n"
    path.write_text(f"{before}{_BEGIN}{words}| what | measured | wanted |\n|---|---|---|\n{rows}{_END}{after}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
