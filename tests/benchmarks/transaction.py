"""What an enqueue adds to the business transaction it rides in: the same order is taken with it and without it.

An order is what a shop writes: the order, the stock it takes, the movement that says so. Both kinds take turns every
half second, with one session and with eight at once, and every commit waits for the disk.
"""

import itertools
import time
from concurrent.futures import ThreadPoolExecutor

from sqlalchemy import text
from sqlalchemy.orm import Session

from tests.benchmarks.contestants import OURS
from tests.benchmarks.peers import headrace
from tests.benchmarks.plan import Plan
from tests.benchmarks.report import Table, figure, times
from tests.benchmarks.rounds import Figures, ratio, take_turns
from workers import settings
from workers.runtime import Runtime

TITLE = "A business transaction with and without an enqueue in it"
THREADS = (1, 8)
SECONDS = 0.5
#: Turns of each kind, times the rounds.
TURNS = 4
PRODUCTS = 10_000

TABLES = f"""
    CREATE TABLE IF NOT EXISTS shop_orders (
        id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, email text, total bigint,
        placed_at timestamptz DEFAULT now());
    CREATE TABLE IF NOT EXISTS shop_stock (id bigint PRIMARY KEY, on_hand int);
    CREATE TABLE IF NOT EXISTS shop_movements (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, stock_id bigint,
        order_id bigint UNIQUE, delta int, moved_at timestamptz DEFAULT now());
    INSERT INTO shop_stock SELECT n, 1000000 FROM generate_series(1, {PRODUCTS}) AS n ON CONFLICT DO NOTHING;
"""
ORDER = text("INSERT INTO shop_orders (email, total) VALUES (:email, :total) RETURNING id")
TAKE = text("UPDATE shop_stock SET on_hand = on_hand - 1 WHERE id = :product")
MOVE = text("INSERT INTO shop_movements (stock_id, order_id, delta) VALUES (:product, :order, -1)")

_numbers = itertools.count(1)


def measure(plan: Plan) -> Table:
    """Take orders both ways."""
    OURS.clean(plan.ground)
    plan.ground.execute(OURS.name, TABLES)
    table = Table(TITLE, ["", "orders/s", "orders/s with an enqueue", "time with it, to without"])
    with Runtime(settings.load(OURS.environment(plan.ground, "nothing")), connections=max(THREADS)) as runtime:
        for threads in THREADS:

            def one(enqueues: bool, threads: int = threads) -> Figures:
                return {"per second": _orders(runtime, threads, enqueues=enqueues)}

            without, with_it = take_turns([False, True], one, TURNS * plan.repeats)
            rates = without.median("per second"), with_it.median("per second")
            label = "one session" if threads == 1 else f"{threads} sessions at once"
            table.add(
                label,
                figure(rates[0], failure=without.failure),
                figure(rates[1], failure=with_it.failure),
                times(ratio(*rates)),
            )
    OURS.clean(plan.ground)
    return table


def _orders(runtime: Runtime, threads: int, *, enqueues: bool) -> float:
    ends_at = time.monotonic() + SECONDS

    def take() -> int:
        taken = 0
        while time.monotonic() < ends_at:
            with runtime.sessions.begin() as session:
                _order(session, enqueues=enqueues)
            taken += 1
        return taken

    started = time.monotonic()
    with ThreadPoolExecutor(threads) as pool:
        taken = sum(future.result() for future in [pool.submit(take) for _ in range(threads)])
    return taken / (time.monotonic() - started)


def _order(session: Session, *, enqueues: bool) -> None:
    product = next(_numbers) % PRODUCTS + 1
    order = session.execute(ORDER, {"email": "a@example.com", "total": 1_999}).scalar_one()
    session.execute(TAKE, {"product": product})
    session.execute(MOVE, {"product": product, "order": order})
    if enqueues:
        headrace.stamp.enqueue(session, number=order)
