"""A certificate passes where served is what was trained, and fails for each way it may not be."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file, save_file

from registry import Base, Registry, UsageError, Version
from train.base_model import load_tokenizer, stop_ids
from train.data.masking import ChatEncoder, Encoded, encode_chats
from train.data.parts import read_part
from train.errors import DataFileMissing
from train.handoff.certificate import Reference, Served
from train.handoff.certificate import certify as certify_scores
from train.handoff.certify_version import CertifyRequest, certify_version
from train.handoff.score_server import LONGEST, ServedScores
from train.progress import SilentReporter
from train.settings import TrainSettings

from .conftest import PeftServer

Certify = Callable[..., tuple[Version, Any]]


@pytest.fixture
def certify(serving: Any, held_out: Path, base: Base) -> Certify:
    def certified(server: Any, **options: Any) -> tuple[Version, Any]:
        options = {"data": held_out, "base": str(base.path)} | options
        request = CertifyRequest("opl@1", **options)
        return certify_version(request, serving(server), SilentReporter())

    return certified


@pytest.fixture
def rows(base: Base, held_out: Path) -> list[Encoded]:
    """The held-out rows as token ids."""
    encoder = ChatEncoder(load_tokenizer(base), base.id, stop_ids(base))
    chats = read_part(held_out, TrainSettings()).chats
    encoded = encode_chats(encoder, chats, held_out, max_length=1000, drop_long=False)
    return [sequence for row in encoded for sequence in row.sequences]


def test_what_is_served_as_trained_passes_and_is_recorded(
    publish: Any, base: Base, certify: Certify, registry: Registry
) -> None:
    version = publish()
    server = PeftServer(base, version, version.path)
    certified, certificate = certify(server)
    assert certificate.passed, certificate.problems
    assert server.asked == ["opl@1", None]
    values = certified.manifest.certificate
    assert values == registry.get("opl@1").manifest.certificate == certificate.as_dict()
    assert json.loads(json.dumps(values)) == values
    assert (values["passed"], values["problems"], values["rows"]) == (True, [], 6)
    assert values["tokens"] > 6 * 4
    assert values["max_difference"] < 1e-4
    assert values["top1_agreement"] == 1.0
    assert values["adapter_base_difference"] > 0.05
    assert values["dtype"] == "float32"
    assert values["engine"] == {"stand-in": "1", "dtype": "float32", "quantization": "none"}
    losses = values["loss"]
    assert losses.keys() == {"nf4", "unquantised", "merged", "served"}
    assert losses["served"] == pytest.approx(losses["unquantised"], abs=1e-5)
    # Merged is the de-quantised NF4 base plus the adapter: the trained model, not the served one.
    assert losses["merged"] == pytest.approx(losses["nf4"], abs=1e-4)
    assert abs(losses["nf4"] - losses["unquantised"]) > 1e-4
    assert values["trained_mean_difference"] > 10 * values["mean_difference"]


def test_a_server_that_forgets_the_adapter_fails(
    publish: Any, base: Base, certify: Certify, registry: Registry
) -> None:
    version = publish()
    _, certificate = certify(PeftServer(base, version, None))
    assert not certificate.passed
    text = " ".join(certificate.problems)
    assert "served with the adapter and without, the log-probabilities differ by 0 " in text
    assert "more than 0.001 in float32" in text
    recorded = registry.get("opl@1").manifest.certificate
    assert recorded is not None
    assert recorded["passed"] is False


@pytest.mark.parametrize("flaw", ["other weights", "a layer's sign", "not finite"])
def test_other_weights_than_the_trained_ones_fail(
    publish: Any, base: Base, rows: list[Encoded], make_adapter: Any, tmp_path: Path, flaw: str
) -> None:
    version = publish()
    changed = make_adapter(tmp_path / "changed", base, seed=9, scale=0.3)
    if flaw != "other weights":
        tensors = load_file(version.path / "adapter_model.safetensors")
        name = next(name for name in tensors if "layers.1.mlp.down_proj.lora_B" in name)
        tensors[name] = tensors[name] * (-1 if flaw == "a layer's sign" else float("nan"))
        save_file(tensors, changed / "adapter_model.safetensors", metadata={"format": "pt"})
    adapter, alone = served_by(PeftServer(base, version, changed), rows)
    trained = PeftServer(base, version, version.path).scores("opl@1", rows, ignore).scores
    reference = Reference(trained, trained, trained, None, "nf4")
    certificate = certify_scores(version, rows, Served(adapter, alone), reference)
    assert not certificate.passed
    assert not certificate.agreement.within(certificate.tolerance)
    assert certificate.losses.keys() == {"nf4", "unquantised", "served"}


def test_a_server_of_other_content_fails(publish: Any, base: Base, rows: list[Encoded]) -> None:
    version = publish()
    adapter, alone = served_by(PeftServer(base, version, version.path), rows)
    reference = Reference(adapter.scores, adapter.scores, adapter.scores, None, "none")
    for flawed, problem in (
        (replace(adapter, digest="sha256:1"), "the server's opl@1 has other weights than"),
        (replace(adapter, base_digest="sha256:2"), "the server runs another base"),
    ):
        certificate = certify_scores(version, rows, Served(flawed, alone), reference)
        (found,) = certificate.problems
        assert found.startswith(problem)
    assert certify_scores(version, rows, Served(adapter, alone), reference).passed


def served_by(server: PeftServer, rows: list[Encoded]) -> tuple[ServedScores, ServedScores]:
    return server.scores("opl@1", rows, ignore), server.scores(None, rows, ignore)


def ignore(_: int) -> None:
    pass


def test_an_adapter_that_changes_nothing_proves_nothing(
    publish: Any, base: Base, rows: list[Encoded]
) -> None:
    version = publish(scale=1e-4)
    adapter, alone = served_by(PeftServer(base, version, version.path), rows)
    reference = Reference(adapter.scores, adapter.scores, adapter.scores, None, "none")
    certificate = certify_scores(version, rows, Served(adapter, alone), reference)
    assert certificate.agreement.within(certificate.tolerance)
    (problem,) = certificate.problems
    assert "no more than rounding does" in problem


def test_served_in_bfloat16_its_weights_are_compared_as_it_rounds_them(
    publish: Any, base: Base, certify: Certify
) -> None:
    version = publish()
    _, certificate = certify(PeftServer(base, version, version.path, "bfloat16"), save=False)
    assert certificate.passed
    assert certificate.agreement.max < 1e-4  # else the rounding of the weights is in it
    assert certificate.tolerance.mean > 0.01


def test_served_in_float32_it_is_compared_in_float32_whatever_training_computes_in(
    publish: Any, base: Base, certify: Certify
) -> None:
    settings = TrainSettings(rank=4, dtype="bfloat16").model_dump(mode="json")
    version = publish(training={"settings": settings, "steps": 3})
    _, certificate = certify(PeftServer(base, version, version.path), save=False, rows=2)
    assert certificate.passed, certificate.problems
    assert certificate.agreement.max < 1e-4


def test_an_adapter_from_elsewhere_has_no_nf4_base(
    publish: Any, base: Base, certify: Certify, registry: Registry
) -> None:
    version = publish(training=None)
    _, certificate = certify(PeftServer(base, version, version.path), save=False, rows=2)
    assert (certificate.passed, certificate.rows) == (True, 2)
    assert registry.get("opl@1").manifest.certificate is None
    assert certificate.losses.keys() == {"unquantised", "merged", "served"}
    assert certificate.losses["merged"] == pytest.approx(certificate.losses["unquantised"], 1e-4)


def test_rows_are_needed_and_cut_to_what_a_server_reads(
    publish: Any, base: Base, certify: Certify, tmp_path: Path
) -> None:
    version = publish()
    server = PeftServer(base, version, version.path)
    with pytest.raises(UsageError, match="no held-out rows of opl@1"):
        certify(server, data=None)
    with pytest.raises(DataFileMissing):
        certify(server, data=tmp_path / "nothing.jsonl")
    long = tmp_path / "long.jsonl"
    long.write_text(json.dumps({"prompt": "a b " * LONGEST, "completion": "yes"}) + "\n")
    with pytest.raises(UsageError, match="begins within 2048 tokens"):
        certify(server, data=long)
    assert not server.asked
