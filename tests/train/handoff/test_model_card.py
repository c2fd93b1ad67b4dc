"""The card is what Hugging Face's own reader takes, and says what the manifest says."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from registry import Base
from train.handoff.licence import Licence, licence_of
from train.handoff.model_card import Card, model_card

EVALUATION = {
    "task": "labels",
    "metric": "accuracy",
    "base": {"correct": 3, "rows": 10, "accuracy": 0.3, "low": 0.1, "high": 0.6, "loss": 4.0},
    "few_shot": None,
    "adapter": {
        **{"correct": 9, "rows": 10, "accuracy": 0.9, "low": 0.6, "high": 0.98},
        **{"token_f1": 0.91, "token_f1_low": 0.7, "token_f1_high": 0.99, "loss": None},
    },
}
CERTIFICATE = {"passed": True, "max_difference": 2e-5, "loss": {"nf4": 1.5, "served": 1.6}}
TRAINING = {
    "run": "secret-run-id",
    "steps": 30,
    "losses": [1.0, 0.5],
    "settings": {"rank": 8, "targets": ["q_proj", "v_proj"], "learning_rate": 0.0005},
}
APACHE = Licence("apache-2.0", "the base's model card")


@pytest.fixture
def card(publish: Any, registry: Any, base: Base) -> Card:
    version = publish(training=TRAINING)
    version = registry.record(version.reference, evaluation=EVALUATION, certificate=CERTIFICATE)
    return Card(version, base, APACHE, "peft")


def read(text: str) -> Any:
    """The card as the hub reads it; its metadata are checked."""
    from huggingface_hub import ModelCard

    return ModelCard(text, ignore_metadata_errors=False)


def test_the_header_is_read_by_the_hub(card: Card) -> None:
    hub_base = replace(card.base, id="org/model", revision="abc123")
    found = read(model_card(replace(card, base=hub_base)))
    assert found.data.base_model == "org/model"
    assert found.data.get("base_model_relation") == "adapter"
    assert (found.data.license, found.data.library_name) == ("apache-2.0", "peft")
    assert found.data.tags == ["lora", "qlora", "lorikeet"]
    assert found.data.pipeline_tag == "text-generation"
    results = {each.metric_type: each.metric_value for each in found.data.eval_results}
    assert results == {"accuracy": 0.9, "token_f1": 0.91}
    assert {each.task_type for each in found.data.eval_results} == {"text-classification"}
    assert "org/model, revision abc123" in found.text


def test_the_text_has_digests_scores_settings_and_certificate(card: Card) -> None:
    text = model_card(card)
    manifest = card.version.manifest
    for said in (
        manifest.digest,
        manifest.base.digest,
        manifest.data_digest,
        "| base | 3/10 | 0.300 (0.100 to 0.600) |  | 4.000 |",
        "| adapter | 9/10 | 0.900 (0.600 to 0.980) | 0.910 (0.700 to 0.990) |  |",
        "| learning_rate | 0.0005 |",
        "| targets | q_proj, v_proj |",
        "| loss | nf4 1.5, served 1.6 |",
        "gives the log-probabilities of the trained one",
        "apache-2.0 (by the base's model card)",
        "--max-lora-rank 8 ",
        "lorikeet adapters import FOLDER",
    ):
        assert said in text, said
    assert "secret-run-id" not in text  # a run is this machine's own
    failed = replace(card.version, manifest=manifest.model_copy(update={"certificate": {}}))
    assert "## Certificate" not in model_card(replace(card, version=failed))
    refused = {"certificate": {"passed": False}}
    failed = replace(card.version, manifest=manifest.model_copy(update=refused))
    assert "has **not** passed" in model_card(replace(card, version=failed))


def test_a_merged_model_is_a_model_of_its_own(card: Card) -> None:
    hub_base = replace(card.base, id="org/model")
    found = read(model_card(replace(card, base=hub_base, format="merged", dtype="bfloat16")))
    assert (found.data.library_name, found.data.get("base_model_relation")) == (
        "transformers",
        "finetune",
    )
    assert "lorikeet serve --base FOLDER" in found.text
    assert "in bfloat16" in found.text
    assert "PeftModel" not in found.text


def test_what_is_not_known_is_left_out_and_said(card: Card) -> None:
    bare = card.version.manifest.model_copy(
        update={"training": None, "evaluation": None, "certificate": None, "data_digest": None}
    )
    version = replace(card.version, manifest=bare)
    found = read(model_card(replace(card, version=version, licence=None)))
    assert found.data.base_model is None  # a local folder has no name on the hub
    assert found.data.license is None
    assert found.data.eval_results is None
    assert "The licence of `tiny` is not known here" in found.text
    assert "| data digest | not recorded |" in found.text
    for title in ("## Training", "## Evaluation", "## Certificate"):
        assert title not in found.text


def test_text_from_elsewhere_stays_text(card: Card) -> None:
    hostile = {"settings": {"note": "a | b <script>x</script>\n## `Title`"}}
    manifest = card.version.manifest.model_copy(update={"training": hostile})
    text = model_card(replace(card, version=replace(card.version, manifest=manifest)))
    assert "| note | a \\| b &lt;script>x&lt;/script> ## 'Title' |" in text
    assert "<script>" not in text


FOUND = [
    ({"provenance.json": '{"licence": "Apache-2.0", "package": "p 1"}'}, "apache-2.0", "p 1"),
    ({"README.md": "---\nlicense: mit\n---\n# Hi"}, "mit", "model card"),
    ({"README.md": "no header", "LICENSE": "MIT License\n\nCopyright"}, "mit", "LICENSE"),
    ({"LICENSE": "  Apache License\n   Version 2.0, January"}, "apache-2.0", "LICENSE"),
    ({"LICENSE.txt": "Our Own Terms\nof use"}, "other", "LICENSE.txt"),
]


@pytest.mark.parametrize(("files", "licence", "source"), FOUND)
def test_the_licence_is_found_where_it_is_written(
    base: Base, tmp_path: Path, files: dict[str, str], licence: str, source: str
) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    found = licence_of(replace(base, path=tmp_path))
    assert found is not None
    assert found.id == licence
    assert source in found.source
    assert [file.name for file in found.files] == [n for n in files if n.startswith("LIC")]
    if licence == "other":
        assert (found.name, found.link) == ("Our Own Terms", "LICENSE.txt")


@pytest.mark.parametrize(
    "files",
    [
        {},
        {"README.md": "---\nlicense: [unclosed\n---\n"},
        {"README.md": "---\n- a list\n---\n"},
        {"provenance.json": "[]"},
        {"provenance.json": "{"},
    ],
)
def test_no_licence_is_made_up(base: Base, tmp_path: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    assert licence_of(replace(base, path=tmp_path)) is None


def test_the_embedded_base_has_one(embedded_base: Base) -> None:
    found = licence_of(embedded_base)
    assert found is not None
    assert found.id == "apache-2.0"
