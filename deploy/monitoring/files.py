"""The files that Grafana and Prometheus read, by their path under `deploy/`."""

from deploy.monitoring.adapters import adapters
from deploy.monitoring.alerts import fault_groups
from deploy.monitoring.grafana import Dashboard
from deploy.monitoring.objectives import Objectives, objective_groups
from deploy.monitoring.rules import Group, to_yaml
from deploy.monitoring.service import service
from deploy.monitoring.tenants import tenants
from deploy.monitoring.training import training

RUNBOOK = "docs/runbook.md"
RULES = "prometheus/lorikeet.rules.yml"


def dashboards(objectives: Objectives) -> tuple[Dashboard, ...]:
    """The four pages."""
    return service(objectives), adapters(), tenants(), training()


def groups(objectives: Objectives) -> tuple[Group, ...]:
    """All rules."""
    return (*objective_groups(objectives), *fault_groups())


def monitoring_files(objectives: Objectives, runbook: str = RUNBOOK) -> dict[str, str]:
    """Path under `deploy/` → what is in it."""
    files = {f"grafana/{page.name}.json": page.to_json() for page in dashboards(objectives)}
    return {**files, RULES: to_yaml(groups(objectives), runbook)}
