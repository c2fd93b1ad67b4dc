"""`lorikeet plan`, as users call it."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from model_configs import LLAMA, MISTRAL, MIXTRAL
from typer.testing import CliRunner

from lorikeet import app
from registry import DEFAULT_BASE, Base, LorikeetError, UnknownBase, hub


def plan(*arguments: str, columns: int = 100) -> Any:
    return CliRunner().invoke(app, ["plan", *arguments], env={"COLUMNS": str(columns)})


@pytest.fixture
def mistral(tmp_path: Path) -> Path:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(MISTRAL))
    return path


def test_the_tables(mistral: Path) -> None:
    done = plan(str(mistral), columns=80)
    assert done.exit_code == 0, done.output
    words = " ".join(done.output.split())
    for figure in ("7.24 B parameters", "432.02 MB", "13.74 GB", "54.98 GB", "41.23 GB"):
        assert figure in words
    assert "…" not in done.output  # nothing is cut on a narrow terminal
    assert max(map(len, done.output.splitlines())) <= 80


def test_json_has_every_figure(mistral: Path) -> None:
    done = plan(str(mistral), "--json", "--gpu", "24", "--gpu", "H100")
    found = json.loads(done.stdout)
    assert found["model"]["parameters"] == 7_241_732_096
    assert found["model"]["kv_heads"] == 8
    assert [row["name"] for row in found["weights"]] == [
        "float32",
        "float16/bfloat16",
        "int8",
        "int4",
        "NF4",
    ]
    assert {card["card"] for card in found["serving"]["cards"]} == {24, 80}
    methods = {method["method"]: method for method in found["training"]}
    assert methods["full"]["fits"] is None
    assert methods["QLoRA"]["fits"] == 24
    assert methods["QLoRA"]["memory"]["total"] < methods["LoRA"]["memory"]["total"]
    assert methods["QLoRA"]["trained_parameters"] == 41_943_040


def test_options_reach_the_plan(mistral: Path) -> None:
    def qlora(*options: str) -> dict[str, Any]:
        found = json.loads(plan(str(mistral), "--json", *options).stdout)
        method: dict[str, Any] = found["training"][2]
        return method

    usual = qlora()
    assert qlora("--seq", "2048")["memory"]["activations"] > usual["memory"]["activations"]
    assert qlora("--batch", "1")["memory"]["total"] < usual["memory"]["total"]
    assert qlora("--rank", "32")["memory"]["adapter"] == 2 * usual["memory"]["adapter"]
    assert qlora("--trained", "64")["memory"]["temporary"] < usual["memory"]["temporary"]
    wide = qlora("--optimizer", "adamw")["memory"]["optimizer"]
    assert wide > 3 * usual["memory"]["optimizer"]


def test_a_paged_optimiser_has_no_cpu(mistral: Path) -> None:
    found = json.loads(plan(str(mistral), "--json", "--optimizer", "paged_adamw_8bit").stdout)
    assert {method["device"] for method in found["training"]} == {"cuda"}


def test_the_default_base_and_a_folder(home: Path, embedded_base: Base, tiny_base: Path) -> None:
    default = json.loads(plan(DEFAULT_BASE, "--json").stdout)
    assert default["model"]["parameters"] == 134_515_008
    assert default["model"]["tied_embeddings"] is True
    folder = json.loads(plan(str(tiny_base), "--json").stdout)
    assert folder["model"]["layers"] == 2


def test_a_mixture_says_what_becomes_of_its_experts(tmp_path: Path) -> None:
    path = tmp_path / "mixtral.json"
    path.write_text(json.dumps(MIXTRAL))
    done = plan(str(path))
    said = " ".join(done.output.split())
    assert "46.70 B parameters, 12.88 B of them for a token" in said
    assert "Experts stay in 16 bits" in said


def test_of_a_hubs_model_only_the_config_is_fetched(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import huggingface_hub

    asked: dict[str, Any] = {}

    def download(repository: str, **options: Any) -> str:
        asked.update(options, repository=repository)
        (tmp_path / "config.json").write_text(json.dumps(LLAMA))
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    done = plan("meta-llama/Llama-2-7b-chat-hf@main", "--json")
    assert json.loads(done.stdout)["model"]["parameters"] == 6_738_415_616
    assert asked["repository"] == "meta-llama/Llama-2-7b-chat-hf"
    assert asked["revision"] == "main"
    assert asked["allow_patterns"] == ["config.json"]


def test_the_hub_not_being_there_is_a_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> Path:
        raise UnknownBase("a/b is not on this machine and cannot be fetched", remedy="network")

    monkeypatch.setattr(hub, "fetch", fail)
    assert isinstance(plan("a/b").exception, UnknownBase)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "no model"),
        ("", "cannot be read"),
        ("[1]", "no JSON object"),
        ("{}", "does not cover"),
        ('{"model_type": "llama"}', "shape"),
    ],
)
def test_bad_configs(tmp_path: Path, text: str | None, said: str) -> None:
    path = tmp_path / "config.json"
    if text is not None:
        path.write_text(text)
    error = plan(str(path)).exception
    assert isinstance(error, LorikeetError)
    assert said in error.message
    assert error.remedy


def test_a_folder_without_a_config(tmp_path: Path) -> None:
    error = plan(str(tmp_path)).exception
    assert isinstance(error, UnknownBase)
    assert "has no config.json" in error.message


@pytest.mark.parametrize("card", ["0", "-3", "toaster", "99999"])
def test_bad_cards(mistral: Path, card: str) -> None:
    error = plan(str(mistral), f"--gpu={card}").exception
    assert isinstance(error, LorikeetError)
    assert error.exit_code == 2


def test_planning_imports_no_torch(mistral: Path) -> None:
    code = (
        "import sys; from typer.testing import CliRunner; from lorikeet import app; "
        f"done = CliRunner().invoke(app, ['plan', {str(mistral)!r}]); "
        "assert done.exit_code == 0, done.output; "
        "print([name for name in ('torch', 'transformers', 'numpy') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(__file__).parents[3],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout.strip() == "[]", done.stdout + done.stderr
