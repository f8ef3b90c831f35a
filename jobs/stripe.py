"""Stripe's objects are looked at, and the orders that depend on them follow.

A webhook from Stripe is only a hint that something changed: hints come twice, late and in any order. So what an event
is about is looked at, once for all events that wait for the same object, and orders are worked out from what was seen.
Events that never came are asked for every ten minutes; and since Stripe sometimes fails to make an event at all, the
objects of the last days are compared with ours once a day.
"""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Annotated, Any

from pydantic import StringConstraints
from sqlalchemy import text
from sqlalchemy.orm import Session

from integrations import BadDelivery, NotFound, Rejected, Unavailable
from integrations.stripe import API_VERSION, Hint, Stripe, hint
from jobs import Cancel, Context, RowId, Unique, cron, every, job
from jobs import _missed_events as missed_events
from jobs import _projection as projection
from jobs import _snapshots as snapshots
from jobs.orders import settle
from models import Event

EVENTS = (
    *(
        f"checkout.session.{what}"
        for what in ("completed", "async_payment_succeeded", "async_payment_failed", "expired")
    ),
    *(
        f"payment_intent.{what}"
        for what in (
            *("succeeded", "payment_failed", "processing", "canceled", "requires_action"),
            "amount_capturable_updated",
        )
    ),
    *(f"refund.{what}" for what in ("created", "updated", "failed")),
    *(f"charge.dispute.{what}" for what in ("created", "updated", "closed", "funds_withdrawn", "funds_reinstated")),
)
"""Named as snapshots are; a thin event is called the same with `v1.` in front."""

#: How long Stripe lists its events; how old one is that its own delivery should have brought.
LISTED = timedelta(days=30)
SETTLED = timedelta(minutes=10)
#: Days that are compared once a day.
COMPARED = timedelta(days=3)
TOGETHER = 100

MARK = text("SELECT external_id FROM event_marks WHERE source = :source")
MOVE_MARK = text("""
    INSERT INTO event_marks (source, external_id, moved_at) VALUES (:source, :external_id, now())
    ON CONFLICT (source) DO UPDATE SET external_id = excluded.external_id, moved_at = excluded.moved_at
""")

ObjectId = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_]{1,255}$")]


@job(queue="stripe", on=[Stripe.event(f"{thin}{name}") for name in EVENTS for thin in ("", "v1.")], needs=[Stripe])
def refresh_payment(context: Context, *, event_id: RowId) -> dict[str, Any]:
    """Have the object looked at that an event is about; events that come while it waits share one look."""
    with context.transaction() as session:
        event = session.get(Event, event_id)
    if event is None:
        raise Cancel(f"event {event_id} is no longer kept: ask Stripe for what it was about")
    about = _about(event)
    if about is None:
        context.log(f"event {event.id} names nothing that we follow: nothing was looked at")
        return {"note": "the event names nothing that we follow"}
    with context.transaction() as session:
        run_id = observe.enqueue(session, kind=about.kind, object_id=about.object_id)
    return {"kind": about.kind, "object": about.object_id, "looked_at_by": run_id} | _drift(context, about)


@job(queue="stripe", needs=[Stripe], unique=Unique(by=("kind", "object_id")))
def observe(context: Context, *, kind: str, object_id: ObjectId) -> dict[str, Any]:
    """Look at one object, keep what is seen unless a later look is there already, and bring its orders up to date."""
    observation = snapshots.draw(context)
    seen: snapshots.Snapshot | None = None
    try:
        fetched = context.use(Stripe).fetch(snapshots.known(kind), object_id, expand=snapshots.EXPAND.get(kind, ()))
        if not snapshots.is_followed(kind, fetched):
            return {"object": object_id, "note": "it is no session in which somebody pays once: it was left alone"}
        seen = snapshots.read(kind, fetched)
    except NotFound:
        context.log(f"{kind} {object_id} is gone")
    with context.transaction() as session:
        if seen is None:
            changed = snapshots.bury(session, kind, object_id, observation)
        else:
            changed = snapshots.keep(session, seen, observation)
            _look_at_parent(session, seen)
        orders = projection.affected(session, object_id)
        for order_id in orders:
            settle(session, order_id)
    return {"object": object_id, "observation": observation, "changed": int(changed), "orders": orders}


