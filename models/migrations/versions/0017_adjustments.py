"""What the warehouse has to be told of our orders, and the part of its reservations that is ours.

`available` is computed anew, so `stock_levels` is rewritten under an exclusive lock: seconds for a million levels.
"""

import sqlalchemy as sa
from alembic import op

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None

STOCK = ("held", "committed", "released")

MARK = """
CREATE OR REPLACE FUNCTION mark_updated_levels() RETURNS trigger LANGUAGE plpgsql SET enable_nestloop = off AS $$
BEGIN
    INSERT INTO search_changes (product_id)
    SELECT DISTINCT n.product_id FROM new_rows n JOIN old_rows o USING (id)
    WHERE ({new}, n.deleted_at)
        IS DISTINCT FROM ({old}, o.deleted_at);
    RETURN NULL;
END $$;
"""
AVAILABLE = "ALTER TABLE stock_levels ALTER COLUMN available SET EXPRESSION AS ({})"
OPEN = sa.text("told_at IS NULL AND deleted_at IS NULL")
SHIPPED = sa.text("on_hand <> 0 AND deleted_at IS NULL")


def upgrade() -> None:
    op.add_column("stock_levels", sa.Column("told", sa.BigInteger(), server_default="0", nullable=False))
    op.create_check_constraint(op.f("stock_levels_told_not_negative_check"), "stock_levels", "told >= 0")
    op.execute(AVAILABLE.format("on_hand - reserved - greatest(source_reserved - told, 0::bigint)"))
    _mark("on_hand", "reserved", "source_reserved", "told")
    _states(*STOCK, "shipped")
    _open_reservations("state IN ('held', 'committed')")
    _adjustments()


def _adjustments() -> None:
    moments = (
        sa.Column(name, sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False)
        for name in ("created_at", "updated_at")
    )
    table = "stock_adjustments"
    op.create_table(
        table,
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("level_id", sa.BigInteger(), nullable=False),
        sa.Column("order_id", sa.BigInteger(), nullable=False),
        sa.Column("on_hand", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("reserved", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("asked_key", sa.Text(), nullable=True),
        sa.Column("asked_version", sa.BigInteger(), nullable=True),
        sa.Column("asked_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("told_at", sa.DateTime(timezone=True), nullable=True),
        *moments,
        sa.Column("deleted_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("on_hand <> 0 OR reserved <> 0", name=op.f(f"{table}_says_something_check")),
        sa.CheckConstraint("on_hand <= 0", name=op.f(f"{table}_takes_away_check")),
        sa.CheckConstraint("(asked_key IS NULL) = (asked_at IS NULL)", name=op.f(f"{table}_asked_check")),
        sa.ForeignKeyConstraint(["level_id"], ["stock_levels.id"], name=op.f(f"{table}_level_id_fkey")),
        sa.ForeignKeyConstraint(["order_id"], ["orders.id"], name=op.f(f"{table}_order_id_fkey")),
        sa.PrimaryKeyConstraint("id", name=op.f(f"{table}_pkey")),
    )
    op.create_index(f"{table}_open", table, ["level_id"], postgresql_where=OPEN)
    op.create_index(f"{table}_shipped", table, ["order_id", "level_id"], unique=True, postgresql_where=SHIPPED)
    op.create_index(f"{table}_order", table, ["order_id", "level_id"])
    op.create_index(f"{table}_asked", table, ["asked_key"], postgresql_where=sa.text("asked_key IS NOT NULL"))


def _mark(*columns: str) -> None:
    new, old = (", ".join(f"{row}.{column}" for column in columns) for row in ("n", "o"))
    op.execute(MARK.format(new=new, old=old))


def _states(*words: str) -> None:
    op.drop_constraint(op.f("reservations_state_check"), "reservations")
    listed = ", ".join(f"'{word}'" for word in words)
    op.create_check_constraint(op.f("reservations_state_check"), "reservations", f"state IN ({listed})")


def _open_reservations(where: str) -> None:
    op.drop_index("reservations_open", "reservations")
    op.create_index("reservations_open", "reservations", ["level_id"], postgresql_where=sa.text(where))


def downgrade() -> None:
    op.drop_table("stock_adjustments")
    # Who knows only three states takes what has left for kept: too little is for sale, never too much.
    op.execute("""
        UPDATE stock_levels l SET reserved = reserved + r.quantity FROM (
            SELECT level_id, sum(quantity) AS quantity FROM reservations WHERE state = 'shipped' GROUP BY level_id
        ) AS r WHERE l.id = r.level_id
    """)
    op.execute("UPDATE reservations SET state = 'committed' WHERE state = 'shipped'")
    _open_reservations("state <> 'released'")
    _states(*STOCK)
    _mark("on_hand", "reserved", "source_reserved")
    op.execute(AVAILABLE.format("on_hand - reserved - source_reserved"))
    op.drop_column("stock_levels", "told")
