"""The certification of a published version: a server is asked, then models are loaded in turn."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from registry import Base, Registry, RegistrySettings, UsageError, Version
from train.adapted_model import load_adapted
from train.base_model import load_tokenizer, stop_ids
from train.data.masking import ChatEncoder, Encoded, encode_chats
from train.errors import BaseNotTrainable
from train.evaluation.subject import Rows, Subject, find_subject
from train.handoff.agreement import TOLERANCES
from train.handoff.certificate import Certificate, Reference, Served, certify
from train.handoff.models import free_memory, load_as_served, load_merged
from train.handoff.score_server import LONGEST, ScoreServer
from train.handoff.token_scores import TokenScores, token_scores
from train.hardware import detect
from train.progress import Reporter

ROWS = 32
_ANY_LENGTH = 1 << 30

OpenServer = Callable[[Base, Version], AbstractContextManager[ScoreServer]]
"""Gives a server of the base that has the version; it may end with the context."""


@dataclass(frozen=True)
class CertifyRequest:
    """Which version to certify, on at most how many of which held-out rows."""

    reference: str
    data: Path | None = None
    rows: int = ROWS
    base: str | None = None
    save: bool = True
    registry_settings: RegistrySettings = field(default_factory=RegistrySettings)


def certify_version(
    request: CertifyRequest, open_server: OpenServer, reporter: Reporter
) -> tuple[Version, Certificate]:
    """Certify a version and, with `save`, record the certificate on it, also one that has failed.

    The server is asked first and may end before any model is loaded: both may not fit into one
    machine at the same time. Raises LorikeetError.
    """
    with Registry.open(request.registry_settings) as registry, ExitStack() as held:
        version = registry.get(request.reference)
        held.enter_context(registry.fetch(version))
        rows = Rows(request.data, shots=0, most=request.rows)
        subject = find_subject(version, rows, request.registry_settings, reporter, request.base)
        encoded = scored_rows(subject)
        reporter.note(
            f"certifying {version.reference} on {len(encoded)} held-out rows of "
            f"{subject.held_out.path.name}"
        )
        with open_server(subject.base, version) as server:
            served = _ask(server, version, encoded, reporter)
        certificate = certify(
            version, encoded, served, _reference(subject, encoded, served, reporter)
        )
        if request.save:
            version = registry.record(
                f"{version.name}@{version.number}", certificate=certificate.as_dict()
            )
    return version, certificate


def scored_rows(subject: Subject) -> list[Encoded]:
    """The held-out rows as token ids: what a server can score of each, where an answer is in it.

    Raises UsageError where nothing is left.
    """
    encoder = ChatEncoder(load_tokenizer(subject.base), subject.base.id, stop_ids(subject.base))
    chats, path = subject.held_out.chats, subject.held_out.path
    rows = [
        Encoded(sequence.input_ids[:LONGEST], sequence.labels[:LONGEST])
        for row in encode_chats(
            encoder, chats, path, max_length=_ANY_LENGTH, drop_long=False, allow_drift=True
        )
        for sequence in row.sequences
    ]
    rows = [row for row in rows if row.trained_tokens]
    if not rows:
        raise UsageError(
            f"no answer in {path} begins within {LONGEST} tokens",
            remedy="name held-out rows with shorter prompts: --data held-out.jsonl",
        )
    return rows


def _ask(
    server: ScoreServer, version: Version, rows: Sequence[Encoded], reporter: Reporter
) -> Served:
    reference = f"{version.name}@{version.number}"
    served = Served(
        server.scores(reference, rows, _progress("the served adapter", rows, reporter)),
        server.scores(None, rows, _progress("the served base", rows, reporter)),
    )
    if served.dtype not in TOLERANCES or served.quantization not in ("none", "nf4"):
        raise UsageError(
            f"a base served in {served.dtype}, {served.quantization}, is not one to compare with",
            remedy="serve it in float32, bfloat16 or float16, with quantisation none or nf4",
        )
    return served


def _reference(
    subject: Subject, rows: Sequence[Encoded], served: Served, reporter: Reporter
) -> Reference:
    """Load each model, score the rows with it, and let it go before the next one."""
    base, adapter, settings = subject.base, subject.version.path, subject.settings
    hardware = detect(settings).for_weights(served.dtype)
    pad_id = load_tokenizer(base).pad_token_id

    def scores(who: str, load: Callable[[], Any]) -> list[TokenScores]:
        reporter.note(f"loading {who}")
        model = load()
        try:
            return token_scores(
                model,
                rows,
                pad_id=pad_id,
                batch_size=settings.eval_batch_size,
                on_rows=_progress(who, rows, reporter),
            )
        finally:
            del model
            free_memory()

    def on_base(quantization: str) -> Any:
        return load_as_served(
            base, adapter, settings, hardware, dtype=served.dtype, quantization=quantization
        )

    as_served = scores("the adapter on the base as served", lambda: on_base(served.quantization))
    unquantised = as_served
    if served.quantization != "none":
        unquantised = scores("the adapter on the unquantised base", lambda: on_base("none"))
    trained = unquantised
    if settings.quantization != "none":
        trained = scores(
            "the adapter as trained", lambda: load_adapted(base, adapter, settings, hardware)
        )
    merged = None
    try:
        merged = scores(
            "the adapter merged",
            lambda: load_merged(base, adapter, settings, hardware, dtype=served.dtype),
        )
    except BaseNotTrainable as error:
        reporter.note(f"not merged: {error.message}")
    return Reference(as_served, trained, unquantised, merged, settings.quantization)


def _progress(who: str, rows: Sequence[Encoded], reporter: Reporter) -> Callable[[int], None]:
    done = 0

    def advance(more: int) -> None:
        nonlocal done
        done += more
        reporter.answered(who, done, len(rows))

    return advance
