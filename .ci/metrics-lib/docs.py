"""What docs/observability.md says of metrics: one row of a table for each."""

import re
from pathlib import Path
from typing import NamedTuple

PAGE = Path("docs/observability.md")
# Names of Rust crates look like metrics.
CRATES = {f"conclave_{crate}" for crate in ("core", "proto", "store", "server", "dns", "client", "cli", "check", "chaos")}
# Labels that every series gets from the scrape, or every histogram by its nature.
GIVEN = {"__name__", "job", "instance", "cluster", "node", "le"}


class Metric(NamedTuple):
    kind: str
    labels: frozenset[str]


def documented() -> dict[str, Metric]:
    """The tables' rows: | `name` | type | labels | meaning |"""
    rows = re.findall(r"^\| `((?:conclave|process|grpc_server)_\w+)` \| (\w+) \| ([^|]*)\|[^|]*\S[^|]*\|$", PAGE.read_text(), re.MULTILINE)
    return {name: Metric(kind, frozenset(re.findall(r"`(\w+)`", labels))) for name, kind, labels in rows}


def mentioned() -> dict[str, list[str]]:
    """Every metric that any page names, and where."""
    found: dict[str, list[str]] = {}
    for path in sorted([*Path("docs").rglob("*.md"), *Path().glob("*.md")]):
        for name in set(re.findall(r"(?<![\w:./])(?:conclave|process|grpc_server)_[a-z0-9_]*[a-z0-9](?![\w*])", path.read_text())):
            if name not in CRATES:
                found.setdefault(name, []).append(str(path))
    return found


def anchors() -> set[str]:
    """The headings of the page, as links name them."""
    headings = re.findall(r"^#+ (.+)$", PAGE.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading).strip().lower().replace(" ", "-") for heading in headings}
