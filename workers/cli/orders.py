"""Orders: what each is by what Stripe shows, what it waits for, and everything that it was worked out from.

Nobody moves an order here: its state follows from Stripe's objects. Amounts are in minor units.
"""

from typing import Annotated, Any

import typer
from sqlalchemy import Connection, select, text, true

from models import Order, OrderState
from workers.actions import Refused
from workers.cli.opening import reading
from workers.cli.options import LARGEST_ID, AsJson, Before, Limit
from workers.cli.tables import print_json, show

app = typer.Typer(name="orders", help="List and show orders.")

Id = Annotated[int, typer.Argument(min=1, max=LARGEST_ID, metavar="ID", help="The order.", show_default=False)]
State = Annotated[OrderState | None, typer.Option("--state", help="Only orders in this state.")]

LISTED = (
    *(Order.id, Order.state, Order.amount, Order.currency, Order.received, Order.refunded, Order.reason),
    *(Order.created_at, Order.expires_at, Order.checkout_url, Order.reference),
)
COLUMNS = {
    "id": lambda order: str(order["id"]),
    "state": lambda order: order["state"],
    "due": lambda order: f"{order['amount']:,} {order['currency']}",
    "received": lambda order: order["received"],
    "refunded": lambda order: order["refunded"],
    "created": lambda order: order["created_at"],
    "may pay until": lambda order: order["expires_at"] if order["state"] == OrderState.PENDING else None,
    "why": lambda order: order["reason"],
}
PARTS = {
    "lines": text("""
        SELECT l.sku, l.name, l.quantity, l.price, o.source_id AS location, r.quantity AS kept, r.state AS stock
        FROM order_lines l JOIN reservations r ON r.order_line_id = l.id JOIN stock_levels s ON s.id = r.level_id
        JOIN locations o ON o.id = s.location_id WHERE l.order_id = :id ORDER BY l.id, r.id
    """),
    "seen": text("""
        WITH paid AS (
            SELECT source_id FROM payments WHERE order_id = :id
            UNION SELECT payment FROM checkout_sessions WHERE order_id = :id AND payment IS NOT NULL
        ), seen AS (
            SELECT 'checkout session' AS kind, source_id, concat_ws(', ', status, payment_status) AS status, amount,
                currency, observation, observed_at, deleted_at FROM checkout_sessions WHERE order_id = :id
            UNION ALL SELECT 'payment', source_id, status, amount_received, currency, observation, observed_at,
                deleted_at FROM payments WHERE source_id IN (TABLE paid)
            UNION ALL SELECT 'refund', source_id, status, amount, currency, observation, observed_at, deleted_at
                FROM refunds WHERE payment IN (TABLE paid)
            UNION ALL SELECT 'dispute', source_id, status, amount, currency, observation, observed_at, deleted_at
                FROM disputes WHERE payment IN (TABLE paid)
        )
        SELECT * FROM seen ORDER BY observation
    """),
    "fulfilment": text("""
        SELECT created_at AS opened_at, handed_at, deleted_at AS withdrawn_at FROM fulfilments WHERE order_id = :id
    """),
}
LINES = {
    "sku": lambda line: line["sku"],
    "name": lambda line: line["name"],
    "quantity": lambda line: line["quantity"],
    "price": lambda line: line["price"],
    "kept at": lambda line: f"{line['location']}: {line['kept']} {line['stock']}",
}
SEEN = {
    "at Stripe": lambda one: one["kind"],
    "id": lambda one: one["source_id"],
    "status": lambda one: "gone" if one["deleted_at"] else one["status"],
    "amount": lambda one: f"{one['amount']:,} {one['currency']}",
    "looked at": lambda one: one["observed_at"],
}
FULFILMENT = {
    "to be shipped since": lambda one: one["opened_at"],
    "handed over": lambda one: one["handed_at"],
    "withdrawn": lambda one: one["withdrawn_at"],
}


@app.command("list")
def list_orders(state: State = None, *, before: Before = None, limit: Limit = 50, as_json: AsJson = False) -> None:
    """List orders, newest first."""
    wanted = (Order.id < before if before is not None else true(), Order.state == state if state else true())
    chosen = select(*LISTED).where(*wanted).order_by(Order.id.desc()).limit(limit)
    with reading() as connection:
        rows = [dict(row) for row in connection.execute(chosen).mappings()]
    show(rows, COLUMNS, as_json=as_json, empty="there is no such order: the shop writes them (see docs/orders.md)")


@app.command("show")
def show_order(number: Id, *, as_json: AsJson = False) -> None:
    """Show one order: its lines and their stock, what Stripe shows of it, and whether it was handed over."""
    with reading() as connection:
        found = connection.execute(select(*LISTED).where(Order.id == number)).mappings().one_or_none()
        if found is None:
            raise Refused(f"there is no order {number}: `headrace orders list` shows the newest")
        parts = {name: _rows(connection, name, number) for name in PARTS}
    if as_json:
        print_json(dict(found) | parts)
        return
    show([found], COLUMNS, as_json=False, empty="")
    show(parts["lines"], LINES, as_json=False, empty="it has no lines")
    show(parts["seen"], SEEN, as_json=False, empty="Stripe has shown nothing of it yet")
    show(parts["fulfilment"], FULFILMENT, as_json=False, empty="it is not to be shipped, or not yet")


def _rows(connection: Connection, part: str, number: int) -> list[dict[str, Any]]:
    return [dict(row) for row in connection.execute(PARTS[part], {"id": number}).mappings()]
