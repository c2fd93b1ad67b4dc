"""Fine-tuning: the jobs, what runs now, and whether it gets on.

Every server that shares a registry says the same about a job, so the highest is taken, not the sum.
"""

from deploy.monitoring.grafana import SERVERS, Dashboard, Panel, Query, Row, Variable
from deploy.monitoring.promql import highest, select, share

CHOSEN = 'training_job=~"$training"'
NAME = "{{training_job}}"


def training() -> Dashboard:
    """By job while it runs; a job that is done has no series any more."""
    chosen = Variable(
        "training", "Training job", 'lorikeet_training_step{job=~"$job"}', "training_job"
    )
    return Dashboard(
        "training",
        "Fine-tuning jobs and workers, and the loss of what trains now.",
        (Row("Jobs and workers", _JOBS), Row("Running jobs", _RUNNING)),
        (*SERVERS, chosen),
    )


def _of_job(gauge: str) -> str:
    return highest(gauge, "training_job", where=CHOSEN)


_LEFT = f"({_of_job('lorikeet_training_steps')} - {_of_job('lorikeet_training_step')})"
_JOBS = (
    Panel(
        "Jobs by status",
        "Queued ones wait for a worker, in fair turns over tenants.",
        (Query(highest("lorikeet_training_jobs", "status"), "{{status}}"),),
        stacked=True,
        width=12,
    ),
    Panel(
        "Workers",
        "Seen within the last minute.",
        (Query(highest("lorikeet_training_workers"), "workers"),),
        kind="stat",
        width=4,
        bounds=(1, 0.5),
    ),
    Panel(
        "Registry",
        "0: the job table is away, and what is shown here is old.",
        (Query(f"min({select('lorikeet_registry_up')})", "up"),),
        kind="stat",
        width=4,
        bounds=(1, 0.5),
    ),
    Panel(
        "Disk free",
        "Checkpoints and adapters need it.",
        (Query(f"min({select('lorikeet_disk_free_bytes')})", "free"),),
        kind="stat",
        unit="bytes",
        width=4,
    ),
)
_RUNNING = (
    Panel(
        "Running jobs",
        "Steps done and planned, the loss now, and the time left at the present speed.",
        (
            Query(_of_job("lorikeet_training_step"), "Step"),
            Query(_of_job("lorikeet_training_steps"), "Of"),
            Query(_of_job("lorikeet_training_loss"), "Loss"),
            Query(
                f"{_LEFT} * {_of_job('lorikeet_training_step_seconds')}",
                "Seconds left",
            ),
        ),
        kind="table",
        width=24,
        height=6,
    ),
    Panel(
        "Loss",
        "Training loss as reported. Flat: nothing is learned. A leap: the rate is too high.",
        (Query(_of_job("lorikeet_training_loss"), NAME),),
        width=12,
    ),
    Panel(
        "Progress",
        "Share of the steps.",
        (
            Query(
                share(_of_job("lorikeet_training_step"), _of_job("lorikeet_training_steps")), NAME
            ),
        ),
        unit="percentunit",
        width=12,
    ),
    Panel(
        "Seconds of a step",
        "Rising: the machine is shared, or it swaps.",
        (Query(_of_job("lorikeet_training_step_seconds"), NAME),),
        unit="s",
    ),
    Panel(
        "Tokens trained by second",
        "Tokens that count in the loss and those around them.",
        (Query(_of_job("lorikeet_training_tokens_per_second"), NAME),),
        unit="ops",
    ),
    Panel(
        "Seconds since the last event",
        "A job that says nothing for 15 minutes is taken for stalled.",
        (Query(_of_job("lorikeet_training_last_event_age_seconds"), NAME),),
        unit="s",
        bounds=(300, 900),
    ),
)
