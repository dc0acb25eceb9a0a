"""What the dashboards are made of: panels with everything that a reader needs, laid out in rows.

Expressions are PromQL with four abbreviations, so that no panel forgets a variable:

    {@c}  the series of the chosen cluster
    {@n}  ... of the chosen nodes
    {@s}  ... of the chosen shards on the chosen nodes
    [@]   the window that fits the resolution of the panel
"""

DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
WIDTH = 24

GREEN, YELLOW, ORANGE, RED, BLUE, PURPLE, GREY = "green", "yellow", "orange", "red", "blue", "purple", "#808080"


def promql(text: str) -> str:
    """An expression without the abbreviations."""
    cluster = 'cluster="$cluster"'
    nodes = cluster + ', node=~"$node"'
    for short, long in (
        ("@c", cluster),
        ("@n", nodes),
        ("@s", nodes + ', shard=~"$shard"'),
        ("[@]", "[$__rate_interval]"),
    ):
        text = text.replace(short, long)
    return " ".join(text.split())


def target(expr: str, legend: str, *, now: bool = False, form: str = "time_series") -> dict:
    """A query. With `now` it asks for the last value instead of for a curve."""
    return {
        "datasource": DATASOURCE,
        "editorMode": "code",
        "expr": promql(expr),
        "format": form,
        "instant": now,
        "legendFormat": legend,
        "range": not now,
    }


def quantiles(metric: str, by: str, who: str, legend: str) -> list[dict]:
    """Median and 99th percentile of a histogram."""
    grouped = f"{by}, le" if by else "le"
    return [
        target(f"histogram_quantile({q}, sum by ({grouped}) (rate({metric}_bucket{{{who}}}[@])))", f"p{p} {legend}".strip())
        for q, p in (("0.50", "50"), ("0.99", "99"))
    ]


def steps(first: str, *more: tuple[str, float]) -> dict:
    """Colours from thresholds: the first below all of them."""
    rest = [{"color": color, "value": value} for color, value in more]
    return {"mode": "absolute", "steps": [{"color": first, "value": None}, *rest]}


def values(**names: tuple[int, str]) -> list[dict]:
    """What numbers mean: name=(number, colour)."""
    options = {
        str(number): {"color": color, "index": index, "text": name.replace("_", " ")}
        for index, (name, (number, color)) in enumerate(names.items())
    }
    return [{"type": "value", "options": options}]


def panel(kind: str, title: str, about: str, unit: str, targets: list[dict], **parts) -> dict:
    """Any panel. `parts` has its defaults, custom settings, thresholds, mappings and options."""
    defaults = {"unit": unit, **parts.get("defaults", {})}
    for part in ("custom", "thresholds", "mappings"):
        if part in parts:
            defaults[part] = parts[part]
    return {
        "type": kind,
        "title": title,
        "description": about,
        "datasource": DATASOURCE,
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "options": parts.get("options", {}),
        "targets": [{"refId": chr(ord("A") + index), **query} for index, query in enumerate(targets)],
        **({"transformations": parts["transformations"]} if "transformations" in parts else {}),
    }


def curves(title, about, unit, targets, *, stack=False, bars=False, step=False, **parts) -> dict:
    """Curves over time, with their last and highest value in the legend."""
    custom = {
        "drawStyle": "bars" if bars else "line",
        "fillOpacity": 60 if bars else 30 if stack else 0,
        "lineInterpolation": "stepAfter" if step else "linear",
        "lineWidth": 1,
        "showPoints": "never",
        "spanNulls": False,
        "stacking": {"group": "A", "mode": "normal" if stack else "none"},
    }
    options = {
        "legend": {"calcs": ["lastNotNull", "max"], "displayMode": "table", "placement": "bottom", "showLegend": True},
        "tooltip": {"mode": "multi", "sort": "desc"},
    }
    parts.setdefault("defaults", {}).setdefault("min", 0)
    return panel("timeseries", title, about, unit, targets, custom=custom, options=options, **parts)


def number(title, about, unit, expr, legend, thresholds, *, decimals=None, nothing=None, **parts) -> dict:
    """One number, coloured by what it means, with its recent course behind it; without, where the number is about the whole
    time that is shown, which is asked for once. `nothing` is what it says when there is nothing."""
    whole = "[$__range]" in expr
    options = {
        "colorMode": "value",
        "graphMode": "none" if whole else "area",
        "justifyMode": "auto",
        "orientation": "auto",
        "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
        "textMode": "value",
    }
    defaults = {name: value for name, value in (("decimals", decimals), ("noValue", nothing)) if value is not None}
    queries = [target(expr, legend, now=whole)]
    return panel("stat", title, about, unit, queries, defaults=defaults, thresholds=thresholds, options=options, **parts)


def states(title, about, expr, legend, mappings) -> dict:
    """Bars over time whose colours are states."""
    options = {
        "alignValue": "left",
        "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True},
        "mergeValues": True,
        "rowHeight": 0.85,
        "showValue": "auto",
        "tooltip": {"mode": "single", "sort": "none"},
    }
    custom = {"fillOpacity": 80, "lineWidth": 0, "spanNulls": False}
    queries = [target(expr, legend)]
    return panel(
        "state-timeline", title, about, "none", queries, custom=custom, mappings=mappings, options=options,
        thresholds=steps(GREY),
    )


def heat(title, about, metric, who) -> dict:
    """How many observations of a histogram of seconds fell into which bucket, over time."""
    options = {
        "calculate": False,
        "cellGap": 1,
        "color": {"exponent": 0.5, "fill": "dark-orange", "mode": "scheme", "scheme": "Oranges", "steps": 64},
        "filterValues": {"le": 1e-9},
        "legend": {"show": True},
        "rowsFrame": {"layout": "auto"},
        "tooltip": {"mode": "single", "yHistogram": False},
        "yAxis": {"axisPlacement": "left", "reverse": False, "unit": "s"},
    }
    queries = [target(f"sum by (le) (increase({metric}_bucket{{{who}}}[@]))", "{{le}}", form="heatmap")]
    return panel("heatmap", title, about, "s", queries, options=options)


