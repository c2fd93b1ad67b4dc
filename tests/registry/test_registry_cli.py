"""`lorikeet adapters …`: what it prints, how it exits, and that it answers fast."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from registry import AliasRefused, Base, LorikeetError, Registry, UnknownAdapter, UsageError
from registry.cli import app

REPOSITORY = Path(__file__).parents[2]

FORCE = ("--force", "a test")
EVALUATION: dict[str, Any] = {
    "adapter": {
        "rows": 20,
        "correct": 18,
        "accuracy": 0.9,
        "low": 0.7,
        "high": 0.97,
        "loss": 0.25,
        "prompt_tokens": 31.4,
        "confusion": {"labels": ["[bold]Hogar"], "counts": [[17, 3]]},
    },
    "base": {"rows": 20, "correct": 3, "accuracy": 0.15},
    "few_shot": None,
    "few_shot_examples": 0,
    "comparison": {"metric": "accuracy", "base": {"difference": 0.75, "low": 0.5, "high": 0.9}},
}


def run(*arguments: object) -> Result:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if isinstance(result.exception, LorikeetError):
        raise result.exception
    return result


@pytest.fixture
def published(home: Path, base: Base, tmp_path: Path, make_adapter: Any) -> list[Path]:
    """Two versions of titulares; where they were published from."""
    folders = [make_adapter(tmp_path / f"a{seed}", base, rank=1, seed=seed) for seed in range(2)]
    with Registry.open() as registry:
        for folder in folders:
            registry.publish(
                folder, "titulares", base=base, training={"steps": 7}, evaluation=EVALUATION
            )
    return folders


def test_an_empty_list_says_how_to_go_on(home: Path) -> None:
    result = run("list")
    assert result.exit_code == 0
    assert "lorikeet train" in result.stdout
    assert json.loads(run("list", "--json").stdout) == []


def test_list(published: list[Path]) -> None:
    lines = run("list").stdout.splitlines()
    assert lines[0].split() == ["adapter", "aliases", "base", "rank", "size", "made"]
    assert [line.split()[0] for line in lines[1:]] == ["titulares@1", "titulares@2"]
    assert "latest" in lines[2]
    rows = json.loads(run("list", "--json").stdout)
    assert [row["reference"] for row in rows] == ["titulares@1", "titulares@2"]
    assert [row["aliases"] for row in rows] == [[], ["latest"]]
    assert rows[0]["rank"] == 1
    assert Path(rows[0]["path"]).is_dir()


def test_show(published: list[Path]) -> None:
    text = run("show", "titulares").stdout
    assert "titulares@2" in text
    assert "steps: 7" in text
    assert "90.0% (70.0, 97.0)" in text
    assert "+0.75 (+0.50, +0.90)" in text
    assert "[bold]Hogar" in text  # somebody's label, not our markup
    value = json.loads(run("show", "titulares@1", "--json").stdout)
    assert value["reference"] == "titulares@1"
    assert value["versions"] == [1, 2]
    assert value["manifest"]["training"] == {"steps": 7}
    assert value["manifest"]["digest"] == value["digest"]


def test_promote_and_roll_back(published: list[Path]) -> None:
    assert run("promote", "titulares", 1, *FORCE).stdout == "titulares@prod is now titulares@1\n"
    assert run("promote", "titulares", 2, "--alias", "canary").exit_code == 0
    run("promote", "titulares", 2, *FORCE)
    assert run("rollback", "titulares").stdout == "titulares@prod is now titulares@1\n"
    with pytest.raises(AliasRefused):
        run("rollback", "titulares")
    assert json.loads(run("show", "titulares@canary", "--json").stdout)["version"] == 2


def test_who_passed_the_gate_by_force_is_shown(published: list[Path]) -> None:
    with pytest.raises(AliasRefused, match="few-shot"):
        run("promote", "titulares", 2)
    run("promote", "titulares", 2, "--force", "the customer asked")
    assert "the customer asked" in run("show", "titulares").stdout
    (forced,) = json.loads(run("show", "titulares", "--json").stdout)["forced"]
    assert (forced["alias"], forced["reason"]) == ("prod", "the customer asked")


def test_a_certificate_is_shown(published: list[Path]) -> None:
    with Registry.open() as registry:
        certificate = {"passed": True, "max_difference": 0.0001, "loss": {"nf4": 0.6612345678}}
        registry.record("titulares@2", certificate=certificate)
    lines = [line.split() for line in run("show", "titulares@2").stdout.splitlines()]
    assert ["passed", "true"] in lines
    assert ["max", "difference", "0.0001"] in lines
    assert ["loss", "nf4", "0.661235"] in lines


def test_of_many_labels_the_mistakes_are_shown(published: list[Path]) -> None:
    labels = [f"label {at}" for at in range(12)]
    counts = [[5 if column == row else 0 for column in range(13)] for row in range(12)]
    counts[3][7], counts[4][12] = 9, 2
    confused = {"adapter": {"rows": 71, "confusion": {"labels": labels, "counts": counts}}}
    with Registry.open() as registry:
        registry.record("titulares@2", evaluation=confused)
    lines = run("show", "titulares@2").stdout.splitlines()
    (first,) = (at for at, line in enumerate(lines) if "most frequent mistakes" in line)
    assert [" ".join(line.split()) for line in lines[first + 1 :]] == [
        "label 3 label 7 9",
        "label 4 none of them 2",
    ]


def test_a_canary_is_started_shown_and_ended(published: list[Path]) -> None:
    with pytest.raises(AliasRefused):
        run("promote", "titulares", 2, "--canary", 10, *FORCE)
    run("promote", "titulares", 1, *FORCE)
    said = run("promote", "titulares", 2, "--canary", 10, *FORCE).stdout
    assert said == "titulares@prod is titulares@1, and titulares@2 for 10 %\n"
    assert "prod (10 %)" in run("list").stdout
    assert "latest, prod (10 %)" in run("show", "titulares@2").stdout
    rows = json.loads(run("list", "--json").stdout)
    assert [row["canaries"] for row in rows] == [{}, {"prod": 10}]
    assert json.loads(run("show", "titulares@2", "--json").stdout)["canaries"] == {"prod": 10}
    assert run("rollback", "titulares").stdout == "titulares@prod is now titulares@1\n"
    assert [row["canaries"] for row in json.loads(run("list", "--json").stdout)] == [{}, {}]
    assert run("promote", "titulares", 2, "--canary", 100, *FORCE).exit_code == 2


def test_a_quarantine_is_shown_and_lifted(published: list[Path]) -> None:
    with Registry.open() as registry:
        registry.quarantine("titulares", 2, "NaN in [its] output")
    for command in (("list",), ("show", "titulares@2"), ("show", "titulares")):
        assert "NaN in [its] output" in run(*command).stdout
    assert "NaN" not in run("show", "titulares@1").stdout
    rows = json.loads(run("list", "--json").stdout)
    assert [row["quarantine"] for row in rows] == [None, "NaN in [its] output"]
    with pytest.raises(AliasRefused):
        run("promote", "titulares", 2, *FORCE)
    with pytest.raises(UsageError, match="which version to release"):
        run("release", "titulares")
    assert run("release", "titulares@2").stdout == "titulares@2 may be served again\n"
    assert run("release", "titulares@2").stdout == "titulares@2 was not quarantined\n"
    assert "NaN" not in run("list").stdout


def test_remove(published: list[Path]) -> None:
    run("promote", "titulares", 1, *FORCE)
    with pytest.raises(AliasRefused):
        run("remove", "titulares@1")
    for vague in ("titulares", "titulares@prod"):
        with pytest.raises(UsageError, match="which version"):
            run("remove", vague)
    assert run("remove", "titulares@2").stdout == "Removed titulares@2\n"
    assert [row["version"] for row in json.loads(run("list", "--json").stdout)] == [1]


def test_verify(published: list[Path]) -> None:
    assert run("verify", "titulares@1").stdout.startswith("titulares@1 is whole")


def test_import(home: Path, base: Base, tmp_path: Path, make_adapter: Any) -> None:
    folder = make_adapter(tmp_path / "theirs", base, rank=1)
    (folder / "README.md").write_text("made elsewhere")
    arguments = ("import", folder, "--name", "theirs", "--base", base.path)
    assert "published as theirs@1" in run(*arguments).stdout
    assert "already published as theirs@1" in run(*arguments).stdout
    assert json.loads(run("show", "theirs", "--json").stdout)["origin"] == "import"


def test_import_of_a_broken_adapter_prints_every_problem(
    home: Path, base: Base, tmp_path: Path, make_adapter: Any
) -> None:
    folder = make_adapter(tmp_path / "theirs", base, rank=9)
    config = json.loads((folder / "adapter_config.json").read_text()) | {"use_dora": True}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    result = run("import", folder, "--name", "theirs", "--base", base.path, "--max-rank", 8)
    assert result.exit_code == 1
    lines = result.stdout.splitlines()
    assert len(lines) == 2
    assert all(line.startswith("error config-") and " → " in line for line in lines)
    assert json.loads(run("list", "--json").stdout) == []


def test_check(home: Path, base: Base, tmp_path: Path, make_adapter: Any) -> None:
    folder = make_adapter(tmp_path / "theirs", base, rank=1)
    good = run("check", folder, "--base", base.path)
    assert good.exit_code == 0
    assert "can be served on tiny" in " ".join(good.stdout.split())
    assert run("check", folder, "--base", base.path, "--json").stdout == "[]\n"
    (folder / "adapter_model.safetensors").write_bytes(b"")
    (folder / "chat_template.jinja").write_text("other")
    bad = run("check", folder, "--base", base.path)
    assert bad.exit_code == 1
    assert [line.split(":")[0] for line in bad.stdout.splitlines()] == [
        "error weights-empty",
        "warning template-differs",
    ]
    as_json = run("check", folder, "--base", base.path, "--json")
    assert as_json.exit_code == 1
    assert [row["severity"] for row in json.loads(as_json.stdout)] == ["error", "warning"]
    assert all(row["remedy"] for row in json.loads(as_json.stdout))


def test_strict_refuses_another_chat_template(
    home: Path, base: Base, tmp_path: Path, make_adapter: Any
) -> None:
    folder = make_adapter(tmp_path / "theirs", base, rank=1)
    (folder / "chat_template.jinja").write_text("other")
    for arguments in (("check", folder), ("import", folder, "--name", "theirs")):
        strict = run(*arguments, "--base", base.path, "--strict")
        assert strict.exit_code == 1
        assert "error template-differs" in strict.stdout
        lax = run(*arguments, "--base", base.path)
        assert lax.exit_code == 0
        assert "warning template-differs" in lax.stdout


def test_check_only_warns_without_failing(
    home: Path, base: Base, tmp_path: Path, make_adapter: Any
) -> None:
    folder = make_adapter(tmp_path / "theirs", base, rank=1, scale=0.0)
    result = run("check", folder, "--base", base.path)
    assert result.exit_code == 0
    assert "warning weights-zero" in result.stdout


def test_check_against_another_base(
    home: Path, base: Base, tmp_path: Path, make_adapter: Any
) -> None:
    folder = make_adapter(tmp_path / "theirs", base, rank=1)
    result = run("check", folder)
    assert result.exit_code == 1
    assert "error base-shape" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "kind"),
    [
        (("show", "nobody"), UnknownAdapter),
        (("show", "Not A Name"), UsageError),
        (("promote", "nobody", 1), UnknownAdapter),
        (("promote", "Not", 1), UsageError),
        (("rollback", "nobody"), UnknownAdapter),
        (("remove", "nobody@1"), UnknownAdapter),
        (("release", "nobody@1"), UnknownAdapter),
        (("verify", "nobody"), UnknownAdapter),
        (("import", ".", "--name", "text"), UsageError),
    ],
)
def test_failures_are_ours(home: Path, arguments: Any, kind: type[LorikeetError]) -> None:
    with pytest.raises(kind):
        run(*arguments)


@pytest.mark.parametrize("arguments", [("promote", "x"), ("promote", "x", "y"), ("list", "--nope")])
def test_wrong_usage_exits_2(home: Path, arguments: Any) -> None:
    assert run(*arguments).exit_code == 2


@pytest.mark.parametrize(
    "command",
    ["list", "show", "promote", "rollback", "release", "import", "remove", "check", "verify"],
)
def test_every_help_has_an_example(command: str) -> None:
    assert f"lorikeet adapters {command}" in run(command, "--help").stdout


def test_names_are_completed(published: list[Path]) -> None:
    from registry.cli import _complete_name, _complete_version

    assert _complete_name("tit") == ["titulares"]
    assert _complete_name("x") == []
    assert _complete_version("titulares@") == ["titulares@1", "titulares@2"]


@pytest.mark.parametrize(
    "arguments", [["list"], ["show", "titulares"], ["promote", "titulares", "1", *FORCE]]
)
def test_looking_imports_nothing_heavy(published: list[Path], arguments: list[str]) -> None:
    script = f"""
import sys
from registry.cli import app
app({arguments!r}, standalone_mode=False)
heavy = {{"torch", "transformers", "numpy", "vllm", "peft", "huggingface_hub"}} & set(sys.modules)
assert not heavy, heavy
"""
    subprocess.run([sys.executable, "-c", script], cwd=REPOSITORY, check=True, timeout=60)
