"""A shop with a stand-in Stripe, and its runs performed here, one after the other, without a broker."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import orjson
from sqlalchemy import text
from sqlalchemy.orm import Session, sessionmaker

import jobs
from integrations import Throttled, Unavailable
from integrations.stripe import Stripe, StripeSettings
from jobs import Cancel, Context
from jobs.orders import Cart, checkout
from models import Event, Order, Verdict
from sandbox.upstreams import Upstreams

KEY = "sk_test_sandbox"
#: Attempts that a run may take here.
MOST = 60

STOCK = """
    WITH product AS (
        INSERT INTO products (source_id, sku, name, price, currency, source_version, source_updated_at)
        VALUES ('p_' || :sku, :sku, 'Tea', :price, 'USD', 1, now()) RETURNING id
    ), location AS (
        INSERT INTO locations (source_id, name) SELECT 'loc_' || n, 'Store ' || n FROM generate_series(1, 3) n
        ON CONFLICT (source_id) DO UPDATE SET name = excluded.name RETURNING id, source_id
    )
    INSERT INTO stock_levels (source_id, product_id, location_id, on_hand, source_version, source_updated_at)
    SELECT l.source_id || '_' || :sku, p.id, l.id, given.on_hand, 1, now()
    FROM unnest(CAST(:on_hand AS bigint[])) WITH ORDINALITY AS given (on_hand, place)
    JOIN location l ON l.source_id = 'loc_' || given.place, product p
"""
# What the warehouse is told is of no matter here.
DUE = """
    SELECT id, job, args, failures FROM runs
    WHERE state = 'waiting' AND due_at <= now() AND job <> ALL(:except) ORDER BY id
"""
CLAIM = "UPDATE runs SET state = 'running', attempt = attempt + 1, unique_key = NULL WHERE id = :id"
END = """
    UPDATE runs SET state = :state, error = :error, failures = failures + 1,
        result = CAST(:result AS jsonb), finished_at = CASE WHEN :state <> 'waiting' THEN now() END WHERE id = :id
"""
_events = count(1)


def client_of(upstreams: Upstreams) -> Stripe:
    """Return our client of a stand-in."""
    settings = {"api_key": KEY, "api_base": upstreams.stripe_url, "webhook_secrets": upstreams.stripe_secret}
    return Stripe(StripeSettings.model_validate(settings))


def stock(session: Session, sku: str, *on_hand: int, price: int = 500) -> None:
    """Put pieces of a new product on the shelves of as many stores."""
    session.execute(text(STOCK), {"sku": sku, "on_hand": list(on_hand), "price": price})


@dataclass
class Shop:
    """What a shop does, and what Headrace does for it."""

    sessions: sessionmaker[Session]
    context: Callable[[], Context]
    upstreams: Upstreams
    results: list[dict[str, Any]] = field(default_factory=list)
    #: Jobs that nobody performs.
    without: tuple[str, ...] = ("warehouse.write_back",)

    def put(self, sku: str, *on_hand: int, price: int = 500) -> None:
        """Have pieces of a new product."""
        with self.sessions.begin() as session:
            stock(session, sku, *on_hand, price=price)

    def buy(self, **lines: int) -> int:
        """Order something; returns the order's id."""
        with self.sessions.begin() as session:
            return checkout(session, Cart(lines, "https://shop.example.com/thanks")).id

    def order(self, order_id: int) -> Order:
        """Return the order as it is."""
        with self.sessions() as session:
            return session.get_one(Order, order_id)

    def page(self, order_id: int) -> str:
        """Return the id of the session on which the buyer of an order pays, once it is open."""
        self.drain()
        return str(self.one("SELECT source_id FROM checkout_sessions WHERE order_id = :id", id=order_id))

    def one(self, statement: str, **values: Any) -> Any:
        """Return the one value that a statement selects."""
        with self.sessions() as session:
            return session.execute(text(statement), values).scalar()

    def change(self, statement: str, **values: Any) -> None:
        """Change something behind everybody's back."""
        with self.sessions.begin() as session:
            session.execute(text(statement), values)

    def act(self, act: str, object_id: str, amount: int | None = None) -> dict[str, Any]:
        """Have a buyer or a bank do something at Stripe."""
        return self.upstreams.admin.stripe_act(act, object_id, amount=amount)

    def told(self, body: bytes | dict[str, Any]) -> int:
        """Receive an event, as the receiver keeps one; returns the run that it caused."""
        raw = body if isinstance(body, bytes) else orjson.dumps(body)
        with self.sessions.begin() as session:
            number = next(_events)
            event = Event(
                source="stripe",
                external_id=f"evt_{number}",
                type="refund.updated",
                verdict=Verdict.ACCEPTED,
                headers={},
                body=raw,
            )
            session.add(event)
            session.flush()
            return jobs.find("stripe.refresh_payment").enqueue(session, event_id=event.id)

    def hear(self, object_id: str, kind: str) -> None:
        """Receive an event about an object and do what follows."""
        self.told({"object": "event", "data": {"object": {"id": object_id, "object": kind}}})
        self.drain()

    def hear_all(self, order_id: int) -> None:
        """Look at everything that Stripe has of an order."""
        page = self.page(order_id)
        self.hear(page, "checkout.session")
        payment = self.one("SELECT payment FROM checkout_sessions WHERE source_id = :id", id=page)
        if payment is not None:
            self.hear(payment, "payment_intent")

    def drain(self) -> list[dict[str, Any]]:
        """Perform what is due until nothing is; what is put off is tried again at once. Returns the results."""
        self.results = []
        while due := self._due():
            for run in due:
                self._perform(run)
        return self.results

    def _due(self) -> list[Any]:
        with self.sessions() as session:
            return list(session.execute(text(DUE), {"except": list(self.without)}))

    def _perform(self, run: Any) -> None:
        self.change(CLAIM, id=run.id)
        result, error, state = None, None, "succeeded"
        try:
            result = jobs.find(run.job).run(self.context(), run.args)
            self.results.append(result or {})
        except (Throttled, Unavailable) as failure:
            if run.failures >= MOST:
                raise
            error, state = str(failure), "waiting"
        except Cancel as failure:
            error, state = str(failure), "cancelled"
        self.change(END, id=run.id, state=state, error=error, result=orjson.dumps(result).decode())


def opened(
    upstreams: Upstreams, sessions: sessionmaker[Session], make_context: Callable[..., Context]
) -> Iterator[Shop]:
    """Open a shop whose Stripe has a good day."""
    jobs.load()
    upstreams.admin.reset_faults()
    client = client_of(upstreams)
    yield Shop(sessions, lambda: make_context(client), upstreams)
    upstreams.admin.reset_faults()
    client.close()
