"""A job and the registry of all jobs.

`@job` records a function under the name `topic.function`. The name sits in the database, so renaming a function is a
migration of data: a snapshot test makes that a conscious act. `enqueue` writes a run in the caller's own
transaction; if the caller rolls back, the run never existed.
"""

import importlib
import json
import pkgutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from datetime import datetime
from difflib import get_close_matches
from typing import Any, Concatenate, Generic, ParamSpec

from sqlalchemy import Connection, text
from sqlalchemy.orm import Session

import jobs
from integrations import EventKey, Integration
from jobs._arguments import BadArguments, accept, required, restore
from jobs._context import Context
from jobs._policy import Backoff
from jobs._schedule import BadRule, Rule

P = ParamSpec("P")
Result = dict[str, Any] | None

INSERT = text("""
    INSERT INTO runs (job, queue, args, max_attempts, due_at, unique_key, schedule, slot_at, event_id)
    VALUES (:job, :queue, CAST(:args AS jsonb), :max_attempts, coalesce(:due_at, now()), :unique_key,
            :schedule, :slot_at, :event_id)
    ON CONFLICT (unique_key) WHERE unique_key IS NOT NULL DO NOTHING
    RETURNING id
""")
HOLDER = text("SELECT id FROM runs WHERE unique_key = :unique_key FOR UPDATE")


class UnknownJob(LookupError):  # noqa: N818 - reads as what it is in a message
    """No job has this name; the message suggests the nearest one."""


@dataclass(frozen=True)
class Job(Generic[P]):
    """A function with a queue, limits, perhaps a schedule and the events it answers."""

    name: str
    function: Callable[Concatenate[Context, P], Result]
    queue: str
    #: Failures allowed before a run is dead.
    max_attempts: int
    #: Seconds one attempt may take.
    time_limit: float
    backoff: Backoff
    schedule: Rule | None
    #: Events whose arrival enqueues it, with the argument `event_id`.
    on: tuple[EventKey, ...]
    #: Upstreams it cannot do without: while an operator pauses one of them, runs are snoozed.
    needs: tuple[type[Integration], ...]
    #: Options of one enqueue, set by `options`.
    due_at: datetime | None = None
    unique_key: str | None = None
    slot: tuple[str, datetime] | None = field(default=None)
    event_id: int | None = None

    def __call__(self, context: Context, /, *args: P.args, **kwargs: P.kwargs) -> Result:
        return self.function(context, *args, **kwargs)

    def run(self, context: Context, stored: dict[str, Any]) -> Result:
        """Call the function with arguments as they were stored."""
        call: Callable[..., Result] = self.function
        return call(context, **restore(call, stored))

    def options(
        self,
        *,
        due_at: datetime | None = None,
        unique_key: str | None = None,
        slot: tuple[str, datetime] | None = None,
        event_id: int | None = None,
    ) -> "Job[P]":
        """Return the job with options for its next enqueue.

        Args:
            due_at: Not before this moment.
            unique_key: While a run with this key waits for a worker, enqueue returns that run instead of a new one.
            slot: Schedule and nominal time that planned it.
            event_id: Webhook that caused it.
        """
        return replace(self, due_at=due_at, unique_key=unique_key, slot=slot, event_id=event_id)

    def enqueue(self, session: Session | Connection, /, *args: P.args, **kwargs: P.kwargs) -> int:
        """Write a run in the caller's transaction and return its id.

        Raises:
            BadArguments: If an argument is missing, unknown, of the wrong type, or not given by its name.
        """
        if args:
            raise BadArguments(f"job {self.name}: give its arguments by name: a run keeps names, not places")
        return self.insert(session, accept(self.name, self.function, dict(kwargs)))

    def insert(self, session: Session | Connection, arguments: dict[str, Any]) -> int:
        """Write a run with accepted arguments; with a unique key, return the run that already waits under it."""
        schedule, slot_at = self.slot or (None, None)
        values = {
            "job": self.name,
            "queue": self.queue,
            "args": json.dumps(arguments),
            "max_attempts": self.max_attempts,
            "due_at": self.due_at,
            "unique_key": self.unique_key,
            "schedule": schedule,
            "slot_at": slot_at,
            "event_id": self.event_id,
        }
        while True:  # the holder of the key may be claimed between the two statements: then the key is free again
            found = session.execute(INSERT, values).scalar() or session.execute(HOLDER, values).scalar()
            if found is not None:
                return int(found)


_registry: dict[str, Job[Any]] = {}


def job(
    *,
    queue: str = "default",
    max_attempts: int = 10,
    time_limit: float = 600,
    backoff: Backoff | None = None,
    schedule: Rule | None = None,
    on: Iterable[EventKey] = (),
    needs: Iterable[type[Integration]] = (),
) -> Callable[[Callable[Concatenate[Context, P], Result]], Job[P]]:
    """Record a function as a job.

    Args:
        queue: Queue that serves it.
        max_attempts: Failures allowed before a run is dead, at least 1.
        time_limit: Seconds one attempt may take.
        backoff: Pauses between attempts.
        schedule: A rule in time.
        on: Events whose arrival enqueues it.
        needs: Upstreams whose pause holds its runs.
    """

    def record(function: Callable[Concatenate[Context, P], Result]) -> Job[P]:
        name = f"{function.__module__.rpartition('.')[2]}.{function.__name__}"
        if name in _registry:
            raise ValueError(f"two jobs are called {name}: rename one of them")
        if schedule is not None and (needed := required(function)):
            raise ValueError(f"job {name} has a schedule, which gives no arguments: give {needed[0]!r} a default")
        recorded = Job(
            name, function, queue, max_attempts, time_limit, backoff or Backoff(), schedule, tuple(on), tuple(needs)
        )
        _registry[name] = recorded
        return recorded

    return record


def load() -> dict[str, Job[Any]]:
    """Import every topic of this folder once and return all jobs by name.

    Raises:
        BadRule: If a schedule cannot be read; the message names the file.
    """
    for module in pkgutil.iter_modules(jobs.__path__):
        if not module.name.startswith("_"):
            try:
                importlib.import_module(f"jobs.{module.name}")
            except BadRule as error:
                raise BadRule(f"jobs/{module.name}.py: {error}") from None
    return _registry


def all_jobs() -> dict[str, Job[Any]]:
    """Return the jobs recorded so far, by name."""
    return _registry


def find(name: str) -> Job[Any]:
    """Return the job with this name.

    Raises:
        UnknownJob: If there is none.
    """
    try:
        return _registry[name]
    except KeyError:
        near = get_close_matches(name, _registry, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]}?" if near else "`headrace jobs` lists them all"
        raise UnknownJob(f"there is no job called {name!r}: {hint}") from None


def handler_of(source: str, event_type: str) -> Job[Any] | None:
    """Return the job that answers this event, or None when nobody does."""
    key = EventKey(source, event_type)
    return next((found for found in _registry.values() if key in found.on), None)
