"""From a run that is done to a model that can be asked: each step once, however often it is begun.

checkpoints → evaluation → version → metrics file → certificate → succeeded
"""

import csv
import io
import json
import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from registry import Base, Registry, RegistrySettings, Version
from registry.finetuning.names import steps_adapter
from registry.finetuning.objects import RESULTS, Job
from train.runs.epochs import kept_epochs
from train.runs.folder import RunFolder
from train.runs.metrics import Metrics
from train.settings_file import load_settings
from train.worker.lease import Lease
from train.worker.progress_events import COLUMNS, StepFigures, figures

ORIGIN = "fine-tune"

Certify = Callable[[Version], None]
"""Certifies a version, and tells of it; a certificate that cannot be made is no failure."""


class Finish:
    """The end of one job. `find_base` gives the base that it was trained on."""

    def __init__(
        self, registry: Registry, lease: Lease, find_base: Callable[[Job, RegistrySettings], Base]
    ) -> None:
        self._registry, self._lease, self._find_base = registry, lease, find_base
        self._job = lease.claim.job
        self._run = RunFolder(registry.settings.runs / self._job.id)
        self._published: set[int] = set()

    def checkpoints(self, *, ended: bool = False) -> None:
        """Publish the adapters of the last epochs that are there and not yet published.

        Before the training has `ended`, those alone that are sure to be among the last.
        Raises what `Registry.publish` does, and LeaseLost.
        """
        new = {
            step: path
            for step, path in kept_epochs(self._run, ended=ended).items()
            if step not in self._published
        }
        if not new:
            return
        steps = {step.step: step for step in figures(Metrics(self._run.metrics).lines())}
        settings = load_settings(self._run.settings_file).model_dump(
            mode="json", exclude={"few_shot_data"}
        )
        for step, path in new.items():
            version = self._registry.publish(
                path,
                steps_adapter(self._job.adapter),
                base=self._find_base(self._job, self._registry.settings),
                origin=ORIGIN,
                training={
                    "run": self._run.id,
                    "job": self._job.id,
                    "step": step,
                    "settings": settings,
                },
                tenant=self._job.tenant,
            )
            found = steps.get(step)
            self._lease.claim.checkpoint(
                step, version, found.metrics() if found else {"step": step}
            )
            self._published.add(step)

    def run(self, certify: Certify | None) -> Job:
        """All of it. Raises what `Registry.publish` does, LeaseLost and Stopping."""
        lease = self._lease
        record = _read(self._run.training)
        evaluation = _read(self._run.evaluation)
        lease.patiently(lambda: self.checkpoints(ended=True))
        if evaluation:
            text = evaluation_told(evaluation)
            lease.patiently(lambda: lease.claim.note(text, key="evaluation"))
        version = lease.patiently(lambda: self._publish(record, evaluation))
        self._run.update(version=version.reference)
        result = lease.patiently(self._result_file)
        if certify is not None and self._run.held_out.is_file():
            certify(version)
        done = lease.patiently(
            lambda: lease.claim.succeed(
                version, trained_tokens=int(record.get("tokens", 0)), result_files=[result]
            )
        )
        shutil.rmtree(self._run.epochs, ignore_errors=True)  # they are published
        return done

    def _publish(self, record: dict[str, Any], evaluation: dict[str, Any]) -> Version:
        job = self._job
        data = _read(self._run.data_file).get("data") or {}
        return self._registry.publish(
            self._run.adapter,
            job.adapter,
            base=self._find_base(job, self._registry.settings),
            origin=ORIGIN,
            training=record | {"job": job.id},
            data_digest=f"sha256:{data['sha256']}" if "sha256" in data else None,
            evaluation=evaluation or None,
            tenant=job.tenant,
        )

    def _result_file(self) -> str:
        """The id of the metrics file, which is made where an earlier attempt did not."""
        job, files = self._job, self._registry.files
        name = f"{job.id}-metrics.csv"
        for file in files.list(job.tenant, purpose=RESULTS).data:
            if file.filename == name:
                return file.id
        with files.receiving() as incoming:
            incoming.write(metrics_csv(figures(Metrics(self._run.metrics).lines())).encode())
            return files.add(incoming, tenant=job.tenant, purpose=RESULTS, filename=name).id


def metrics_csv(steps: Iterable[StepFigures]) -> str:
    """The metrics file: OpenAI's columns, a line a step."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(COLUMNS)
    table.writerows(step.row() for step in steps)
    return text.getvalue()


def evaluation_told(evaluation: Mapping[str, Any]) -> str:
    """`Evaluation on 12 held-out rows: accuracy 86.7% (base 33.3%, few-shot 50.0%), loss 0.12 …`"""
    adapter = evaluation["adapter"]
    metric = str((evaluation.get("comparison") or {}).get("metric", "accuracy"))
    others = {
        "base": evaluation.get("base") or {},
        "few-shot": evaluation.get("few_shot") or {},
    }

    def told(key: str, form: str) -> str:
        if adapter.get(key) is None:
            return ""
        beside = [
            f"{who} {score[key]:{form}}"
            for who, score in others.items()
            if score.get(key) is not None
        ]
        return f"{adapter[key]:{form}}" + (f" ({', '.join(beside)})" if beside else "")

    parts = [f"{metric.replace('_', ' ')} {told(metric, '.1%')}"]
    if loss := told("loss", ".3f"):
        parts.append(f"loss {loss}")
    return f"Evaluation on {adapter['rows']} held-out rows: {', '.join(parts)}"


def _read(path: Path) -> dict[str, Any]:
    """A JSON file's object; empty where there is none."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}
