"""An upstream says until when it wants to be left in peace, since when, and how it said so."""

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("upstreams", sa.Column("throttled_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column("upstreams", sa.Column("throttled_until", sa.DateTime(timezone=True), nullable=True))
    op.add_column("upstreams", sa.Column("throttle_reason", sa.Text(), nullable=True))
    op.create_check_constraint(
        op.f("upstreams_throttled"), "upstreams", "(throttled_at IS NULL) = (throttled_until IS NULL)"
    )


def downgrade() -> None:
    op.drop_constraint(op.f("upstreams_throttled"), "upstreams")
    for name in ("throttled_at", "throttled_until", "throttle_reason"):
        op.drop_column("upstreams", name)
