"""Writing runs: one row, or ten thousand with one statement, always in the caller's own transaction.

A run with a unique key may meet another that holds it. The index decides, so of fifty callers at one moment one wins.
What the others do to the winner's run is one conditional UPDATE, which finds nothing once a worker has taken that run
and the key is free again; then the loop begins anew.

Runs that are due at once are noted in the session, so that whoever owns it may tell the broker after the commit.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from typing import Any, NamedTuple

from sqlalchemy import Connection, text
from sqlalchemy.orm import Session

from jobs._lifetime import ENDS, Lifetime
from jobs._unique import Unique

#: Where a session keeps the runs that it wrote and has not announced, as a list of `Written`.
WRITTEN = "headrace.written"
#: Runs written with one statement.
TOGETHER = 10_000

# The moment of the statement, not of the transaction: runs of one key keep the order in which they were written.
_COLUMNS = """job, queue, priority, key, args, max_attempts, due_at, unique_key, unique_while, unique_until,
    schedule, slot_at, event_id, expires_at, deadline_at"""
_DUE = "coalesce(:due_at, clock_timestamp() + :wait * interval '1 second')"
_UNIQUE_UNTIL = "now() + CAST(:window AS float8) * interval '1 second'"
INSERT = text(f"""
    INSERT INTO runs ({_COLUMNS})
    VALUES (:job, :queue, :priority, :key, CAST(:args AS jsonb), :max_attempts,
            {_DUE}, :unique_key, :during, {_UNIQUE_UNTIL}, :schedule, :slot_at, :event_id, {ENDS})
    ON CONFLICT (unique_key) WHERE unique_key IS NOT NULL DO NOTHING
    RETURNING id
""")
INSERT_MANY = text(f"""
    INSERT INTO runs ({_COLUMNS})
    SELECT :job, :queue, :priority, given.key, CAST(given.args AS jsonb), :max_attempts,
           {_DUE}, given.unique_key, :during, {_UNIQUE_UNTIL}, :schedule, :slot_at, :event_id, {ENDS}
    FROM unnest(CAST(:many_args AS text[]), CAST(:keys AS text[]), CAST(:unique_keys AS text[]))
        WITH ORDINALITY AS given (args, key, unique_key, place)
    ORDER BY place
    ON CONFLICT (unique_key) WHERE unique_key IS NOT NULL DO NOTHING
    RETURNING id
""")
# A window ends by the clock; its key is set free by whoever wants it next.
FREE = text("UPDATE runs SET unique_key = NULL WHERE unique_key = ANY(:unique_keys) AND unique_until <= now()")
JOIN = {
    "return": text("SELECT id FROM runs WHERE unique_key = :unique_key FOR UPDATE"),
    "replace": text("""
        UPDATE runs SET args = CASE WHEN state IN ('waiting', 'queued') THEN CAST(:args AS jsonb) ELSE args END
        WHERE unique_key = :unique_key RETURNING id
    """),
    "postpone": text("""
        UPDATE runs
        SET args = CASE WHEN state IN ('waiting', 'queued') THEN CAST(:args AS jsonb) ELSE args END,
            due_at = CASE WHEN state = 'waiting'
                THEN least(now() + :wait * interval '1 second', created_at + :max_wait * interval '1 second')
                ELSE due_at END
        WHERE unique_key = :unique_key RETURNING id
    """),
}


class Written(NamedTuple):
    """A run that the broker may be told of once it is committed."""

    queue: str
    job: str
    run_id: int
    #: It shares limits, so only a relay may put it on the broker.
    limited: bool


@dataclass(frozen=True)
class Order:
    """What all runs of one enqueue have in common."""

    job: str
    queue: str
    priority: int
    max_attempts: int
    #: Not before this moment; as soon as possible when None.
    due_at: datetime | None
    unique: Unique | None
    schedule: str | None
    slot_at: datetime | None
    event_id: int | None
    lifetime: Lifetime

    def values(self) -> dict[str, Any]:
        """Return the parameters of a statement."""
        unique = self.unique or Unique()
        return {
            "job": self.job,
            "queue": self.queue,
            "priority": self.priority,
            "max_attempts": self.max_attempts,
            "due_at": self.due_at,
            "wait": unique.wait,
            "max_wait": unique.max_wait,
            "during": unique.during if self.unique else None,
            "window": unique.window or None,
            "schedule": self.schedule,
            "slot_at": self.slot_at,
            "event_id": self.event_id,
        } | self.lifetime.values()


class Item(NamedTuple):
    """One run of an enqueue: its accepted arguments and the keys that follow from them."""

    arguments: Mapping[str, Any]
    key: str | None
    unique_key: str | None


def write(session: Session | Connection, order: Order, item: Item) -> int:
    """Write one run, or join the run that holds its unique key; return the id of either."""
    values = order.values() | {"args": json.dumps(item.arguments), "key": item.key, "unique_key": item.unique_key}
    unique = order.unique or Unique()
    while True:  # the holder may be taken between the two statements: then the key is free again
        if unique.during == "window":
            session.execute(FREE, {"unique_keys": [item.unique_key]})
        new = session.execute(INSERT, values).scalar()
        if new is not None:
            _note(session, order, [int(new)], limited=item.key is not None)
            return int(new)
        joined = session.execute(JOIN[unique.on_conflict], values).scalar()
        if joined is not None:
            return int(joined)


def write_many(session: Session | Connection, order: Order, items: Iterator[Item]) -> list[int]:
    """Write many runs, a statement for every ten thousand; return the ids of those that are new, in order."""
    ids: list[int] = []
    while some := list(islice(items, TOGETHER)):
        if order.unique is not None and order.unique.during == "window":
            session.execute(FREE, {"unique_keys": [item.unique_key for item in some]})
        values = order.values() | {
            "many_args": [json.dumps(item.arguments) for item in some],
            "keys": [item.key for item in some],
            "unique_keys": [item.unique_key for item in some],
        }
        new = [int(found) for found in session.execute(INSERT_MANY, values).scalars()]
        _note(session, order, new, limited=some[0].key is not None)
        ids += new
    return ids


def _note(session: Session | Connection, order: Order, new: Sequence[int], *, limited: bool) -> None:
    due = order.due_at is None and not (order.unique and order.unique.wait)
    if due and isinstance(session, Session):
        written = session.info.setdefault(WRITTEN, [])
        written += [Written(order.queue, order.job, run_id, limited) for run_id in new]
