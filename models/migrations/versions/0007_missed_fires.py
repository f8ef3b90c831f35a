"""A slot may say that its fire was missed, and whether it was made up for."""

from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

OUTCOME = "slots_outcome_check"
BEFORE = ("ran", "coalesced", "skipped_paused", "fired_by_hand")
AFTER = ("ran", "caught_up", "coalesced", "missed", "skipped_paused", "fired_by_hand")


def upgrade() -> None:
    _allow(AFTER)


def downgrade() -> None:
    op.execute("UPDATE slots SET outcome = 'ran' WHERE outcome = 'caught_up'")
    op.execute("UPDATE slots SET outcome = 'coalesced' WHERE outcome = 'missed'")
    _allow(BEFORE)


def _allow(outcomes: tuple[str, ...]) -> None:
    op.drop_constraint(op.f(OUTCOME), "slots")
    listed = ", ".join(f"'{outcome}'" for outcome in outcomes)
    op.create_check_constraint(op.f(OUTCOME), "slots", f"outcome IN ({listed})")
