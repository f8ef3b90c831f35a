"""An upstream says since when its circuit is open, when it is probed next, and what failed last."""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

NAMES = ("circuit_opened_at", "next_probe_at", "circuit_told_at")


def upgrade() -> None:
    for name in NAMES:
        op.add_column("upstreams", sa.Column(name, sa.DateTime(timezone=True), nullable=True))
    op.add_column("upstreams", sa.Column("circuit_error", sa.Text(), nullable=True))
    op.create_check_constraint(
        op.f("upstreams_probed"), "upstreams", "(circuit_opened_at IS NULL) = (next_probe_at IS NULL)"
    )


def downgrade() -> None:
    op.drop_constraint(op.f("upstreams_probed"), "upstreams")
    for name in (*NAMES, "circuit_error"):
        op.drop_column("upstreams", name)
