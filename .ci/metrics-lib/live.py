"""Questions to a running Prometheus: everything that dashboards and rules ask, and which metrics there are."""

import json
import math
import os
import ssl
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import NamedTuple

import boards
import docs
import promql

ALLOWED = Path(".ci/metrics-allowed")
# Grafana's windows for the last quarter of an hour at this scrape interval.
WINDOWS = {"__rate_interval": "20s", "__range": "15m", "__interval": "5s"}
STEP = 5
LOOK_BACK = 180
CHAOS = "conclave_chaos_"


class Prometheus:
    def __init__(self, url: str, began: float | None = None):
        """`began` is when that began what is looked at, in seconds since 1970: by default, LOOK_BACK seconds ago."""
        self.url = url
        self.began = began

    def get(self, path: str, **parameters):
        url = f"{self.url}/api/v1/{path}?{urllib.parse.urlencode(parameters, doseq=True)}"
        try:
            with urllib.request.urlopen(url, timeout=30) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            raise ValueError(json.load(error).get("error", str(error))) from error

    def values(self, label: str, *match: str) -> list[str]:
        return self.get(f"label/{label}/values", **({"match[]": match} if match else {}))

    def has_values(self, expr: str, now_only: bool) -> bool:
        """Whether an expression has had any number since the beginning, or has one now."""
        return any(not math.isnan(value) for value in self.numbers(expr, now_only))

    def numbers(self, expr: str, now_only: bool = False) -> list[float]:
        """All numbers of an expression since the beginning, or now."""
        now = time.time()
        began = now - LOOK_BACK if self.began is None else self.began
        if now_only:
            series = self.get("query", query=expr, time=now)["result"]
            points = [one["value"] for one in series]
        else:
            series = self.get("query_range", query=expr, start=began, end=now, step=STEP)["result"]
            points = [point for one in series for point in one["values"]]
        return [float(value) for _, value in points]


class Allowed(NamedTuple):
    """What may be empty, what may be absent, and what is no metric."""

    empty: set[str]
    absent: set[str]
    other: set[str]


def allowed() -> Allowed:
    found = Allowed(set(), set(), set())
    for line in ALLOWED.read_text().splitlines():
        kind, _, what = line.partition("#")[0].strip().partition(": ")
        if kind:
            getattr(found, kind).add(what.strip())
    return found


def check(prometheus: Prometheus, targets: list[str]) -> list[str]:
    """Everything that is wrong."""
    clusters = prometheus.values("cluster", 'up{job="conclave"}')
    if len(clusters) != 1:
        return [f"not one cluster, but {clusters}"]
    began = time.monotonic()
    passing = allowed()
    loaded = boards.load()
    # A chaos controller need not run everywhere, but where it does everything of it is looked at.
    if not prometheus.has_values('up{job="conclave-chaos"} == 1', now_only=True):
        print("metrics: no chaos controller runs here, so nothing of it is looked at")
        passing = without_chaos(passing, loaded)
    asked, problems = check_boards(prometheus, loaded, clusters[0], passing.empty)
    rules, more = check_rules(prometheus, passing.absent)
    problems += more
    problems += check_names(prometheus, loaded, passing)
    problems += [problem for target in targets for problem in check_exposition(target)]
    took = time.monotonic() - began
    print(f"metrics: asked Prometheus {asked} expressions of dashboards and looked at {rules} rules in {took:.0f} s")
    return problems


def without_chaos(passing: Allowed, loaded: dict[str, dict]) -> Allowed:
    """The same, and all that only a chaos controller could show."""
    asked = [(f"{name} / {panel} / {legend}", expr) for name, board in loaded.items() for panel, legend, expr, _ in boards.queries(board)]
    empty = {place for place, expr in asked if of_chaos(expr) or place.startswith("chaos / ")}
    absent = {name for name in docs.documented() if name.startswith(CHAOS)}
    return Allowed(passing.empty | empty, passing.absent | absent, passing.other)


def of_chaos(expr: str) -> bool:
    return CHAOS in expr or 'job="conclave-chaos"' in expr


def check_boards(prometheus: Prometheus, loaded: dict[str, dict], cluster: str, empty: set[str]):
    """Every query of every panel works and shows something."""
    problems, asked, known = [], 0, set()
    for name, board in loaded.items():
        values = variables(prometheus, board, cluster)
        for panel, legend, expr, now_only in boards.queries(board):
            asked += 1
            place = f"{name} / {panel} / {legend}"
            known.add(place)
            try:
                shows = prometheus.has_values(promql.substitute(expr, values), now_only)
            except ValueError as error:
                problems.append(f"{place}: {error}")
                continue
            if not shows and place not in empty:
                problems.append(f"{place} shows nothing: {expr}")
        problems += check_annotations(prometheus, name, board, values)
    problems += [f"metrics-allowed: there is no {place}" for place in sorted(empty - known)]
    return asked, problems


