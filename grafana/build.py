#!/usr/bin/env python3
"""Writes the dashboards from their sources.

    grafana/build.py            writes dashboards/*.json
    grafana/build.py --check    says which of them are not what the sources say, and fails

The JSON is kept beside the sources, because Grafana reads it and because a review should see what changes. The
sources are in source/, one file for each dashboard; nothing but Python's standard library is needed.
"""

import json
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE / "source"))
sys.dont_write_bytecode = True

import chaos  # noqa: E402
import discovery  # noqa: E402
import overview  # noqa: E402
import raft  # noqa: E402


def main() -> int:
    check = sys.argv[1:] == ["--check"]
    if sys.argv[1:] and not check:
        print(__doc__, file=sys.stderr)
        return 2
    old = []
    boards = {"overview": overview.BOARD, "raft": raft.BOARD, "discovery": discovery.BOARD, "chaos": chaos.BOARD}
    for name, board in boards.items():
        path = HERE / "dashboards" / f"{name}.json"
        text = json.dumps(board.json(), indent=2, ensure_ascii=False) + "\n"
        if check and (not path.exists() or path.read_text() != text):
            old.append(path)
        elif not check:
            path.write_text(text)
    for path in old:
        print(f"{path} is not what its source says: run grafana/build.py", file=sys.stderr)
    return 1 if old else 0


if __name__ == "__main__":
    sys.exit(main())
