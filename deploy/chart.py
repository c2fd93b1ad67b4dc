"""`python -m deploy.chart`: write what the Helm chart takes from the code.

The dashboards and the rules are copied into it, because Helm reads no file outside of a chart; and
`values.schema.json` gets every setting of the server and of the worker, so that Helm refuses a
misspelt one before anything is installed.
"""

import json
from collections.abc import Set
from pathlib import Path
from typing import Any

from pydantic_settings import BaseSettings
from rich.console import Console

from deploy.monitoring.files import monitoring_files
from deploy.monitoring.objectives import Objectives
from serve.settings import ServeSettings
from train.worker.settings import WorkerSettings

CHART = Path(__file__).parent / "helm" / "lorikeet"
SCHEMA = "values.schema.json"

THE_CHARTS: dict[type[BaseSettings], Set[str]] = {
    ServeSettings: {
        *("base", "host", "port", "metrics_port", "insecure"),
        *("replicas", "max_replicas", "upscale_seconds", "downscale_seconds"),
        *("echo_token_seconds", "echo_load_seconds"),
    },
    WorkerSettings: {"name", "once", "server", "devices"},
}
"""Settings that the chart itself decides, or that have no place in a cluster."""


def chart_files() -> dict[str, str]:
    """Path in the chart → what is in it."""
    schema = json.loads((CHART / SCHEMA).read_text(encoding="utf-8"))
    schema["$defs"] |= {
        "serverSettings": settings_schema(ServeSettings),
        "workerSettings": settings_schema(WorkerSettings),
    }
    files = {f"files/{path}": text for path, text in monitoring_files(Objectives()).items()}
    return {**files, SCHEMA: json.dumps(schema, indent=2, ensure_ascii=False) + "\n"}


def settings_schema(settings: type[BaseSettings]) -> dict[str, Any]:
    """The JSON schema of what a values file may set of `settings`, by the fields' names."""
    fields = settings.model_json_schema(by_alias=False)["properties"]
    return {
        "type": "object",
        "additionalProperties": False,
        "properties": {
            name: _as_written(field)
            for name, field in fields.items()
            if name not in THE_CHARTS[settings]
        },
    }


def _as_written(field: dict[str, Any]) -> dict[str, Any]:
    """A type of our own, such as a window of time, is written as text."""
    written = {key: it for key, it in field.items() if key not in ("title", "default", "$ref")}
    return {"type": "string", **written} if "$ref" in field else written


def main() -> None:
    """Write the chart's generated files."""
    for name, text in chart_files().items():
        path = CHART / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        Console().print(f"wrote {path}", soft_wrap=True, highlight=False)


if __name__ == "__main__":
    main()
