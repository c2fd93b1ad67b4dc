"""The rules: valid, each alert fired in a simulated fault by promtool, and in the runbook."""

import re
import subprocess
from pathlib import Path

import pytest
import yaml
from monitored import RULES, declared
from prometheus_server import SHIPPED, program
from typer.main import get_command

from deploy.monitoring.__main__ import DEPLOY
from deploy.monitoring.files import RULES as RULES_FILE
from deploy.monitoring.files import RUNBOOK
from deploy.monitoring.rules import Alert
from lorikeet import app
from serve.metrics import Metrics
from serve.settings import ServeSettings

ROOT = Path(__file__).parents[2]
FAULTS = Path(__file__).parent / "rules"
TEXT = (ROOT / RUNBOOK).read_text()
ALERTS = [rule for rule in RULES if isinstance(rule, Alert)]
alert = pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert.name)


def _promtool(*arguments: str) -> None:
    done = subprocess.run(
        [program("promtool"), *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_promtool_accepts_the_rules() -> None:
    _promtool("check", "rules", "--lint-fatal", str(DEPLOY / RULES_FILE))


def test_promtool_accepts_the_configuration() -> None:
    _promtool("check", "config", str(SHIPPED))


@pytest.mark.parametrize("file", sorted(FAULTS.glob("*.yaml")), ids=lambda file: file.stem)
def test_faults_fire_their_alerts_and_health_none(file: Path) -> None:
    _promtool("test", "rules", str(file))


def test_faults_are_told_by_series_that_the_server_exposes() -> None:
    """A counter that begins at 0 is there before anything was counted."""
    fresh = {
        (sample.name, *sorted(sample.labels.items()))
        for family in Metrics("base")._registry.collect()
        for sample in family.samples
    }
    for file in FAULTS.glob("*.yaml"):
        for test in yaml.safe_load(file.read_text())["tests"]:
            for series in test["input_series"]:
                name, given = re.fullmatch(r"(\w+)\{(.*)\}", series["series"]).groups()  # type: ignore[union-attr]
                labels = dict(re.findall(r'(\w+)="([^"]*)"', given))
                for scraped in "job", "instance":
                    del labels[scraped]
                if name in {"up", "lorikeet_build_info"}:
                    continue
                assert labels.keys() - {"le"} == declared()[name], series
                if name.endswith("_total") and re.match(r"0[+x]", series["values"]):
                    assert (name, *sorted(labels.items())) in fresh, series


def test_each_alert_is_fired_by_a_fault_and_silent_before_or_without_it() -> None:
    fired: set[tuple[str, str, str]] = set()
    silent: set[str] = set()
    for file in FAULTS.glob("*.yaml"):
        for test in yaml.safe_load(file.read_text())["tests"]:
            for asked in test["promql_expr_test"]:
                for sample in asked["exp_samples"]:
                    labels = dict(re.findall(r'(\w+)="([^"]*)"', sample["labels"]))
                    fired.add((labels["alertname"], labels["severity"], labels.get("window", "")))
                if not asked["exp_samples"]:
                    silent.add(file.stem)
    every = {(a.name, a.severity, dict(a.labels).get("window", "")) for a in ALERTS}
    assert fired == every
    assert {"healthy", "faults"} <= silent


@alert
def test_an_alert_tells_what_somebody_woken_at_night_has_to_know(alert: Alert) -> None:
    rule = alert.as_dict(RUNBOOK)
    summary, description = rule["annotations"]["summary"], rule["annotations"]["description"]
    assert "\n" not in summary
    assert len(summary) < 110
    users, look, do = description.splitlines()
    assert users.startswith("Users: ")
    assert look.startswith("Look: ")
    assert do.startswith("Do: ")
    assert description.count("{{") == description.count("}}")


@alert
def test_an_alert_has_a_runbook_entry_of_the_same_severity(alert: Alert) -> None:
    page, _, anchor = alert.as_dict(RUNBOOK)["annotations"]["runbook_url"].partition("#")
    headings = re.findall(r"^## (\S+)$", (ROOT / page).read_text(), re.MULTILINE)
    assert anchor in [heading.lower() for heading in headings]
    entry = TEXT.partition(f"## {alert.name}\n")[2].partition("\n## ")[0]
    assert f"**{alert.severity.capitalize()}" in entry or f"**{alert.severity}**" in entry
    assert "\n- Users: " in entry
    assert "\n- Look: " in entry
    assert "\n- Do" in entry


def test_the_runbook_has_no_entry_without_an_alert() -> None:
    headings = re.findall(r"^## (\S+)$", TEXT, re.MULTILINE)
    assert set(headings) == {alert.name for alert in ALERTS}
    for link in re.findall(r"\]\(#(\w+)\)", TEXT):
        assert link in [heading.lower() for heading in headings]


def test_every_command_that_it_names_exists() -> None:
    """In the runbook and in the alerts' texts."""
    texts = [TEXT, *(f"{alert.look} {alert.do}" for alert in ALERTS)]
    commands = set(re.findall(r"(?:`|^)lorikeet ([a-z]+(?: [a-z]+)?)", "\n".join(texts), re.M))
    assert len(commands) > 8
    for command in commands:
        group = get_command(app)
        for word in command.split():
            inner = getattr(group, "commands", None)
            if inner is None:
                break  # an argument
            assert word in inner, f"lorikeet {command}"
            group = inner[word]


def test_every_flag_of_the_server_that_is_named_exists() -> None:
    monitoring = (ROOT / "docs" / "monitoring.md").read_text().partition("## Objectives")
    texts = [TEXT, monitoring[0], *(f"{alert.look} {alert.do}" for alert in ALERTS)]
    flags = set(re.findall(r"--[a-z]+(?:-[a-z]+)+", "\n".join(texts)))
    assert len(flags) > 5
    serve = get_command(app).commands["serve"]  # type: ignore[attr-defined]
    assert flags <= {flag for parameter in serve.params for flag in parameter.opts}


def test_every_variable_that_it_names_exists() -> None:
    texts = [TEXT, *(f"{alert.look} {alert.do}" for alert in ALERTS)]
    names = set(re.findall(r"LORIKEET_SERVE_([A-Z_]+)", "\n".join(texts)))
    assert names
    assert {name.lower() for name in names} <= ServeSettings.model_fields.keys()
