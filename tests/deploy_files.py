"""What the files in ``deploy`` for Prometheus and Grafana ask for."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

DEPLOY = Path(__file__).parent.parent / "deploy"
ALERTS = DEPLOY / "prometheus" / "alerts.yml"
DASHBOARD = DEPLOY / "grafana" / "stfs.json"

_NAME = re.compile(r"\b(?:(?:stfs|process|python)_\w+|up(?=\{))")


def dashboard() -> dict[str, Any]:
    return json.loads(DASHBOARD.read_text())


def dashboard_queries() -> list[str]:
    """Every query of every panel and variable."""
    told = dashboard()
    queries = [target["expr"] for panel in told["panels"] for target in panel.get("targets", ())]
    return queries + [one["query"]["query"] for one in told["templating"]["list"] if one["type"] == "query"]


def alert_queries() -> list[str]:
    """Every ``expr``, read line by line, since no reader of YAML is among what the tests need."""
    found: list[str] = []
    deeper = 0
    for line in ALERTS.read_text().splitlines():
        indent = len(line) - len(line.lstrip())
        if match := re.match(r"\s*expr: (.*)", line):
            found.append("" if match[1] == "|" else match[1])
            deeper = indent if match[1] == "|" else 1_000
        elif found and indent > deeper:
            found[-1] += line.strip() + " "
        else:
            deeper = 1_000
    return found


def names_in(query: str) -> set[str]:
    """The metrics that a query asks for."""
    return set(_NAME.findall(re.sub(r'"[^"]*"', '""', query)))
