"""A job and the registry of all jobs.

`@job` records a function under the name `topic.function`. The name sits in the database, so renaming a function is a
migration of data: a snapshot test makes that a conscious act. `enqueue` writes a run in the caller's own
transaction; if the caller rolls back, the run never existed.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from difflib import get_close_matches
from enum import IntEnum
from typing import TYPE_CHECKING, Any, Concatenate, Generic, ParamSpec

from sqlalchemy import Connection
from sqlalchemy.orm import Session

from integrations import EventKey, Integration
from jobs._arguments import BadArguments, accept, defaults, restore
from jobs._context import Context
from jobs._enqueue import Item, Order, write, write_many
from jobs._lifetime import FOR_EVER, Lifetime
from jobs._policy import NO_BACKOFFS, Backoff, Backoffs
from jobs._schedule import Rule
from jobs._sense import CHECKS
from jobs._unique import Unique

if TYPE_CHECKING:
    from jobs._chunk import Chunk

P = ParamSpec("P")
Result = dict[str, Any] | None


class Priority(IntEnum):
    """Of the runs of a queue that are due, those of a lower number are pushed first."""

    URGENT = 0
    HIGH = 1
    NORMAL = 2
    BULK = 3


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
    #: Upstreams it cannot do without: while one of them is paused or its circuit is open, runs are snoozed.
    needs: tuple[type[Integration], ...]
    priority: Priority = Priority.NORMAL
    #: Which of its runs count as the same.
    unique: Unique | None = None
    #: Name of the argument that says what a run is about. Runs with the same value share `per_key` and `ordered`, and
    #: the values take turns, so that one with many runs does not keep the others waiting.
    key: str | None = None
    #: Runs under way at the same time, on all workers together: of the job, and of one key.
    limit: int | None = None
    per_key: int | None = None
    #: Runs of one key are executed one at a time in the order of their enqueue. A run that will be retried holds the
    #: others back; one that is dead does not.
    ordered: bool = False
    #: Pauses after errors of certain classes, instead of `backoff`.
    backoffs: Backoffs = field(default_factory=lambda: NO_BACKOFFS)
    #: How long its runs are wanted.
    lifetime: Lifetime = FOR_EVER
    #: Names it had before: runs, schedules and lookups under them are its own.
    formerly: tuple[str, ...] = ()
    #: Places in an event's body that say what it is about; see `jobs/_answer.py`.
    entity: tuple[str, ...] = ()
    #: How it takes many runs at once; `function` takes one.
    chunk: "Chunk[Any] | None" = None
    #: Options of one enqueue, set by `options`.
    due_at: datetime | None = None
    unique_key: str | None = None
    slot: tuple[str, datetime] | None = field(default=None)
    event_id: int | None = None
    about: str | None = None
    batch_id: int | None = None
    after_id: int | None = None

    def __call__(self, context: Context, /, *args: P.args, **kwargs: P.kwargs) -> Result:
        return self.function(context, *args, **kwargs)

    def run(self, context: Context, stored: dict[str, Any]) -> Result:
        """Call the function with arguments as they were stored."""
        call: Callable[..., Result] = self.function
        return call(context, **restore(self.name, call, stored))

    def options(
        self,
        *,
        due_at: datetime | None = None,
        priority: Priority | None = None,
        unique_key: str | None = None,
        slot: tuple[str, datetime] | None = None,
        event_id: int | None = None,
        expires_at: datetime | None = None,
        deadline_at: datetime | None = None,
    ) -> "Job[P]":
        """Return the job with options for its next enqueue.

        Args:
            due_at: Not before this moment.
            priority: Instead of the job's own.
            unique_key: While a run with this key waits for a worker, enqueue returns that run instead of a new one.
            slot: Schedule and nominal time that planned it.
            event_id: Webhook that caused it.
            expires_at: Nobody wants it from this moment on, unless an attempt has begun.
            deadline_at: No attempt begins after this moment.
        """
        urgency = self.priority if priority is None else priority
        lifetime = replace(self.lifetime, expires_at=expires_at, deadline_at=deadline_at)
        return replace(
            self,
            due_at=due_at,
            priority=urgency,
            unique_key=unique_key,
            slot=slot,
            event_id=event_id,
            lifetime=lifetime,
        )

    def answering(self, event_id: int, about: str | None) -> "Job[P]":
        """Return the job for the event that its next run answers, and the entity that this event is about."""
        return replace(self, event_id=event_id, about=about)

    def after(self, run_id: int) -> "Job[P]":
        """Return the job so that its next run waits until that run has succeeded; see `docs/state_machine.md`."""
        return replace(self, after_id=run_id)

    def within(self, batch_id: int) -> "Job[P]":
        """Return the job so that its next runs are members of a batch; only while the batch is written."""
        return replace(self, batch_id=batch_id)

    def enqueue(self, session: Session | Connection, /, *args: P.args, **kwargs: P.kwargs) -> int:
        """Write a run in the caller's transaction and return its id.

        Raises:
            BadArguments: If an argument is missing, unknown, of the wrong type, or not given by its name.
        """
        return self.insert(session, self._accepted(args, kwargs))

    def enqueue_many(self, session: Session | Connection, items: Iterable[Mapping[str, Any]]) -> list[int]:
        """Write a run for each set of arguments, thousands with one statement, and return the ids in order.

        Of a job with unique runs, those that meet another one are left out.

        Raises:
            BadArguments: As `enqueue`; then nothing more is written, and the caller rolls back.
        """
        accepted = (self._item(self.accept(item)) for item in items)
        return write_many(session, self._order(), accepted)

    def insert(self, session: Session | Connection, arguments: dict[str, Any]) -> int:
        """Write a run with accepted arguments; with a unique key, return the run that holds it already."""
        return write(session, self._order(), self._item(arguments))

    def written_later(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """Return the columns of a run that Postgres writes by itself when its time comes.

        Raises:
            BadArguments: As `enqueue`, and if the run would not be a plain one.
        """
        if self.unique is not None or self.unique_key is not None or self.due_at is not None or self.after_id:
            raise BadArguments(f"job {self.name}: a callback is written once, at its moment: it takes no such option")
        arguments = self._accepted(args, kwargs)
        own = {"job": self.name, "queue": self.queue, "priority": int(self.priority)}
        return own | {"key": self.key_of(arguments), "args": arguments, "max_attempts": self.max_attempts}

    def _accepted(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        if args:
            raise BadArguments(f"job {self.name}: give its arguments by name: a run keeps names, not places")
        return self.accept(kwargs)

    def accept(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Return arguments as a run stores them; raises `BadArguments`."""
        return accept(self.name, self.function, dict(arguments))

    def _order(self) -> Order:
        schedule, slot_at = self.slot or (None, None)
        unique = Unique() if self.unique_key is not None else self.unique
        if self.after_id is not None and (self.due_at is not None or (unique and unique.wait)):
            raise BadArguments(f"job {self.name}: a run behind another one is due when that one has succeeded")
        return Order(
            self.name,
            self.queue,
            int(self.priority),
            self.max_attempts,
            self.due_at,
            unique,
            schedule,
            slot_at,
            self.event_id,
            self.lifetime,
            self.batch_id,
            self.after_id,
        )

    def _item(self, arguments: dict[str, Any]) -> Item:
        unique_key = self.unique_key
        if unique_key is None:
            unique_key = self.unique_key_of(arguments, self.about)
        return Item(arguments, self.key_of(arguments, self.about), unique_key)

    def unique_key_of(self, arguments: Mapping[str, Any], about: str | None = None) -> str | None:
        """Return what a run shares with those that count as the same; None where there are none."""
        if self.unique is None or (self.entity and about is None):
            return None
        chosen = {"entity": about} if self.entity else defaults(self.function) | dict(arguments)
        return self.unique.key(self.name, chosen)

    def key_of(self, arguments: Mapping[str, Any], about: str | None = None) -> str | None:
        """Return the key of a run; the empty one is shared by all runs of a job that has limits and no key."""
        if self.entity and (self.ordered or self.per_key is not None):
            return about or f"event {arguments['event_id']}"
        if self.key is not None:
            return str((defaults(self.function) | dict(arguments))[self.key])
        return "" if self.limit is not None or self.ordered else None


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
    priority: Priority = Priority.NORMAL,
    unique: Unique | None = None,
    key: str | None = None,
    limit: int | None = None,
    per_key: int | None = None,
    ordered: bool = False,
    backoffs: Backoffs = NO_BACKOFFS,
    retry_for: float | None = None,
    expires: float | None = None,
    formerly: Iterable[str] = (),
    entity: str | Iterable[str] = (),
) -> Callable[[Callable[Concatenate[Context, P], Result]], Job[P]]:
    """Record a function as a job.

    Args:
        queue: Queue that serves it.
        max_attempts: Failures allowed before a run is dead, at least 1.
        time_limit: Seconds one attempt may take.
        backoff: Pauses between attempts.
        schedule: A rule in time.
        on: Events whose arrival enqueues it.
        needs: Upstreams whose pause, or open circuit, holds its runs.
        priority: Who goes first of the due runs of a queue.
        unique: Which of its runs count as the same.
        key: Argument that says what a run is about; its values take turns.
        limit: Runs under way at the same time, on all workers together.
        per_key: The same for runs with one key.
        ordered: Execute the runs of one key one at a time, in order.
        backoffs: Pauses after errors of certain classes; the class nearest to the error's own decides.
        retry_for: Seconds after a run is first due in which its attempts may begin.
        expires: Seconds after which nobody wants a run any more, unless an attempt has begun.
        formerly: Names it had before; what is kept under them is its own.
        entity: Where the body of an event says what it is about, such as "data.sku"; the first place that does counts.
    """

    def record(function: Callable[Concatenate[Context, P], Result]) -> Job[P]:
        recorded = Job(
            f"{function.__module__.rpartition('.')[2]}.{function.__name__}",
            function,
            queue,
            max_attempts,
            time_limit,
            backoff or Backoff(),
            schedule,
            tuple(on),
            tuple(needs),
            priority,
            unique,
            key,
            limit,
            per_key,
            ordered,
            backoffs=backoffs,
            lifetime=Lifetime(expires, retry_for),
            formerly=tuple(formerly),
            entity=(entity,) if isinstance(entity, str) else tuple(entity),
        )
        for check in (_check_names, *CHECKS):
            check(recorded)
        return enroll(recorded)

    return record


