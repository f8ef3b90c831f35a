"""Operators make schedules and change their rules; a fire that is the last one has none after it.

A schedule that exists fires as the code declares it. The scheduler of the release before goes on beside this one in a
deploy: what it inserts is valid, and what it reads is still there. It knows nothing of what operators decide
here: while it runs, or after going back to it, rules that they changed and schedules that they made do not hold.
"""

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

OUTCOME = "slots_outcome_check"
BEFORE = ("ran", "caught_up", "coalesced", "missed", "skipped_paused", "skipped_calendar", "fired_by_hand")


def _columns() -> tuple[sa.Column[Any], ...]:
    policy = (
        sa.Column("missed", sa.Text(), server_default="once", nullable=False),
        sa.Column("overlap", sa.Text(), server_default="join", nullable=False),
        sa.Column("jitter", sa.Float(), server_default="0", nullable=False),
    )
    texts = ("declared_rule", "declared_zone", "replaced_rule", "replaced_zone", "changed_by")
    return (
        sa.Column("job", sa.Text(), nullable=True),
        sa.Column("args", JSONB(), server_default=sa.text("'{}'::jsonb"), nullable=False),
        *(sa.Column(name, sa.Text(), nullable=True) for name in texts),
        *policy,
    )


def upgrade() -> None:
    for column in _columns():
        op.add_column("schedules", column)
    op.execute("UPDATE schedules SET declared_rule = rule, declared_zone = zone")
    op.alter_column("schedules", "next_fire_at", nullable=True)
    _index("retired_at IS NULL")
    op.create_index("audit_of", "audit", ["target", "at"])
    op.add_column("slots", sa.Column("note", sa.Text(), nullable=True))
    _allow((*BEFORE, "refused"))


def downgrade() -> None:
    op.execute("UPDATE slots SET outcome = 'missed' WHERE outcome = 'refused'")
    _allow(BEFORE)
    op.drop_column("slots", "note")
    op.drop_index("audit_of", table_name="audit")
    # The release before knows neither schedules that operators made nor those that never fire again.
    op.execute("DELETE FROM schedules WHERE declared_rule IS NULL OR next_fire_at IS NULL")
    op.execute("UPDATE schedules SET rule = declared_rule, zone = declared_zone, next_fire_at = now()")
    _index("retired_at IS NULL AND paused_at IS NULL")
    op.alter_column("schedules", "next_fire_at", nullable=False)
    for column in _columns():
        op.drop_column("schedules", column.name)


def _index(where: str) -> None:
    op.drop_index("schedules_due", table_name="schedules")
    op.create_index("schedules_due", "schedules", ["next_fire_at"], postgresql_where=sa.text(where))


def _allow(outcomes: tuple[str, ...]) -> None:
    op.drop_constraint(op.f(OUTCOME), "slots")
    listed = ", ".join(f"'{outcome}'" for outcome in outcomes)
    op.create_check_constraint(op.f(OUTCOME), "slots", f"outcome IN ({listed})")
