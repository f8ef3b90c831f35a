"""Orders with their lines, reservations and fulfilments, and what Stripe shows of what they depend on."""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None

STATES = (
    *("pending", "awaiting_payment", "paid", "held", "partially_refunded", "refunded", "disputed", "dispute_lost"),
    *("payment_failed", "canceled", "expired"),
)
STOCK = ("held", "committed", "released")


def _id() -> sa.Column[Any]:
    return sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False)


def _kept() -> tuple[sa.Column[Any], ...]:
    moments = (
        sa.Column(name, sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False)
        for name in ("created_at", "updated_at")
    )
    return (*moments, sa.Column("deleted_at", sa.DateTime(timezone=True), nullable=True))


def _number(name: str, **options: Any) -> sa.Column[Any]:
    return sa.Column(name, sa.BigInteger(), nullable=False, **options)


def _text(name: str, *, nullable: bool = False, **options: Any) -> sa.Column[Any]:
    return sa.Column(name, sa.Text(), nullable=nullable, **options)


def _moment(name: str, *, nullable: bool = True) -> sa.Column[Any]:
    return sa.Column(name, sa.DateTime(timezone=True), nullable=nullable)


def _among(table: str, words: tuple[str, ...]) -> sa.CheckConstraint:
    listed = ", ".join(f"'{word}'" for word in words)
    return sa.CheckConstraint(f"state IN ({listed})", name=op.f(f"{table}_state_check"))


def _key(table: str, *columns: str) -> sa.Constraint:
    return sa.UniqueConstraint(*columns, name=op.f(f"{table}_{'_'.join(columns)}_key"))


def _points(table: str, column: str, to: str) -> sa.Constraint:
    return sa.ForeignKeyConstraint([column], [f"{to}.id"], name=op.f(f"{table}_{column}_fkey"))


def upgrade() -> None:
    _orders()
    _lines()
    _snapshots()
    op.create_table(
        "event_marks",
        _text("source"),
        _text("external_id"),
        _moment("moved_at", nullable=False),
        sa.PrimaryKeyConstraint("source", name=op.f("event_marks_pkey")),
    )


def _orders() -> None:
    op.create_table(
        "orders",
        _id(),
        _text("reference"),
        _text("state", server_default="pending"),
        _text("reason", nullable=True),
        _number("amount"),
        sa.Column("currency", sa.CHAR(3), nullable=False),
        _number("received", server_default="0"),
        _number("refunded", server_default="0"),
        _text("success_url"),
        _text("cancel_url", nullable=True),
        _text("checkout_key"),
        _text("checkout_url", nullable=True),
        _moment("opening_at"),
        _moment("expires_at", nullable=False),
        _moment("given_up_at"),
        *_kept(),
        _among("orders", STATES),
        sa.CheckConstraint("amount >= 0", name=op.f("orders_amount_not_negative_check")),
        _key("orders", "reference"),
        _key("orders", "checkout_key"),
        sa.PrimaryKeyConstraint("id", name=op.f("orders_pkey")),
    )
    op.create_index("orders_open", "orders", ["expires_at"], postgresql_where=sa.text("state = 'pending'"))
    op.create_table(
        "fulfilments",
        _number("order_id"),
        _moment("handed_at"),
        *_kept(),
        _points("fulfilments", "order_id", "orders"),
        sa.PrimaryKeyConstraint("order_id", name=op.f("fulfilments_pkey")),
    )


def _lines() -> None:
    op.create_table(
        "order_lines",
        _id(),
        _number("order_id"),
        _number("product_id"),
        _text("sku"),
        _text("name"),
        _number("price"),
        _number("quantity"),
        *_kept(),
        sa.CheckConstraint("quantity > 0", name=op.f("order_lines_quantity_check")),
        _key("order_lines", "order_id", "product_id"),
        _points("order_lines", "order_id", "orders"),
        _points("order_lines", "product_id", "products"),
        sa.PrimaryKeyConstraint("id", name=op.f("order_lines_pkey")),
    )
    op.create_table(
        "reservations",
        _id(),
        _number("order_line_id"),
        _number("level_id"),
        _number("quantity"),
        _text("state", server_default="held"),
        *_kept(),
        _among("reservations", STOCK),
        sa.CheckConstraint("quantity > 0", name=op.f("reservations_quantity_check")),
        _key("reservations", "order_line_id", "level_id"),
        _points("reservations", "order_line_id", "order_lines"),
        _points("reservations", "level_id", "stock_levels"),
        sa.PrimaryKeyConstraint("id", name=op.f("reservations_pkey")),
    )
    open_ones = sa.text("state <> 'released'")
    op.create_index("reservations_open", "reservations", ["level_id"], postgresql_where=open_ones)


def _snapshots() -> None:
    op.add_column("payments", sa.Column("order_id", sa.BigInteger(), nullable=True))
    op.create_foreign_key(op.f("payments_order_id_fkey"), "payments", "orders", ["order_id"], ["id"])
    op.create_index(op.f("payments_order_id_idx"), "payments", ["order_id"])
    _snapshot(
        "checkout_sessions",
        _text("payment_status"),
        _text("intent_status", nullable=True),
        sa.Column("order_id", sa.BigInteger(), nullable=True),
    )
    op.create_foreign_key(op.f("checkout_sessions_order_id_fkey"), "checkout_sessions", "orders", ["order_id"], ["id"])
    op.create_index(op.f("checkout_sessions_order_id_idx"), "checkout_sessions", ["order_id"])
    _snapshot("refunds")
    _snapshot("disputes")


def _snapshot(table: str, *more: sa.Column[Any]) -> None:
    op.create_table(
        table,
        *more,
        _text("payment", nullable=True),
        _id(),
        _text("source_id"),
        _text("status"),
        _number("amount"),
        sa.Column("currency", sa.CHAR(3), nullable=False),
        _number("observation"),
        _moment("observed_at", nullable=False),
        *_kept(),
        _key(table, "source_id"),
        sa.PrimaryKeyConstraint("id", name=op.f(f"{table}_pkey")),
    )
    op.create_index(op.f(f"{table}_payment_idx"), table, ["payment"])


def downgrade() -> None:
    for table in ("event_marks", "disputes", "refunds", "checkout_sessions"):
        op.drop_table(table)
    op.drop_column("payments", "order_id")
    for table in ("reservations", "order_lines", "fulfilments", "orders"):
        op.drop_table(table)
