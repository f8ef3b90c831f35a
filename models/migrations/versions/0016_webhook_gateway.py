"""Deliveries that were refused are kept too, with the reason; events of one entity may share a run that waits."""

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None

VERDICT = "verdict IN ('accepted', 'ignored', 'malformed'{})"


def upgrade() -> None:
    for name, kind in (("reason", sa.Text()), ("address", sa.Text()), ("secret", sa.BigInteger())):
        op.add_column("events", sa.Column(name, kind, nullable=True))
    op.add_column("events", sa.Column("joined_run", sa.BigInteger(), nullable=True))
    op.drop_constraint(op.f("events_verdict_check"), "events")
    op.create_check_constraint(op.f("events_verdict_check"), "events", VERDICT.format(", 'rejected'"))
    op.create_index("events_joined", "events", ["joined_run"], postgresql_where=sa.text("joined_run IS NOT NULL"))
    op.create_index("events_rejected", "events", ["received_at"], postgresql_where=sa.text("verdict = 'rejected'"))


def downgrade() -> None:
    op.drop_index("events_rejected", table_name="events")
    op.drop_index("events_joined", table_name="events")
    op.execute("DELETE FROM events WHERE verdict = 'rejected'")
    op.drop_constraint(op.f("events_verdict_check"), "events")
    op.create_check_constraint(op.f("events_verdict_check"), "events", VERDICT.format(""))
    for name in ("joined_run", "secret", "address", "reason"):
        op.drop_column("events", name)
