"""What a dashboard is made of, and its JSON (Grafana 10 and later, schema version 39)."""

import json
from dataclasses import dataclass
from string import ascii_uppercase
from typing import Any, Literal

SCHEMA_VERSION = 39
COLUMNS = 24
SOURCE = {"type": "prometheus", "uid": "${datasource}"}
Json = dict[str, Any]
Unit = Literal["short", "s", "bytes", "percentunit", "reqps", "ops", "none"]
"""Grafana's names; `percentunit` shows a share of 1 in percent."""


@dataclass(frozen=True)
class Query:
    """PromQL, and what a series is called: `{{model}}` is the label's value."""

    expr: str
    legend: str = ""


@dataclass(frozen=True)
class Panel:
    """A picture. `description` says what it means and when to worry.

    `bounds` are the values from which on it is yellow and red; where the first is the larger one,
    low is bad.
    """

    title: str
    description: str
    queries: tuple[Query, ...]
    kind: Literal["timeseries", "stat", "table", "heatmap"] = "timeseries"
    unit: Unit = "short"
    width: int = 8
    height: int = 8
    stacked: bool = False
    bounds: tuple[float, float] | None = None
    hidden: tuple[str, ...] = ()
    """Columns of a table that tell nothing."""

    def as_dict(self, number: int, x: int, y: int) -> Json:
        """The panel with its id, at column `x` and line `y`."""
        return {
            "id": number,
            "type": self.kind,
            "title": self.title,
            "description": self.description,
            "datasource": SOURCE,
            "gridPos": {"x": x, "y": y, "w": self.width, "h": self.height},
            "fieldConfig": {"defaults": self._defaults(), "overrides": []},
            "options": _OPTIONS[self.kind],
            "targets": [self._target(ref, query) for ref, query in self._lettered()],
        } | ({"transformations": self._transformations()} if self.kind == "table" else {})

    def _lettered(self) -> list[tuple[str, Query]]:
        return list(zip(ascii_uppercase, self.queries, strict=False))

    def _target(self, ref: str, query: Query) -> Json:
        once = self.kind in {"stat", "table"}
        formats = {"table": "table", "heatmap": "heatmap"}
        return {
            "refId": ref,
            "datasource": SOURCE,
            "expr": query.expr,
            "legendFormat": query.legend or "__auto",
            "format": formats.get(self.kind, "time_series"),
            "instant": once,
            "range": not once,
        }

    def _defaults(self) -> Json:
        defaults: Json = {"unit": self.unit, "min": 0, "thresholds": _thresholds(self.bounds)}
        if self.kind == "stat":
            return defaults | {"color": {"mode": "thresholds"}}
        if self.kind != "timeseries":
            return defaults
        return defaults | {
            "color": {"mode": "palette-classic"},
            "custom": {
                "drawStyle": "line",
                "lineWidth": 1,
                "fillOpacity": 25 if self.stacked else 5,
                "showPoints": "auto",
                "stacking": {"mode": "normal" if self.stacked else "none", "group": "A"},
                "thresholdsStyle": {"mode": "line" if self.bounds else "off"},
            },
        }

    def _transformations(self) -> list[Json]:
        """One line an object, one column a query, with the query's legend over it."""
        several = len(self.queries) > 1
        named = {
            f"Value #{ref}" if several else "Value": query.legend for ref, query in self._lettered()
        }
        hidden = {"Time", *self.hidden, *(value for value, legend in named.items() if not legend)}
        organized = {
            "excludeByName": dict.fromkeys(sorted(hidden), True),
            "renameByName": {value: legend for value, legend in named.items() if legend},
            "indexByName": {},
        }
        return [{"id": "merge", "options": {}}, {"id": "organize", "options": organized}]


@dataclass(frozen=True)
class Row:
    """Panels under a heading."""

    title: str
    panels: tuple[Panel, ...]


@dataclass(frozen=True)
class Variable:
    """A choice at the top: the values of `label` that `metric` has; all of them at first."""

    name: str
    title: str
    metric: str
    label: str

    @property
    def query(self) -> str:
        """What Grafana asks for; a later variable offers what the earlier ones leave."""
        return f"label_values({self.metric}, {self.label})"

    def as_dict(self) -> Json:
        """As a templating variable."""
        return {
            "name": self.name,
            "label": self.title,
            "type": "query",
            "datasource": SOURCE,
            "definition": self.query,
            "query": {"query": self.query, "refId": f"{self.name}-values"},
            "refresh": 2,
            "sort": 1,
            "multi": True,
            "includeAll": True,
            "allValue": ".*",
            "current": {"selected": True, "text": ["All"], "value": ["$__all"]},
        }


