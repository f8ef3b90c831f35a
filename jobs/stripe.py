"""Payments as Stripe shows them.

A webhook from Stripe is only a hint that a payment changed: hints come twice, late and in any order. So the payment
is fetched, and the observation with the higher number stays. The number is drawn from the database before the fetch,
so of two fetches that overlap the later drawn wins; whatever changed after its look brings another event.
"""

from typing import Annotated, Any

import orjson
from pydantic import BaseModel, Field, StringConstraints, ValidationError
from sqlalchemy import text

from integrations import NotFound, Unavailable
from integrations.stripe import Stripe
from jobs import Cancel, Context, RowId, job
from models import Event

EVENTS = ("succeeded", "payment_failed", "processing", "canceled", "requires_action", "amount_capturable_updated")

DRAW = text("SELECT nextval('observations')")
KEEP = text("""
    INSERT INTO payments AS p (source_id, status, amount, amount_received, currency, observation, observed_at)
    VALUES (:id, :status, :amount, :amount_received, :currency, :observation, now())
    ON CONFLICT (source_id) DO UPDATE SET
        status = excluded.status, amount = excluded.amount, amount_received = excluded.amount_received,
        currency = excluded.currency, observation = excluded.observation, observed_at = excluded.observed_at,
        updated_at = now(), deleted_at = NULL
    WHERE excluded.observation > p.observation
    RETURNING id
""")
BURY = text("""
    UPDATE payments SET deleted_at = now(), updated_at = now(), observation = :observation, observed_at = now()
    WHERE source_id = :id AND observation < :observation RETURNING id
""")


class Snapshot(BaseModel):
    """What we keep of a payment intent."""

    id: str
    status: str
    amount: Annotated[int, Field(ge=0)]
    amount_received: Annotated[int, Field(ge=0)] = 0
    #: Stripe writes it small; ISO and our tables write it large.
    currency: Annotated[str, StringConstraints(to_upper=True, pattern=r"^[A-Za-z]{3}$")]


@job(queue="stripe", on=[Stripe.event(f"payment_intent.{name}") for name in EVENTS], needs=[Stripe])
def refresh_payment(context: Context, *, event_id: RowId) -> dict[str, Any]:
    """Fetch the payment intent that an event is about, and keep it unless a later look is there already."""
    with context.transaction() as session:
        event = session.get(Event, event_id)
    if event is None:
        raise Cancel(f"event {event_id} is no longer kept: ask Stripe for the payment itself")
    intent_id = _subject(event.body)
    if intent_id is None:
        context.log(f"event {event.id} names no payment intent: nothing was fetched")
        return {"changed": 0, "note": "the event names no payment intent"}
    with context.transaction() as session:  # its own transaction: the number must be older than the look
        observation = int(session.execute(DRAW).scalar_one())
    try:
        fetched = context.use(Stripe).fetch("payment_intent", intent_id)
    except NotFound:
        return _write(context, BURY, {"id": intent_id, "observation": observation})
    return _write(context, KEEP, _snapshot(fetched).model_dump() | {"observation": observation})


def _write(context: Context, statement: Any, values: dict[str, Any]) -> dict[str, Any]:
    with context.transaction() as session:
        changed = session.execute(statement, values).first() is not None
    return {"payment": values["id"], "observation": values["observation"], "changed": int(changed)}


def _subject(body: bytes) -> str | None:
    try:
        found = orjson.loads(body)["data"]["object"]["id"]
    except (ValueError, TypeError, LookupError):
        return None
    return found if isinstance(found, str) and found.startswith("pi_") and found.isprintable() else None


def _snapshot(fetched: dict[str, Any]) -> Snapshot:
    try:
        return Snapshot.model_validate(fetched)
    except ValidationError as error:
        fields = ", ".join(str(one["loc"][0]) for one in error.errors(include_input=False) if one["loc"])
        raise Unavailable(
            f"stripe showed a payment intent without a usable {fields}: it is asked again later; if this persists,"
            " check the API version",
            upstream=Stripe.name,
        ) from None
