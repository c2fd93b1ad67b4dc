"""Files, fine-tuning jobs and their models; adapters that belong to a tenant."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

_MOMENT = sa.DateTime(timezone=True)


def upgrade() -> None:
    """Add them."""
    op.add_column("adapters", sa.Column("tenant", sa.String(64)))
    op.create_table(
        "files",
        sa.Column("id", sa.String(40), nullable=False),
        sa.Column("tenant", sa.String(64), nullable=False),
        sa.Column("purpose", sa.String(32), nullable=False),
        sa.Column("filename", sa.String(255), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("created_at", _MOMENT, nullable=False),
        sa.Column("deleted_at", _MOMENT),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("files_by_tenant", "files", ["tenant", "created_at"])
    op.create_index("ix_files_sha256", "files", ["sha256"])
    op.create_table(
        "workers",
        sa.Column("name", sa.String(128), nullable=False),
        sa.Column("devices", sa.JSON(), nullable=False),
        sa.Column("doing", sa.Text(), nullable=False),
        sa.Column("seen_at", _MOMENT, nullable=False),
        sa.PrimaryKeyConstraint("name"),
    )
    op.create_table(
        "jobs",
        sa.Column("id", sa.String(40), nullable=False),
        sa.Column("tenant", sa.String(64), nullable=False),
        sa.Column("status", sa.String(20), nullable=False),
        sa.Column("base", sa.String(192), nullable=False),
        sa.Column("base_place", sa.Text(), nullable=False),
        sa.Column("base_digest", sa.String(71), nullable=False),
        sa.Column("training_file", sa.String(40), nullable=False),
        sa.Column("validation_file", sa.String(40)),
        sa.Column("suffix", sa.String(64)),
        sa.Column("seed", sa.BigInteger(), nullable=False),
        sa.Column("labels", sa.JSON(none_as_null=True)),
        sa.Column("hyperparameters", sa.JSON(), nullable=False),
        sa.Column("options", sa.JSON(), nullable=False),
        sa.Column("priority", sa.Integer(), nullable=False),
        sa.Column("adapter", sa.String(64), nullable=False),
        sa.Column("request_digest", sa.String(64)),
        sa.Column("created_at", _MOMENT, nullable=False),
        sa.Column("validated_at", _MOMENT),
        sa.Column("started_at", _MOMENT),
        sa.Column("finished_at", _MOMENT),
        sa.Column("estimated_finish", _MOMENT),
        sa.Column("served_at", _MOMENT),
        sa.Column("trained_tokens", sa.BigInteger()),
        sa.Column("fine_tuned_model", sa.String(320)),
        sa.Column("version", sa.Integer()),
        sa.Column("result_files", sa.JSON(), nullable=False),
        sa.Column("error", sa.JSON(none_as_null=True)),
        sa.Column("worker", sa.String(128)),
        sa.Column("lease_until", _MOMENT),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(["training_file"], ["files.id"]),
        sa.ForeignKeyConstraint(["validation_file"], ["files.id"]),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("jobs_by_retry", "jobs", ["tenant", "request_digest"])
    op.create_index("jobs_by_status", "jobs", ["status", "created_at"])
    op.create_index("jobs_by_tenant", "jobs", ["tenant", "created_at"])
    op.create_table(
        "fine_tuned_models",
        sa.Column("name", sa.String(320), nullable=False),
        sa.Column("id", sa.String(40), nullable=False),
        sa.Column("tenant", sa.String(64), nullable=False),
        sa.Column("adapter", sa.String(64), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("job_id", sa.String(40), nullable=False),
        sa.Column("step", sa.Integer()),
        sa.Column("metrics", sa.JSON(none_as_null=True)),
        sa.Column("created_at", _MOMENT, nullable=False),
        sa.Column("deleted_at", _MOMENT),
        sa.ForeignKeyConstraint(["adapter"], ["adapters.name"]),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"]),
        sa.PrimaryKeyConstraint("name"),
        sa.UniqueConstraint("id"),
        sa.UniqueConstraint("job_id", "step"),
    )
    op.create_index("ix_fine_tuned_models_tenant", "fine_tuned_models", ["tenant"])
    op.create_table(
        "job_events",
        sa.Column("sequence", sa.Integer(), nullable=False),
        sa.Column("id", sa.String(40), nullable=False),
        sa.Column("job_id", sa.String(40), nullable=False),
        sa.Column("key", sa.String(64)),
        sa.Column("created_at", _MOMENT, nullable=False),
        sa.Column("level", sa.String(8), nullable=False),
        sa.Column("type", sa.String(8), nullable=False),
        sa.Column("message", sa.Text(), nullable=False),
        sa.Column("data", sa.JSON(none_as_null=True)),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"]),
        sa.PrimaryKeyConstraint("sequence"),
        sa.UniqueConstraint("id"),
        sa.UniqueConstraint("job_id", "key"),
    )
    op.create_index("ix_job_events_job_id", "job_events", ["job_id"])