def check_annotations(prometheus: Prometheus, name: str, board: dict, values: dict[str, str], drawn: bool = False):
    """Grafana draws a mark only where a value is above 0. With `drawn`, there must be one."""
    for annotation in board["annotations"]["list"]:
        found = prometheus.numbers(promql.substitute(annotation["expr"], values))
        if (found or drawn) and not any(value > 0 for value in found):
            yield f"{name} / annotation / {annotation['name']} draws nothing: {sorted(set(found))} of {annotation['expr']}"


def variables(prometheus: Prometheus, board: dict, cluster: str) -> dict[str, str]:
    """What a reader has chosen who has chosen nothing: the cluster, and All of the rest."""
    values = {**WINDOWS, "cluster": cluster}
    for variable in board["templating"]["list"]:
        if variable["type"] == "query" and variable["name"] != "cluster":
            selector, label = variable["definition"].removeprefix("label_values(").removesuffix(")").rsplit(",", 1)
            found = prometheus.values(label.strip(), promql.substitute(selector, values))
            # A choice of all is the regular expression for it; that there is a choice is seen nevertheless.
            values[variable["name"]] = variable["allValue"] if found else "|".join(found)
    return values


def check_rules(prometheus: Prometheus, absent: set[str]):
    """Every rule is evaluated without an error, every recorded series is there, and every alert has what it looks at."""
    problems, count = [], 0
    recorded = set(prometheus.values("__name__"))
    for group in prometheus.get("rules")["groups"]:
        for rule in group["rules"]:
            count += 1
            if rule["health"] != "ok" or rule.get("lastError"):
                problems.append(f"rule {rule['name']}: {rule['health']}, {rule.get('lastError')}")
            if rule["type"] == "recording" and rule["name"] not in recorded:
                problems.append(f"rule {rule['name']} records nothing")
            if rule["type"] == "alerting":
                for metric, labels in promql.selectors(rule["query"]):
                    if metric not in absent and not prometheus.has_values(f"{metric}{{{labels}}}", now_only=False):
                        problems.append(f"alert {rule['name']} can never fire: there is no {metric}{{{labels}}}")
    return count, problems


def check_names(prometheus: Prometheus, loaded: dict[str, dict], passing: Allowed):
    """Everything that is asked for or written about is scraped, and what is scraped is written about as it is."""
    scraped = {name: told[0]["type"] for name, told in prometheus.get("metadata").items() if promql.is_own(name)}
    documented = docs.documented()
    for name, board in loaded.items():
        asked = set().union(*(promql.metrics(expr) for _, _, expr, _ in boards.queries(board)))
        missing = sorted(one for one in asked - set(scraped) - passing.absent if ":" not in one)
        yield from (f"dashboard {name}: {one} is not scraped" for one in missing)
    for one, pages in docs.mentioned().items():
        if not {one, promql.family(one)} & {*scraped, *passing.absent, *passing.other}:
            yield f"{', '.join(pages)}: {one} is not scraped"
    for one in sorted(set(scraped) - set(documented)):
        yield f"{one} ({scraped[one]}) is not in {docs.PAGE}"
    for one in sorted(set(documented) & set(scraped)):
        yield from check_documented(prometheus, one, scraped[one], documented[one])
    yield from (f"metrics-allowed: {one} is not documented" for one in sorted(passing.absent - set(documented)))


def check_documented(prometheus: Prometheus, name: str, kind: str, said: docs.Metric):
    if said.kind != kind:
        yield f"{docs.PAGE} calls {name} a {said.kind}; it is a {kind}"
    series = name + "_bucket" if kind == "histogram" else name
    found = prometheus.get("series", **{"match[]": series})
    labels = frozenset().union(*found) - docs.GIVEN
    if found and labels != said.labels:
        yield f"{docs.PAGE} gives {name} the labels {sorted(said.labels)}; it has {sorted(labels)}"


def check_exposition(target: str):
    """What a process says is well formed, by Prometheus' own rules."""
    scheme, context = "http", None
    if authority := os.environ.get("CONCLAVE_METRICS_CA"):
        scheme, context = "https", ssl.create_default_context(cafile=authority)
        # A target is an address here, and certificates have names.
        context.check_hostname = False
    with urllib.request.urlopen(f"{scheme}://{target}/metrics", timeout=10, context=context) as answer:
        text = answer.read()
    done = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, check=False)
    if done.returncode != 0:
        yield f"{target}: promtool check metrics:\n{done.stdout.decode()}{done.stderr.decode()}"