SERVERS = (
    Variable("job", "Job", "lorikeet_build_info", "job"),
    Variable("instance", "Server", 'lorikeet_build_info{job=~"$job"}', "instance"),
)


@dataclass(frozen=True)
class Dashboard:
    """A page; its JSON is in `deploy/grafana/<name>.json`."""

    name: str
    description: str
    rows: tuple[Row, ...]
    variables: tuple[Variable, ...] = SERVERS

    @property
    def panels(self) -> tuple[Panel, ...]:
        """All panels, from top to bottom."""
        return tuple(panel for row in self.rows for panel in row.panels)

    def to_json(self) -> str:
        """What Grafana imports or is provisioned with."""
        return json.dumps(self.as_dict(), indent=1, ensure_ascii=False) + "\n"

    def as_dict(self) -> Json:
        """Grafana's model of a dashboard."""
        return {
            "uid": f"lorikeet-{self.name}",
            "title": f"Lorikeet {self.name}",
            "description": self.description,
            "tags": ["lorikeet"],
            "schemaVersion": SCHEMA_VERSION,
            "editable": True,
            "graphTooltip": 1,
            "refresh": "30s",
            "timezone": "browser",
            "time": {"from": "now-3h", "to": "now"},
            "links": [_LINK],
            "annotations": {"list": [_ALERTS]},
            "templating": {"list": [_DATASOURCE, *(v.as_dict() for v in self.variables)]},
            "panels": self._laid_out(),
        }

    def _laid_out(self) -> list[Json]:
        """Panels from left to right, on the next line where one does not fit."""
        placed: list[Json] = []
        y = 0
        for row in self.rows:
            place = {"x": 0, "y": y, "w": COLUMNS, "h": 1}
            heading = {"type": "row", "title": row.title, "collapsed": False, "panels": []}
            placed.append({"id": len(placed) + 1, **heading, "gridPos": place})
            x, y, height = 0, y + 1, 0
            for panel in row.panels:
                if x + panel.width > COLUMNS:
                    x, y, height = 0, y + height, 0
                placed.append(panel.as_dict(len(placed) + 1, x, y))
                x, height = x + panel.width, max(height, panel.height)
            y += height
        return placed


def _thresholds(bounds: tuple[float, float] | None) -> Json:
    steps: list[Json] = [{"color": "green", "value": None}]
    if bounds is not None:
        colors = ("green", "yellow", "red") if bounds[0] < bounds[1] else ("red", "yellow", "green")
        values = (None, *sorted(bounds))
        steps = [{"color": c, "value": v} for c, v in zip(colors, values, strict=True)]
    return {"mode": "absolute", "steps": steps}


_OPTIONS: dict[str, Json] = {
    "timeseries": {
        "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True},
        "tooltip": {"mode": "multi", "sort": "desc"},
    },
    "stat": {
        "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
        "colorMode": "value",
        "graphMode": "none",
        "textMode": "auto",
    },
    "table": {"showHeader": True, "cellHeight": "sm"},
    "heatmap": {
        "calculate": False,
        "color": {"mode": "scheme", "scheme": "Oranges", "steps": 64},
        "yAxis": {"unit": "s"},
        "cellGap": 1,
        "legend": {"show": True},
        "tooltip": {"show": True, "mode": "single"},
    },
}
_DATASOURCE: Json = {"name": "datasource", "label": "Source", "type": "datasource"} | {
    "query": "prometheus",
    "refresh": 1,
    "current": {},
}
_LINK: Json = {
    "title": "Lorikeet",
    "type": "dashboards",
    "tags": ["lorikeet"],
    "asDropdown": True,
    "keepTime": True,
    "includeVars": True,
}
_ALERTS: Json = {
    "name": "Alerts",
    "datasource": SOURCE,
    "enable": True,
    "iconColor": "red",
    "expr": 'ALERTS{alertname=~"Lorikeet.*", alertstate="firing", job=~"$job"}',
    "titleFormat": "{{alertname}}",
    "textFormat": "{{instance}}",
    "step": "60s",
}
