"""Runs whose time is over are found by an index; a process says which jobs its code has."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index(
        "runs_overdue",
        "runs",
        ["deadline_at"],
        postgresql_where=sa.text("deadline_at IS NOT NULL AND state IN ('waiting', 'queued')"),
    )
    op.add_column("processes", sa.Column("jobs", postgresql.ARRAY(sa.TEXT()), server_default="{}", nullable=False))


def downgrade() -> None:
    op.drop_column("processes", "jobs")
    op.drop_index("runs_overdue", table_name="runs")
