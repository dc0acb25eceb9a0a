"""The dashboards' JSON: what is in it, and what is wrong with it."""

import json
import re
from pathlib import Path

import promql

FOLDER = Path("grafana/dashboards")
SCHEMA = 39
WIDTH = 24
KINDS = {"row", "stat", "timeseries", "state-timeline", "heatmap", "table"}
UNITS = {"none", "short", "s", "d", "ops", "reqps", "bytes", "Bps", "percentunit"}
# Windows that grow with what is shown; a fixed one leaves holes or hides what happened.
WINDOWS = {"$__rate_interval", "$__range"}


def load() -> dict[str, dict]:
    return {path.stem: json.loads(path.read_text()) for path in sorted(FOLDER.glob("*.json"))}


def queries(board: dict):
    """(panel, legend, expression, asked for the last value only) of everything that a dashboard asks."""
    for panel in board["panels"]:
        for target in panel.get("targets", []):
            yield panel["title"], target["legendFormat"], target["expr"], target["instant"]
    for annotation in board["annotations"]["list"]:
        yield "annotation", annotation["name"], annotation["expr"], False


def check(boards: dict[str, dict]) -> list[str]:
    problems = []
    for key in ("uid", "title"):
        every = [board.get(key) for board in boards.values()]
        problems += [f"dashboards: {key} {one!r} twice" for one in {one for one in every if every.count(one) > 1}]
    for name, board in boards.items():
        problems += [f"dashboard {name}: {problem}" for problem in check_board(board)]
    return problems


def check_board(board: dict):
    if not re.fullmatch(r"conclave-[a-z]+", board.get("uid") or ""):
        yield f"uid {board.get('uid')!r} is not conclave-<name>"
    if board.get("schemaVersion") != SCHEMA:
        yield f"schemaVersion is not {SCHEMA}"
    if board.get("editable") is not False or "id" in board:
        yield "provisioned dashboards are not editable and have no id"
    if not board.get("description") or "conclave" not in board.get("tags", []):
        yield "no description, or not tagged conclave"
    variables = {variable["name"] for variable in board["templating"]["list"]}
    if not {"datasource", "cluster", "node"} <= variables:
        yield f"variables are only {sorted(variables)}"
    yield from check_places(board["panels"])
    titles = [panel["title"] for panel in board["panels"] if panel["type"] != "row"]
    for title in {title for title in titles if titles.count(title) > 1}:
        yield f"two panels are called {title!r}"
    for panel in board["panels"]:
        if panel["type"] not in KINDS:
            yield f"{panel['title']}: unknown type {panel['type']}"
        if panel["type"] != "row":
            yield from (f"{panel['title']}: {problem}" for problem in check_panel(panel))
    for panel, legend, expr, _ in queries(board):
        yield from (f"{panel} / {legend}: {problem}" for problem in check_expression(expr, variables))
    for annotation in board["annotations"]["list"]:
        if not annotation.get("titleFormat") or not annotation.get("enable"):
            yield f"annotation {annotation.get('name')}: no title, or off"
    for variable in board["templating"]["list"]:
        if variable["includeAll"] and variable.get("allValue") != ".+":
            yield f"variable {variable['name']}: All is not .+, so that a new server is not among them until the page is loaded again"


def check_places(panels: list[dict]):
    ids = [panel["id"] for panel in panels]
    if len(set(ids)) != len(ids):
        yield "ids are not unique"
    taken: dict[tuple[int, int], str] = {}
    for panel in panels:
        place = panel["gridPos"]
        if place["x"] < 0 or place["w"] < 1 or place["h"] < 1 or place["x"] + place["w"] > WIDTH:
            yield f"{panel['title']} does not fit: {place}"
        cells = [(x, y) for x in range(place["x"], place["x"] + place["w"]) for y in range(place["y"], place["y"] + place["h"])]
        for other in sorted({taken[cell] for cell in cells if cell in taken}):
            yield f"{panel['title']} overlaps {other}"
        taken |= {cell: panel["title"] for cell in cells}


def check_panel(panel: dict):
    if not re.search(r"\S.*\.$", panel.get("description") or ""):
        yield "no description, or not a sentence"
    if panel.get("datasource") != {"type": "prometheus", "uid": "${datasource}"}:
        yield "the data source is not the variable"
    unit = panel["fieldConfig"]["defaults"].get("unit")
    if unit not in UNITS:
        yield f"unknown unit {unit!r}"
    # Numbers above 1,000 have no k without.
    if unit == "none" and panel["type"] in {"stat", "timeseries"}:
        yield "a number has no unit: say short"
    targets = panel.get("targets", [])
    if not targets:
        yield "asks nothing"
    if len({target["refId"] for target in targets}) != len(targets):
        yield "refIds are not unique"
    for target in targets:
        if not target.get("legendFormat"):
            yield f"{target['refId']} has no legend"
        if "$__range" in target["expr"] and not target["instant"]:
            yield f"{target['refId']} asks for the whole time shown at every step"
        if target.get("datasource") != panel["datasource"]:
            yield f"{target['refId']} has another data source"


def check_expression(expr: str, variables: set[str]):
    if "vector(0)" in expr:
        yield "says 0 where there is nothing to see"
    for window in re.findall(r"\[([^]]*)\]", expr):
        if window not in WINDOWS:
            yield f"the window [{window}] does not fit every resolution"
    for used in re.findall(r"\$(\w+)", expr):
        if used not in variables and not used.startswith("__"):
            yield f"there is no variable ${used}"
    for metric, labels in promql.selectors(expr):
        if 'cluster="$cluster"' not in labels:
            yield f"{metric} is not limited to the chosen cluster"
