"""What changed when: a number for each adapter and each key, which the database's triggers keep."""

import sqlalchemy as sa
from alembic import op

from registry.migrations import change_triggers

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Add them."""
    op.create_table(
        "changes",
        sa.Column("subject", sa.String(80), nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("subject"),
        sa.UniqueConstraint("number"),
    )
    change_triggers.create(op.get_bind())
