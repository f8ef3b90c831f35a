"""A process says by how much its host's clock differs from the database's."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("processes", sa.Column("clock_skew", sa.Double(), nullable=True))


def downgrade() -> None:
    op.drop_column("processes", "clock_skew")
