"""Redrives: dead runs that are run again with care; and how much room tables keep, as measured at five million runs."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


STORAGE = {
    "runs": {"fillfactor": "85", "autovacuum_vacuum_max_threshold": "100000"},
    "attempts": {"autovacuum_vacuum_scale_factor": "0.02", "autovacuum_vacuum_insert_scale_factor": "0.05"},
    "log_lines": {"autovacuum_vacuum_scale_factor": "0.02", "autovacuum_vacuum_insert_scale_factor": "0.05"},
}


def upgrade() -> None:
    for table, parameters in STORAGE.items():
        op.execute(f"ALTER TABLE {table} SET ({', '.join(f'{name} = {value}' for name, value in parameters.items())})")
    count = {name: sa.Column(name, sa.BigInteger(), server_default="0", nullable=False) for name in COUNTS}
    op.create_table(
        "redrives",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("selection", sa.Text(), nullable=False),
        sa.Column("created_by", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("canary", sa.Integer(), nullable=True),
        sa.Column("rate", sa.Double(), nullable=True),
        sa.Column("stop_at", sa.SmallInteger(), nullable=False),
        sa.Column("next_due_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        *count.values(),
        sa.Column("stopped_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("why", sa.Text(), nullable=True),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("canary > 0", name=op.f("redrives_canary_check")),
        sa.CheckConstraint("rate > 0", name=op.f("redrives_rate_check")),
        sa.CheckConstraint("stop_at BETWEEN 0 AND 100", name=op.f("redrives_stop_at_check")),
        sa.PrimaryKeyConstraint("id", name=op.f("redrives_pkey")),
    )
    op.create_index("redrives_open", "redrives", ["id"], postgresql_where=sa.text("ended_at IS NULL"))
    op.create_table(
        "redriven",
        sa.Column("redrive_id", sa.BigInteger(), nullable=False),
        sa.Column("run_id", sa.BigInteger(), nullable=False),
        sa.Column("moved_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("attempt", sa.Integer(), nullable=True),
        sa.Column("failures", sa.SmallInteger(), nullable=True),
        sa.Column("deaths", sa.SmallInteger(), nullable=True),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("fate", sa.Text(), nullable=True),
        sa.CheckConstraint(
            "fate IN ('succeeded', 'failed', 'gone', 'passed', 'kept')", name=op.f("redriven_fate_check")
        ),
        sa.ForeignKeyConstraint(
            ["redrive_id"], ["redrives.id"], name=op.f("redriven_redrive_id_fkey"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("redrive_id", "run_id", name=op.f("redriven_pkey")),
    )
    for name, (columns, where) in INDEXES.items():
        unique = name == "redriven_run"
        op.create_index(name, "redriven", columns, unique=unique, postgresql_where=sa.text(where))


COUNTS = ("total", "moved", "succeeded", "failed", "gone", "passed", "kept")
INDEXES: dict[str, tuple[list[str], str]] = {
    "redriven_run": (["run_id"], "fate IS NULL"),
    "redriven_next": (["redrive_id", "run_id"], "fate IS NULL AND moved_at IS NULL"),
    "redriven_open": (["redrive_id", "run_id"], "fate IS NULL AND moved_at IS NOT NULL"),
}


def downgrade() -> None:
    op.drop_table("redriven")
    op.drop_table("redrives")
    for table, parameters in STORAGE.items():
        op.execute(f"ALTER TABLE {table} RESET ({', '.join(parameters)})")
    op.execute("ALTER TABLE runs SET (fillfactor = 70)")