def enroll(job: Job[P]) -> Job[P]:
    """Keep a job under its name."""
    _registry[job.name] = job
    return job


def _check_names(job: Job[Any]) -> None:
    """Refuse a name, of today or of before, that another job has too.

    Raises:
        ValueError: The message names both.
    """
    if job.name in _registry:
        raise ValueError(f"two jobs are called {job.name}: rename one of them")
    for name in (job.name, *job.formerly):
        if (other := names().get(name)) is not None:
            raise ValueError(f"{job.name} and {other.name} both claim the name {name}: let one of them have it")


def all_jobs() -> dict[str, Job[Any]]:
    """Return the jobs recorded so far, by name."""
    return _registry


def names() -> dict[str, Job[Any]]:
    """Return the jobs by every name they have and had."""
    return {former: job for job in _registry.values() for former in job.formerly} | _registry


def renamed() -> dict[str, str]:
    """Return what each former name is called now."""
    return {former: job.name for job in _registry.values() for former in job.formerly}


def find(name: str) -> Job[Any]:
    """Return the job that has this name, or had it before.

    Raises:
        UnknownJob: If there is none.
    """
    try:
        return _registry.get(name) or names()[name]
    except KeyError:
        near = get_close_matches(name, _registry, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]}?" if near else "`headrace jobs` lists them all"
        raise UnknownJob(f"there is no job called {name!r}: {hint}") from None


def handler_of(source: str, event_type: str) -> Job[Any] | None:
    """Return the job that answers this event, or None when nobody does."""
    key = EventKey(source, event_type)
    return next((found for found in _registry.values() if key in found.on), None)
