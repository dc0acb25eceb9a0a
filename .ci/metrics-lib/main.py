"""The entry of `.ci/metrics`; see there."""

import os
import sys
from pathlib import Path

import files
import live
import run

ROOT = Path(__file__).resolve().parent.parent.parent


def main() -> int:
    os.chdir(ROOT)
    arguments = sys.argv[1:]
    if arguments[:1] == ["--inside"]:
        return run.inside(*arguments[1:])
    what = arguments[0] if arguments else ""
    if what.startswith("http://"):
        return report(live.check(live.Prometheus(what.rstrip("/")), os.environ.get("CONCLAVE_METRICS_TARGETS", "").split()))
    failed = report(files.check())
    if failed or not what:
        return failed
    if not os.access(what, os.X_OK):
        print(f"{what} is neither a program nor http://host:port", file=sys.stderr)
        return 2
    # Built beside it.
    chaos = os.path.realpath(what) + "-chaos"
    if not os.access(chaos, os.X_OK):
        print(f"there is no {chaos}: cargo build -p conclave-cli -p conclave-chaos", file=sys.stderr)
        return 2
    return run.outside(os.path.realpath(what), chaos)


def report(problems: list[str]) -> int:
    for problem in problems:
        print(f"metrics: {problem}", file=sys.stderr)
    if problems:
        print(f"metrics: {len(problems)} problems", file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
