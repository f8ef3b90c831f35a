"""The canaries: each queue has a run a minute that does nothing but come back.

That a process is alive does not mean that work flows through it. So a schedule of its own sends a run through each
queue, by the way that all runs take: scheduler, relay, broker, worker. The job writes to Postgres and reads it back,
asks search, and returns how long each part of the way took. `workers/canaries.py` watches who has not come back.

A canary that falls is no work that anybody wants to see done: it is put aside as cancelled, with the reason, instead of
lying among the dead runs. Lost with its worker it is tried again, as any run is.
"""

import time
from collections.abc import Callable, Iterable

from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from integrations import IntegrationError, NotFound
from integrations.elasticsearch import Elasticsearch
from jobs._context import Context
from jobs._documents import ALIAS
from jobs._job import Job, Priority, all_jobs, enroll, names
from jobs._policy import Backoff
from jobs._schedule import every
from jobs._signals import Cancel

PREFIX = "canary."
#: Seconds that a statement of a canary may take. With the time-out of search, they end before the time limit does.
STATEMENT = 10
TIME_LIMIT = 60

BOUND = text(f"SET LOCAL statement_timeout = '{STATEMENT}s'")
# What was kept is read back, and with it what only a run that has not ended knows: when it was pushed.
WAY = text("""
    SELECT (checkpoint ->> 'attempt')::bigint AS written,
           extract(epoch FROM created_at - coalesce(slot_at, created_at))::float8 AS scheduler,
           extract(epoch FROM coalesce(queued_at, started_at) - created_at)::float8 AS relay,
           extract(epoch FROM started_at - coalesce(queued_at, started_at))::float8 AS broker
    FROM runs WHERE id = :run_id
""")


def fly(context: Context) -> dict[str, float]:
    """Come back from Postgres and from search, to show that runs of this queue are done."""
    way: dict[str, float] = {}
    postgres = _seconds("postgres", lambda: way.update(_write_and_read(context)))
    search = _seconds("search", lambda: _ask(context))
    return {f"{part}_ms": round(1000 * took, 1) for part, took in (way | postgres | search).items()}


def _write_and_read(context: Context) -> dict[str, float]:
    with context.transaction() as session:
        session.execute(BOUND)
        context.checkpoint(session, {"attempt": context.attempt})
    with context.transaction() as session:
        session.execute(BOUND)
        written, *parts = session.execute(WAY, {"run_id": context.run_id}).one()
    if written != context.attempt:
        raise Cancel("postgres: what was committed is not read back: look at where DATABASE_URL leads")
    return dict(zip(("scheduler", "relay", "broker"), parts, strict=True))


def _ask(context: Context) -> None:
    try:
        context.use(Elasticsearch).count(ALIAS)
    except NotFound:  # it answers; there is no index yet
        return


def _seconds(part: str, ask: Callable[[], None]) -> dict[str, float]:
    """Return how long a part took to answer.

    Raises:
        Cancel: It gave an error instead; the message begins with the part.
    """
    began = time.monotonic()
    try:
        ask()
    except (SQLAlchemyError, IntegrationError) as error:
        said = str(getattr(error, "orig", None) or error).strip().partition("\n")[0]
        raise Cancel(f"{part}: {said or type(error).__name__}") from error
    return {part: time.monotonic() - began}


def hatch(queues: Iterable[str]) -> None:
    """Give each of these queues its canary, once.

    Raises:
        ValueError: If another job has the name.
    """
    for queue in queues:
        name = PREFIX + queue
        known = names().get(name)
        if known is None:
            enroll(_canary(name, queue))
        elif known.function is not fly:
            raise ValueError(f"the job {known.name} has the name of the canary of the queue {queue}: rename it")


def _canary(name: str, queue: str) -> Job[[]]:
    return Job(
        name,
        fly,
        queue,
        max_attempts=3,
        time_limit=TIME_LIMIT,
        backoff=Backoff(first=1),
        schedule=every(minutes=1),
        on=(),
        needs=(),
        priority=Priority.URGENT,
    )


def canaries() -> dict[str, Job[[]]]:
    """Return the canaries by their queue."""
    return {job.queue: job for job in all_jobs().values() if job.function is fly}
