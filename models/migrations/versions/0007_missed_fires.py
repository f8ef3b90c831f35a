"""A slot says that its fire was missed, made up for or on a holiday; the pause of a schedule may end by itself."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

OUTCOME = "slots_outcome_check"
BEFORE = ("ran", "coalesced", "skipped_paused", "fired_by_hand")
AFTER = ("ran", "caught_up", "coalesced", "missed", "skipped_paused", "skipped_calendar", "fired_by_hand")


def upgrade() -> None:
    _allow(AFTER)
    op.add_column("schedules", sa.Column("paused_until", sa.DateTime(timezone=True), nullable=True))


def downgrade() -> None:
    op.drop_column("schedules", "paused_until")
    op.execute("UPDATE slots SET outcome = 'ran' WHERE outcome = 'caught_up'")
    op.execute("UPDATE slots SET outcome = 'coalesced' WHERE outcome = 'missed'")
    op.execute("UPDATE slots SET outcome = 'skipped_paused' WHERE outcome = 'skipped_calendar'")
    _allow(BEFORE)


def _allow(outcomes: tuple[str, ...]) -> None:
    op.drop_constraint(op.f(OUTCOME), "slots")
    listed = ", ".join(f"'{outcome}'" for outcome in outcomes)
    op.create_check_constraint(op.f(OUTCOME), "slots", f"outcome IN ({listed})")
