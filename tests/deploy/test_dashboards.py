"""The dashboards follow the metrics, and the files follow the code."""

import itertools
import json
import re
from pathlib import Path

import pytest
from monitored import DASHBOARDS, PANELS, RULES, declared, named
from typer.testing import CliRunner

from deploy.monitoring.__main__ import DEPLOY, main
from deploy.monitoring.files import monitoring_files
from deploy.monitoring.grafana import COLUMNS, Dashboard
from deploy.monitoring.objectives import Objectives
from deploy.monitoring.rules import Alert, Recorded
from registry import LorikeetError

FROM_PROMETHEUS = {"job", "instance", "le"}
NOT_SHOWN: dict[str, str] = {}
"""Metric → why no dashboard and no rule names it."""
EXPRESSIONS = [
    *(shown.expr for shown in PANELS),
    *(rule.expr for rule in RULES),
    *(variable.query for page in DASHBOARDS for variable in page.variables),
]
page = pytest.mark.parametrize("page", DASHBOARDS, ids=lambda page: page.name)


def test_the_files_are_those_that_the_generator_makes() -> None:
    made = monitoring_files(Objectives())
    for name, text in made.items():
        assert (DEPLOY / name).read_text() == text, "run `python -m deploy.monitoring`"
    kept = {f"grafana/{path.name}" for path in (DEPLOY / "grafana").iterdir()}
    assert kept == {name for name in made if name.startswith("grafana/")}


def test_every_metric_that_is_named_is_declared() -> None:
    recorded = {rule.record for rule in RULES if isinstance(rule, Recorded)}
    ours = {name for name in named(EXPRESSIONS) if not name.startswith("vllm:")}
    assert len(ours) > 40
    assert ours - recorded - declared().keys() == set()


def test_every_metric_that_is_declared_is_shown() -> None:
    """In a panel: a rule alone shows nothing."""
    shown = named(shown.expr for shown in PANELS)
    families = {re.sub(r"_(bucket|sum|count)$", "", name) for name in shown}
    missing = {
        name
        for name in declared()
        if name not in shown and re.sub(r"_(bucket|sum|count)$", "", name) not in families
    }
    assert missing == NOT_SHOWN.keys()


def test_every_label_is_one_of_its_metric() -> None:
    """In a matcher or kept by an aggregation over one metric."""
    for expression in EXPRESSIONS:
        for kept, name, matchers in re.findall(
            r"(?:by \(([\w, ]+)\) \()?(?:\w+\()?(lorikeet_\w+)\{([^}]*)\}", expression
        ):
            labels = set(re.findall(r"(\w+)[=!]~?\"", matchers)) | set(re.findall(r"\w+", kept))
            known = declared()[name] | FROM_PROMETHEUS
            assert labels <= known, (name, labels - known)


@page
def test_panels_have_a_place_and_a_meaning(page: Dashboard) -> None:
    cells: set[tuple[int, int]] = set()
    placed = json.loads(page.to_json())["panels"]
    for panel in placed:
        place = panel["gridPos"]
        columns = range(place["x"], place["x"] + place["w"])
        mine = set(itertools.product(columns, range(place["y"], place["y"] + place["h"])))
        assert columns.stop <= COLUMNS, panel["title"]
        assert not cells & mine, panel["title"]
        cells |= mine
    assert len({panel["id"] for panel in placed}) == len(placed)
    titles = [panel.title for panel in page.panels]
    assert len(set(titles)) == len(titles)
    for panel in page.panels:
        assert panel.description.endswith("."), panel.title
        assert panel.queries, panel.title


@page
def test_every_panel_obeys_the_choice_of_servers(page: Dashboard) -> None:
    chosen = {f"${variable.name}" for variable in page.variables}
    for panel in page.panels:
        for query in panel.queries:
            for selector in re.findall(r"\{([^}]*)\}", query.expr):
                assert 'job=~"$job"' in selector, query.expr
            used = set(re.findall(r"\$(?!__)\w+", query.expr))
            assert used <= chosen, query.expr


def test_low_is_bad_where_the_first_bound_is_the_larger() -> None:
    panels = json.loads(DASHBOARDS[0].to_json())["panels"]
    disk = next(panel for panel in panels if panel["title"] == "Disk free")
    steps = disk["fieldConfig"]["defaults"]["thresholds"]["steps"]
    assert [(step["color"], step["value"]) for step in steps] == [
        ("red", None),
        ("yellow", 0.05),
        ("green", 0.15),
    ]


def test_own_objectives_go_to_a_folder_of_ones_own(tmp_path: Path) -> None:
    import typer

    app = typer.Typer()
    app.command()(main)
    options = ["--out", str(tmp_path), "--first-token-seconds", "1", "--availability", "0.99"]
    done = CliRunner().invoke(app, [*options, "--runbook", "https://wiki.example.com/runbook"])
    assert done.exit_code == 0, done.output
    rules = (tmp_path / "prometheus" / "lorikeet.rules.yml").read_text()
    assert 'le="1.0"' in rules
    assert "/ 0.01\n" in rules
    assert "runbook_url: https://wiki.example.com/runbook#lorikeetenginedown" in rules
    assert len(list((tmp_path / "grafana").iterdir())) == len(DASHBOARDS)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"availability": 1.0}, "availability is a share between 0 and 1"),
        ({"first_token": 0.0}, "first_token is a share between 0 and 1"),
        ({"availability": float("nan")}, "availability is a share"),
        ({"first_token_seconds": 3.0}, "requests within 3 s are not counted"),
    ],
)
def test_objectives_that_cannot_be_measured(fields: dict[str, float], words: str) -> None:
    with pytest.raises(LorikeetError, match=words):
        Objectives(**fields)


@pytest.mark.parametrize("runbook", ["", "a b", "{{ $x }}", "page#anchor"])
def test_a_runbook_that_would_break_the_links(runbook: str) -> None:
    with pytest.raises(LorikeetError, match="cannot be the runbook's address"):
        monitoring_files(Objectives(), runbook)


def test_alerts_and_dashboards_have_no_name_twice() -> None:
    keys = [(rule.name, rule.labels) if isinstance(rule, Alert) else rule.record for rule in RULES]
    assert len(set(keys)) == len(keys)
