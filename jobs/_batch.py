"""Batches: runs that belong together, with a run that is written when the last of them has ended.

    with batch(session, "prices of May") as prices:
        prices.add_many(change_price, [{"sku": sku} for sku in skus])
        prices.on_success(publish, batch_id=prices.id)   # all have succeeded
        prices.on_finish(report, batch_id=prices.id)     # all have ended, well or not

All of it is the caller's transaction: no member starts before the whole batch is committed. The counting and the
callbacks are done by Postgres in the statement that ends a member, so they hold whoever ends it and whoever dies.
Each callback is written once. A dead member that is run again does not repeat `on_finish`; if it was the last one
missing, `on_success` follows then.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ParamSpec

from sqlalchemy import Connection, text
from sqlalchemy.orm import Session

from jobs._arguments import BadArguments
from jobs._job import Job

P = ParamSpec("P")

OPEN = text("INSERT INTO batches (name) VALUES (:name) RETURNING id")
CALLBACKS = {
    column: text(f"UPDATE batches SET {column} = CAST(:run AS jsonb) WHERE id = :id AND total IS NULL RETURNING id")
    for column in ("on_success", "on_finish")
}
#: Counted from the rows: a member that met a run with its unique key is none.
CLOSE = text("UPDATE batches SET total = (SELECT count(*) FROM runs WHERE batch_id = :id) WHERE id = :id")


@dataclass(frozen=True)
class Batch:
    """A batch that is being written; complete when its block ends."""

    id: int
    _session: Session | Connection

    def add(self, job: Job[P], /, *args: P.args, **kwargs: P.kwargs) -> int:
        """Write one member and return its run's id; a run that holds its unique key is returned and stays outside.

        Raises:
            BadArguments: As `Job.enqueue`.
        """
        return job.within(self.id).enqueue(self._session, *args, **kwargs)

    def add_many(self, job: Job[Any], items: Iterable[Mapping[str, Any]]) -> list[int]:
        """Write a member for each set of arguments, thousands with one statement.

        Raises:
            BadArguments: As `Job.enqueue_many`.
        """
        return job.within(self.id).enqueue_many(self._session, items)

    def on_success(self, job: Job[P], /, *args: P.args, **kwargs: P.kwargs) -> None:
        """Enqueue this job once all members have succeeded.

        Raises:
            BadArguments: As `Job.enqueue`.
        """
        self._call_back("on_success", job, args, kwargs)

    def on_finish(self, job: Job[P], /, *args: P.args, **kwargs: P.kwargs) -> None:
        """Enqueue this job once all members have ended: succeeded, dead or cancelled.

        Raises:
            BadArguments: As `Job.enqueue`.
        """
        self._call_back("on_finish", job, args, kwargs)

    def _call_back(self, when: str, job: Job[Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        written = {"id": self.id, "run": json.dumps(job.written_later(args, kwargs))}
        if self._session.execute(CALLBACKS[when], written).scalar() is None:
            raise BadArguments(f"batch {self.id} is complete: say its callbacks inside its block")


@contextmanager
def batch(session: Session | Connection, name: str) -> Iterator[Batch]:
    """Write a batch in the caller's transaction; an empty one has succeeded at once.

    Args:
        session: The caller's transaction; it is committed after the block and not inside it.
        name: What it is, for people.
    """
    made = Batch(int(session.execute(OPEN, {"name": name}).scalar_one()), session)
    yield made
    session.execute(CLOSE, {"id": made.id})