@job(queue="stripe", needs=[Stripe], schedule=every(minutes=10), unique=Unique())
def catch_up(context: Context) -> dict[str, Any]:
    """Ask for the events that no endpoint of ours has accepted, and treat them as received."""
    client = _configured(context)
    with context.transaction() as session:
        mark = session.scalar(MARK, {"source": Stripe.name})
    listed, recovered = 0, 0
    for some in _batches(_undelivered(context, client, mark)):
        listed += len(some)
        with context.transaction() as session:
            missing = missed_events.keep(session, Stripe.name, some, by=f"run {context.run_id}")
            if settled := [event for event in some if event["created"] < (datetime.now(UTC) - SETTLED).timestamp()]:
                session.execute(MOVE_MARK, {"source": Stripe.name, "external_id": settled[-1]["id"]})
        for event_id in missing:
            context.log(f"event {event_id} had not reached us: it is treated as received")
        recovered += len(missing)
    return {"listed": listed, "recovered": recovered}


@job(queue="stripe", needs=[Stripe], time_limit=3_600, schedule=cron("50 4 * * *"), unique=Unique())
def reconcile(context: Context) -> dict[str, Any]:
    """Compare the objects of the last days with ours, and look again at those that differ."""
    client, since = _configured(context), datetime.now(UTC) - COMPARED
    return {kind: _compare(context, client, kind, since) for kind in snapshots.KINDS}


def _configured(context: Context) -> Stripe:
    """Return the client, for what is done on time and not on demand: a shop without Stripe misses nothing.

    Raises:
        Cancel: Stripe is not configured.
    """
    try:
        return context.use(Stripe)
    except Rejected as error:
        raise Cancel(str(error)) from None


def _look_at_parent(session: Session, seen: snapshots.Snapshot) -> None:
    """Have the payment looked at that leads from a refund or a dispute to its order."""
    if (payment := snapshots.unseen_payment(session, seen)) is not None:
        observe.enqueue(session, kind="payment_intent", object_id=payment)


def _compare(context: Context, client: Stripe, kind: str, since: datetime) -> dict[str, int]:
    counts = {"seen": 0, "recovered": 0}
    expand = snapshots.EXPAND.get(kind, ())
    found = client.objects(snapshots.known(kind), since=since, expand=expand)
    for some in _batches(found):
        context.check()
        with context.transaction() as session:
            differing = snapshots.changed(session, list(_readable(context, kind, some)))
            observe.enqueue_many(session, [{"kind": kind, "object_id": one.id} for one in differing])
        for one in differing:
            context.log(f"{kind} {one.id} is not as we hold it: it is looked at again")
        counts["seen"] += len(some)
        counts["recovered"] += len(differing)
    return counts


def _readable(context: Context, kind: str, found: Sequence[dict[str, Any]]) -> Iterator[snapshots.Snapshot]:
    """Read what can be read; one odd object must not keep the others from being compared."""
    for one in found:
        try:
            if snapshots.is_followed(kind, one):
                yield snapshots.read(kind, one)
        except Unavailable as error:
            context.log(f"{one.get('id')}: {error}")


def _about(event: Event) -> Hint | None:
    try:
        about = hint(event.body)
    except BadDelivery:
        return None
    return about if about and about.kind in snapshots.KINDS and about.object_id.replace("_", "").isalnum() else None


def _drift(context: Context, about: Hint) -> dict[str, str]:
    """Say that an event was made in another version of the API than ours; what we fetch is always in ours."""
    if about.api_version in {None, API_VERSION}:
        return {}
    warning = f"the endpoint is set to API version {about.api_version} and we speak {API_VERSION}: set it to ours"
    context.log(warning)
    return {"warning": warning}


def _undelivered(context: Context, client: Stripe, mark: str | None) -> Iterator[dict[str, Any]]:
    """Walk the undelivered events, oldest first; from the beginning if the mark is no longer listed."""
    if mark is not None:
        try:
            yield from client.events(after=mark, types=EVENTS, undelivered=True)
        except Rejected as error:
            if error.code != "resource_missing":
                raise
            context.log("the event up to which we had read is no longer listed: everything that is gets read")
        else:
            return
    since = datetime.now(UTC) - LISTED
    yield from reversed(list(client.events(since=since, types=EVENTS, undelivered=True)))


def _batches(found: Iterator[dict[str, Any]]) -> Iterator[Sequence[dict[str, Any]]]:
    while some := list(islice(found, TOGETHER)):
        yield some
