"""The model card of an exported version: README.md in Hugging Face's format, all from its manifest.

The header is YAML that the hub reads (base_model, licence, results), the rest is for people.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from registry import DEFAULT_BASE, Base, Version
from train.handoff.licence import Licence

Format = Literal["peft", "merged"]

_UPSTREAM = {DEFAULT_BASE: "HuggingFaceTB/SmolLM2-135M-Instruct"}
"""Bases that have another name on the hub."""
_SCORES = (("base", "base"), ("few_shot", "base, few-shot prompt"), ("adapter", "adapter"))
_METRICS = (
    ("accuracy", "accuracy", "low", "high"),
    ("token_f1", "token F1", "token_f1_low", "token_f1_high"),
    ("loss", "held-out loss", "loss_low", "loss_high"),
)
_UNTOLD = frozenset({"settings", "losses", "hardware", "libraries", "run"})


@dataclass(frozen=True, slots=True)
class Card:
    """What a card is about. `dtype` is that of merged weights."""

    version: Version
    base: Base
    licence: Licence | None
    format: Format
    dtype: str | None = None

    @property
    def base_on_hub(self) -> str | None:
        """The base's id on the hub; None for a local folder."""
        known = _UPSTREAM.get(self.base.id)
        return known or (self.base.id if "/" in self.base.id else None)


def model_card(card: Card) -> str:
    """The text of README.md."""
    sections = [
        f"---\n{_header(card)}\n---",
        f"# {card.version.reference}",
        _summary(card),
        "## Use",
        *_use(card),
        *_section("Training", _training(card.version.manifest.training)),
        *_section("Evaluation on held-out rows", _evaluation(card.version.manifest.evaluation)),
        *_section("Certificate", _certificate(card.version.manifest.certificate)),
        "## Licence",
        _licence(card),
    ]
    return "\n\n".join(sections) + "\n"


def _header(card: Card) -> str:
    from huggingface_hub import ModelCardData

    licence, merged = card.licence, card.format == "merged"
    data = ModelCardData(
        base_model=card.base_on_hub,
        base_model_relation=("finetune" if merged else "adapter") if card.base_on_hub else None,
        library_name="transformers" if merged else "peft",
        pipeline_tag="text-generation",
        license=licence.id if licence else None,
        license_name=licence.name if licence else None,
        license_link=licence.link if licence else None,
        tags=["lora", "qlora", "lorikeet"],
        model_name=card.version.reference,
        eval_results=_results(card.version.manifest.evaluation) or None,
    )
    return str(data.to_yaml())


def _results(evaluation: Mapping[str, Any] | None) -> list[Any]:
    """The adapter's scores as the hub's evaluation results."""
    from huggingface_hub import EvalResult

    adapter = (evaluation or {}).get("adapter")
    if not isinstance(adapter, Mapping):
        return []
    labels = (evaluation or {}).get("task") == "labels"
    return [
        EvalResult(
            task_type="text-classification" if labels else "text-generation",
            dataset_type="held-out",
            dataset_name="held-out rows",
            metric_type=key,
            metric_name=title,
            metric_value=round(adapter[key], 6),
        )
        for key, title, _, _ in _METRICS
        if isinstance(adapter.get(key), int | float)
    ]


def _summary(card: Card) -> str:
    manifest = card.version.manifest
    if card.format == "merged":
        what = (
            f"A fine-tuned model: the LoRA adapter `{card.version.reference}` added into the "
            f"weights of `{card.base.id}` that it was trained on, in {card.dtype}."
        )
    else:
        what = f"A LoRA adapter for `{card.base.id}`."
    rows = {
        "base model": f"{card.base.id}"
        + (f", revision {card.base.revision}" if card.base.revision else ""),
        "base digest": manifest.base.digest,
        "adapter digest": manifest.digest,
        "data digest": manifest.data_digest or "not recorded",
        "rank, alpha": f"{manifest.rank}, {manifest.alpha:g}",
        "adapted layers": ", ".join(manifest.target_modules),
        "made": f"{manifest.created_at:%Y-%m-%d %H:%M} UTC, by {manifest.origin}",
    }
    return f"{what}\n\n{_table(('', ''), rows.items())}"


