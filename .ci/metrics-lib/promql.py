"""As much of PromQL as it takes to know which series an expression asks for."""

import re

NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
STRING = re.compile(r'"(?:[^"\\]|\\.)*"')
# What rules and dashboards ask for besides conclave's own metrics.
FOREIGN = {"up", "ALERTS"}


def is_own(name: str) -> bool:
    """Whether conclave's processes expose it: their own metrics and, under the standard names, those of a process and of gRPC servers."""
    return name.startswith(("conclave_", "process_", "grpc_server_"))


def is_metric(name: str) -> bool:
    return is_own(name) or "conclave_" in name or name in FOREIGN


def selectors(expr: str) -> list[tuple[str, str]]:
    """Every metric that an expression names, with the labels it asks for (the text between the braces)."""
    found = []
    # The same length without what stands in quotes, where names do not count.
    plain = STRING.sub(lambda match: '"' + "_" * (len(match.group()) - 2) + '"', expr)
    for match in NAME.finditer(plain):
        if not is_metric(match.group()) or plain[: match.start()].count('"') % 2:
            continue
        labels = ""
        if plain[match.end() :].startswith("{"):
            labels = expr[match.end() + 1 : plain.index("}", match.end())]
        found.append((match.group(), labels))
    return found


def metrics(expr: str) -> set[str]:
    """conclave's metrics in an expression, recorded ones too, histograms by their family."""
    return {family(name) for name, _ in selectors(expr) if name not in FOREIGN}


def family(name: str) -> str:
    """A histogram's name from the name of one of its series."""
    return re.sub(r"_(bucket|sum|count)$", "", name) if ":" not in name else name


def substitute(expr: str, values: dict[str, str]) -> str:
    """An expression with its variables replaced."""
    return re.sub(r"\$\{?(\w+)\}?", lambda match: values[match.group(1)], expr)
