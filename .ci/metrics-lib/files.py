"""What can be said of the files alone."""

import re
import subprocess
import sys
from pathlib import Path

import boards
import docs

RULES = sorted(str(path) for path in Path("prometheus/rules").glob("*.yml"))
TESTS = sorted(str(path) for path in Path("prometheus/tests").glob("*.yml"))


def check() -> list[str]:
    problems = []
    for command in (
        [sys.executable, "-B", "grafana/build.py", "--check"],
        ["promtool", "check", "config", "prometheus/prometheus.yml"],
        ["promtool", "check", "rules", *RULES],
        ["promtool", "test", "rules", *TESTS],
    ):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            problems.append(f"{' '.join(command)}:\n{done.stdout}{done.stderr}")
    loaded = boards.load()
    problems += boards.check(loaded)
    problems += check_alerts(Path("prometheus/rules/alerts.yml").read_text())
    problems += check_recorded(loaded)
    if not problems:
        panels = sum(panel["type"] != "row" for board in loaded.values() for panel in board["panels"])
        print(f"metrics: {len(loaded)} dashboards with {panels} panels, {len(RULES)} files of rules, their tests: in order")
    return problems


def check_alerts(text: str):
    """Each alert says what it is, leads to its runbook, and fires in a test."""
    tests = "".join(Path(path).read_text() for path in TESTS)
    headings = docs.anchors()
    for alert in re.split(r"\n\s*- alert: ", text)[1:]:
        name = alert.split(maxsplit=1)[0]
        for part in ("severity:", "summary:", "description:", "runbook_url:"):
            if part not in alert:
                yield f"alert {name} has no {part[:-1]}"
        anchor = re.search(r"runbook_url: .*/observability\.md#(\w+)'", alert)
        if not anchor or anchor.group(1) not in headings:
            yield f"alert {name}: its runbook is no heading of docs/observability.md"
        fires = rf'labels: .ALERTS{{alertname="{name}", alertstate="firing"|alertname: {name}\n.*\n\s+exp_alerts:\n'
        if not re.search(fires, tests):
            yield f"alert {name} fires in no test"


def check_recorded(loaded: dict[str, dict]):
    """What dashboards and rules take from recording rules is recorded."""
    rules = "".join(Path(path).read_text() for path in RULES)
    recorded = set(re.findall(r"- record: (\S+)", rules))
    asked = {name: " ".join(expr for _, _, expr, _ in boards.queries(board)) for name, board in loaded.items()}
    for where, text in {"rules": rules, **asked}.items():
        for name in sorted(set(re.findall(r"\b\w+:conclave_\w+:\w+", text)) - recorded):
            yield f"{where}: nothing records {name}"
