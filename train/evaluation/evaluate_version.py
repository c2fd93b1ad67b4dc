"""The evaluation of a published version: in memory as it was trained, or as a server answers."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from registry import Registry, RegistrySettings, Version
from train.adapted_model import load_adapted
from train.base_model import load_tokenizer, stop_ids
from train.data.masking import ChatEncoder, encode_chats
from train.evaluation.comparison import Evaluation, compare
from train.evaluation.scorer import Scorer, fitting_examples, longest_answer
from train.evaluation.served import Served, expected_of
from train.evaluation.subject import Rows, Subject, find_subject, only_unseen
from train.hardware import detect
from train.progress import Reporter

_ANY_LENGTH = 1 << 30


@dataclass(frozen=True)
class EvalRequest:
    """Which version to evaluate, on which rows, and whether by a server."""

    reference: str
    rows: Rows = field(default_factory=Rows)
    base: str | None = None
    url: str | None = None
    api_key: str | None = None
    save: bool = True
    registry_settings: RegistrySettings = field(default_factory=RegistrySettings)


def evaluate_version(request: EvalRequest, reporter: Reporter) -> tuple[Version, Mapping[str, Any]]:
    """The version, and its evaluation as JSON values, recorded on it with `save`.

    In memory the base is quantised as it was for training, and held-out losses are measured; with
    `url` the server's answers are judged, without losses. Raises LorikeetError.
    """
    with Registry.open(request.registry_settings) as registry:
        version = registry.get(request.reference)
        subject = find_subject(
            version, request.rows, request.registry_settings, reporter, request.base
        )
        subject, trained_on = only_unseen(subject, reporter, own=request.rows.data is None)
        held_out = subject.held_out
        reporter.note(
            f"evaluating {version.reference} on {len(held_out.chats)} held-out rows of "
            f"{held_out.path.name}"
        )
        scoring = _Scoring(subject, reporter)
        if request.url is None:
            with registry.fetch(version):
                evaluation, how = scoring.in_memory()
        else:
            evaluation, how = scoring.served(Served(request.url, request.api_key, reporter))
        at = datetime.now(UTC).isoformat(timespec="seconds")
        measured = {
            "at": at,
            "by": how,
            "rows": held_out.path.name,
            "sha256": subject.sha256,
            "trained_on": trained_on,
        }
        found = evaluation.as_dict() | {"measured": measured}
        if request.save:
            version = registry.record(version.reference, evaluation=found)
    return version, found


class _Scoring:
    """What both ways of asking need: the chats as the base's template renders them."""

    def __init__(self, subject: Subject, reporter: Reporter) -> None:
        self._subject, self._reporter = subject, reporter
        base = subject.base
        self._tokenizer = load_tokenizer(base)
        self._encoder = ChatEncoder(self._tokenizer, base.id, stop_ids(base))
        self._context: int | None = base.config.get("max_position_embeddings")

    def in_memory(self) -> tuple[Evaluation, str]:
        """By PEFT on the base, quantised as for training; and that in words."""
        subject, base = self._subject, self._subject.base
        settings = subject.settings.model_copy(update={"baselines": True})
        hardware = detect(settings)
        rows = encode_chats(
            self._encoder,
            subject.held_out.chats,
            subject.held_out.path,
            max_length=self._context or _ANY_LENGTH,
            drop_long=False,
            allow_drift=settings.template_drift == "allow",
        )
        model = load_adapted(base, subject.version.path, settings, hardware)
        scorer = Scorer(model, self._tokenizer, self._encoder, rows, settings, self._reporter)
        how = f"PEFT ({settings.quantization}, {hardware.dtype}, {hardware.device})"
        return scorer.run(subject.examples), how

    def served(self, server: Served) -> tuple[Evaluation, str]:
        """By the requests of a client; and where that was."""
        subject, chats = self._subject, self._subject.held_out.chats
        base, version = subject.base.id, subject.version
        expected = [expected_of(chat) for chat in chats]
        most = longest_answer(self._tokenizer, expected, subject.settings)
        examples = fitting_examples(
            self._encoder, chats, subject.examples, limit=self._context, max_new_tokens=most
        )
        server.check(version.reference, version.digest)
        adapter = server.answers(version.reference, chats, who="the adapter", max_new_tokens=most)
        alone = server.answers(base, chats, who="the base", max_new_tokens=most)
        few_shot = None
        if examples:
            few_shot = server.answers(
                base, chats, who="the base with examples", examples=examples, max_new_tokens=most
            )
        evaluation = compare(chats, adapter, alone, few_shot, len(examples), expected=expected)
        return evaluation, f"the server on {server.url}"