def _use(card: Card) -> Iterator[str]:
    name = card.version.name
    if card.format == "merged":
        yield _code(
            "python",
            "from transformers import AutoModelForCausalLM, AutoTokenizer",
            "",
            'model = AutoModelForCausalLM.from_pretrained("FOLDER")',
            'tokenizer = AutoTokenizer.from_pretrained("FOLDER")',
        )
        yield "With Lorikeet, as a base model, or with vLLM:"
        yield _code("sh", "lorikeet serve --base FOLDER", "vllm serve FOLDER")
        return
    base = card.base.id if "/" in card.base.id else "BASE"
    yield _code(
        "python",
        "from peft import PeftModel",
        "from transformers import AutoModelForCausalLM, AutoTokenizer",
        "",
        f'base = AutoModelForCausalLM.from_pretrained("{base}")',
        f'tokenizer = AutoTokenizer.from_pretrained("{base}")',
        'model = PeftModel.from_pretrained(base, "FOLDER")',
    )
    if base == "BASE":
        yield f"`BASE` is the folder of `{card.base.id}`, the base model of this very digest."
    yield "With Lorikeet, or with vLLM:"
    yield _code(
        "sh",
        f"lorikeet adapters import FOLDER --name {name} --base {card.base.id}",
        f"lorikeet serve --base {card.base.id}",
        "",
        f"vllm serve {base} --enable-lora --max-lora-rank {_vllm_rank(card.version)} "
        f"--lora-modules {name}=FOLDER",
    )


def _vllm_rank(version: Version) -> int:
    """The least of vLLM's bounds that the rank fits."""
    bounds = (8, 16, 32, 64, 128, 256, 320, 512)
    return next((bound for bound in bounds if bound >= version.manifest.rank), bounds[-1])


def _training(training: Mapping[str, Any] | None) -> str:
    if not training:
        return ""
    facts = {key: value for key, value in training.items() if key not in _UNTOLD}
    settings = training.get("settings")
    text = _table(("", ""), facts.items())
    if isinstance(settings, Mapping):
        text += "\n\n" + _table(("setting", "value"), settings.items())
    return text


def _evaluation(evaluation: Mapping[str, Any] | None) -> str:
    if not evaluation:
        return ""
    rows = []
    for key, title in _SCORES:
        if isinstance(score := evaluation.get(key), Mapping):
            figures = [_figure(score, *metric) for metric in _METRICS]
            rows.append((title, f"{score.get('correct')}/{score.get('rows')}", *figures))
    titles = [title for _, title, _, _ in _METRICS]
    return (
        _table(("", "right", *titles), rows)
        + "\n\nThe intervals have 95 % confidence. Held-out rows were not trained on."
    )


def _certificate(certificate: Mapping[str, Any] | None) -> str:
    if not certificate:
        return ""
    verdict = (
        "Served, the adapter gives the log-probabilities of the trained one, within tolerance."
        if certificate.get("passed")
        else "The certificate has **not** passed."
    )
    return f"{verdict}\n\n{_table(('', ''), certificate.items())}"


def _licence(card: Card) -> str:
    licence = card.licence
    if licence is None:
        return (
            f"The licence of `{card.base.id}` is not known here; what is derived from a model is "
            "under the terms of that model."
        )
    name = licence.name or licence.id
    return f"The base model's: {_cell(name)} (by {_cell(licence.source)})."


def _section(title: str, text: str) -> Iterator[str]:
    if text:
        yield f"## {title}"
        yield text


def _figure(score: Mapping[str, Any], key: str, _: str, low: str, high: str) -> str:
    value, bounds = score.get(key), (score.get(low), score.get(high))
    if not isinstance(value, int | float):
        return ""
    if not all(isinstance(bound, int | float) for bound in bounds):
        return f"{value:.3f}"
    return f"{value:.3f} ({bounds[0]:.3f} to {bounds[1]:.3f})"


def _table(titles: tuple[str, ...], rows: Any) -> str:
    lines = ["| " + " | ".join(titles) + " |", "|" + " --- |" * len(titles)]
    lines += ["| " + " | ".join(_cell(value) for value in row) + " |" for row in rows]
    return "\n".join(lines)


def _cell(value: object) -> str:
    """A value on one line of a table, with nothing in it that Markdown or HTML would act on."""
    if isinstance(value, Mapping):
        value = ", ".join(f"{key} {each}" for key, each in value.items())
    elif isinstance(value, list | tuple):
        value = ", ".join(map(str, value))
    text = " ".join(str(value).split())
    for char, harmless in (("&", "&amp;"), ("<", "&lt;"), ("|", "\\|"), ("`", "'")):
        text = text.replace(char, harmless)
    return text


def _code(language: str, *lines: str) -> str:
    return "\n".join([f"```{language}", *lines, "```"])