def table(title, about, expr, columns: dict[str, str]) -> dict:
    """The labels of an expression's series, one row each: label to heading, in this order."""
    organize = {
        "excludeByName": {},
        "includeByName": {label: True for label in columns},
        "indexByName": {label: index for index, label in enumerate(columns)},
        "renameByName": columns,
    }
    queries = [target(expr, "{{node}}", now=True, form="table")]
    return panel(
        "table", title, about, "none", queries, options={"cellHeight": "sm", "showHeader": True},
        transformations=[{"id": "organize", "options": organize}],
    )


def variable(name, label, query, *, many, sort) -> dict:
    """A choice from a label's values."""
    everything = {"selected": True, "text": ["All"], "value": ["$__all"]}
    return {
        "type": "query",
        "name": name,
        "label": label,
        "datasource": DATASOURCE,
        "definition": query,
        "query": {"qryType": 1, "query": query, "refId": "PrometheusVariableQueryEditor-VariableQuery"},
        "refresh": 2,
        "sort": sort,
        "multi": many,
        "includeAll": many,
        # Also those that come later: without this, All is what there was when the page was loaded.
        "allValue": ".+" if many else None,
        "current": everything if many else {},
        "options": [],
        "hide": 0,
        "skipUrlSync": False,
    }


BY_NAME, BY_NUMBER = 1, 3
CLUSTER = variable("cluster", "Cluster", "label_values(up{job=~\"conclave.*\"}, cluster)", many=False, sort=BY_NAME)
NODE = variable("node", "Server", 'label_values(up{job="conclave", cluster="$cluster"}, node)', many=True, sort=BY_NAME)
RESOLVER = variable(
    "node", "Resolver", 'label_values(up{job="conclave-dns", cluster="$cluster"}, node)', many=True, sort=BY_NAME
)
SHARD = variable("shard", "Shard", 'label_values(conclave_raft_term{cluster="$cluster"}, shard)', many=True, sort=BY_NUMBER)


def annotation(name: str, expr: str, color: str, title: str) -> dict:
    """Marks in every panel, while an expression has a value above 0: others are not drawn."""
    return {
        "name": name,
        "datasource": DATASOURCE,
        "enable": True,
        "expr": promql(expr),
        "iconColor": color,
        "step": "5s",
        "tagKeys": "node,shard,fault",
        "textFormat": "",
        "titleFormat": title,
        "useValueForTime": False,
    }


ELECTIONS = annotation(
    "Elections",
    "max by (shard) (changes(conclave_raft_term{@c}[@])) > 0",
    "purple",
    "shard {{shard}}: new term",
)
FAULTS = annotation("Faults", "conclave_chaos_fault_active{@c} == 1", "orange", "{{fault}} at {{node}}, on purpose")
DOWN = annotation("Servers down", "node:conclave_server_down:max{@c} == 1", "red", "{{node}} is down")
# Also of a server that was away for less time than there is between two looks.
STARTS = annotation("Starts", 'node:conclave_start_time_seconds:max{job="conclave", @c} > time() - 15', "blue", "{{node}} was started")


class Board:
    """A dashboard: rows of panels, each with its width, ids and places worked out here."""

    def __init__(self, uid: str, title: str, about: str, variables: list[dict], annotations: list[dict]):
        self.uid, self.title, self.about = uid, title, about
        self.variables, self.annotations = variables, annotations
        self.panels: list[dict] = []
        self.y = 0

    def row(self, title: str) -> None:
        """Begins a row with a heading."""
        self._put({"type": "row", "title": title, "collapsed": False, "panels": []}, 0, WIDTH, 1)
        self.y += 1

    def line(self, height: int, *panels: dict) -> None:
        """Panels side by side, of equal width."""
        width = WIDTH // len(panels)
        for index, one in enumerate(panels):
            self._put(one, index * width, width, height)
        self.y += height

    def _put(self, one: dict, x: int, width: int, height: int) -> None:
        place = {"h": height, "w": width, "x": x, "y": self.y}
        self.panels.append({"id": len(self.panels) + 1, "gridPos": place, **one})

    def json(self) -> dict:
        datasource = {
            "type": "datasource",
            "name": "datasource",
            "label": "Data source",
            "query": "prometheus",
            "current": {"selected": True, "text": "Prometheus", "value": "prometheus"},
            "refresh": 1,
            "hide": 0,
            "includeAll": False,
            "multi": False,
            "options": [],
            "regex": "",
            "skipUrlSync": False,
        }
        others = {
            "type": "dashboards",
            "title": "conclave",
            "tags": ["conclave"],
            "asDropdown": False,
            "includeVars": False,
            "keepTime": True,
            "targetBlank": False,
            "icon": "external link",
            "tooltip": "",
            "url": "",
        }
        return {
            "uid": self.uid,
            "title": self.title,
            "description": self.about,
            "tags": ["conclave"],
            "schemaVersion": 39,
            "version": 1,
            "editable": False,
            "graphTooltip": 1,
            "refresh": "5s",
            "time": {"from": "now-15m", "to": "now"},
            "timepicker": {"refresh_intervals": ["5s", "10s", "30s", "1m", "5m"]},
            "timezone": "browser",
            "fiscalYearStartMonth": 0,
            "weekStart": "",
            "links": [others],
            "annotations": {"list": self.annotations},
            "templating": {"list": [datasource, *self.variables]},
            "panels": self.panels,
        }
