"""Priorities, keys, limits and pauses; expiry, deadlines, checkpoints and discards that can be undone.

A run with a key is found by three indexes of its own; a run without one pays for none of them. The relay asks for due
runs by priority, so the index of due runs begins with queue and priority.
"""

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def columns() -> list[sa.Column[Any]]:
    return [
        sa.Column("priority", sa.SmallInteger(), server_default="2", nullable=False),
        sa.Column("key", sa.Text(), nullable=True),
        sa.Column("unique_while", sa.Text(), nullable=True),
        sa.Column("unique_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("deadline_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("checkpoint", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("discarded_at", sa.DateTime(timezone=True), nullable=True),
    ]


def of_a_pause() -> list[sa.Column[Any]]:
    return [
        sa.Column("paused_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("resumed_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("ramp_seconds", sa.Integer(), nullable=True),
    ]


INDEXES: dict[str, tuple[list[str], str]] = {
    "runs_due": (["queue", "priority", "due_at", "id"], "state = 'waiting' AND key IS NULL"),
    "runs_keyed": (["queue", "priority", "due_at", "id"], "state = 'waiting' AND key IS NOT NULL"),
    "runs_lanes": (["queue", "job", "key", "priority", "due_at", "id"], "state = 'waiting' AND key IS NOT NULL"),
    "runs_begun": (["job", "key"], "key IS NOT NULL AND attempt > 0 AND state = 'waiting'"),
    "runs_in_flight": (["job", "key"], "key IS NOT NULL AND state IN ('queued', 'running')"),
    "runs_expiring": (["expires_at"], "expires_at IS NOT NULL AND state IN ('waiting', 'queued')"),
}


def upgrade() -> None:
    for column in columns():
        op.add_column("runs", column)
    for column in (sa.Column("concurrency", sa.Integer(), nullable=True), *of_a_pause()):
        op.add_column("queues", column)
    op.create_check_constraint(op.f("runs_priority_check"), "runs", "priority BETWEEN 0 AND 3")
    op.create_check_constraint(op.f("queues_concurrency_check"), "queues", "concurrency > 0")
    op.drop_index("runs_due", table_name="runs")
    for name, (indexed, where) in INDEXES.items():
        op.create_index(name, "runs", indexed, postgresql_where=sa.text(where))
    op.create_table(
        "pauses",
        sa.Column("job", sa.Text(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("paused_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("paused_by", sa.Text(), nullable=True),
        sa.Column("reason", sa.Text(), nullable=True),
        *of_a_pause(),
        sa.CheckConstraint("job <> '' OR key <> ''", name=op.f("pauses_names_something_check")),
        sa.PrimaryKeyConstraint("job", "key", name=op.f("pauses_pkey")),
    )


def downgrade() -> None:
    op.drop_table("pauses")
    for name in INDEXES:
        op.drop_index(name, table_name="runs")
    op.create_index("runs_due", "runs", ["queue", "due_at", "id"], postgresql_where=sa.text("state = 'waiting'"))
    op.drop_constraint("queues_concurrency_check", "queues")
    op.drop_constraint("runs_priority_check", "runs")
    for name in ("concurrency", *(column.name for column in of_a_pause())):
        op.drop_column("queues", name)
    for column in columns():
        op.drop_column("runs", column.name)
