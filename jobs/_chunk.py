"""Jobs that take many runs at once: one execution, and for each run an outcome of its own.

    @dataclass(frozen=True)
    class Price:
        sku: str
        cents: int

    @chunk_job(Price, most=100, queue="prices")
    def publish(context: Context, members: Sequence[Member[Price]]) -> None:
        refused = shop.publish([member.args for member in members])
        for member in members:
            if member.args.sku in refused:
                member.fail(Rejected("no such product"))

    publish.enqueue(session, sku="a", cents=100)   # one run, as of any job

The first run reaches a worker as every run does, and takes along those of its job that are due at that moment, at most
`most` in all. Nobody waits for a chunk to fill: alone it goes alone, and chunks grow with the backlog. A member that
says nothing succeeds when the function returns, and shares the error when it raises. Attempts and retries belong to
the run; what `context` logs, shows as progress or keeps as a checkpoint is kept with the first one, and so are the
calls to the outside. An idempotency key is asked for by the member's `run_id`.
"""

import functools
import inspect
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Concatenate, Generic, ParamSpec, TypedDict, TypeVar, Unpack, cast, get_type_hints

from integrations import Integration
from jobs._arguments import restore
from jobs._context import Context, Stop
from jobs._job import Job, Priority, enroll, job
from jobs._policy import Backoff, Backoffs
from jobs._unique import Unique

P = ParamSpec("P")
A = TypeVar("A")
Result = dict[str, Any] | None


@dataclass
class Member(Generic[A]):
    """One run of a chunk."""

    run_id: int
    #: The fencing number of this attempt.
    attempt: int
    args: A
    stop: Stop = field(default_factory=Stop)
    result: Result = None
    error: BaseException | None = None
    settled: bool = False

    @property
    def cancelled(self) -> bool:
        """Whether an operator cancelled this run while the chunk is at work; `fail(Cancel(...))` heeds it."""
        return self.stop.cancelled

    def succeed(self, result: Result = None) -> None:
        """Settle this run as succeeded, whatever becomes of the others; the last word counts."""
        self.result, self.error, self.settled = result, None, True

    def fail(self, error: BaseException) -> None:
        """Settle this run with an error, which is judged as if its own job had raised it: also `Snooze`, `Cancel`."""
        self.result, self.error, self.settled = None, error, True


@dataclass(frozen=True)
class Chunk(Generic[A]):
    """How a job takes many runs at once."""

    #: What the arguments of one run make.
    shape: Callable[..., A]
    function: Callable[[Context, Sequence[Member[A]]], None]
    #: Runs of one execution.
    most: int

    def member(self, job: Job[Any], run_id: int, attempt: int, stored: dict[str, Any], stop: Stop) -> Member[A]:
        """Return a member with its arguments as they were stored; with others than the job takes now it has failed."""
        try:
            args = self.shape(**restore(job.name, job.function, stored))
        except Exception as error:  # noqa: BLE001 - the shape may check what it is given; its error is this run's own
            return Member(run_id, attempt, cast("A", None), stop, error=error, settled=True)
        return Member(run_id, attempt, args, stop)

    def alone(self) -> Callable[..., Result]:
        """Return the job as a function of one run, with the arguments of the shape for its signature."""

        @functools.wraps(self.function)
        def function(context: Context, **arguments: Any) -> Result:
            member = Member(context.run_id, context.attempt, self.shape(**arguments))
            self.function(context, [member])
            if member.error is not None:
                raise member.error
            return member.result

        first = inspect.Parameter("context", inspect.Parameter.POSITIONAL_ONLY, annotation=Context)
        named = inspect.signature(self.shape).parameters.values()
        own = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in named]
        vars(function)["__signature__"] = inspect.Signature([first, *own])
        hints = get_type_hints(self.shape.__init__, include_extras=True)
        function.__annotations__ = hints | {"context": Context}
        return function


class Options(TypedDict, total=False):
    """The options of `job` that make sense for many runs at once; what they mean, and their defaults, are said there.

    Schedules and events bring no shape. Keys and limits count runs where they are queued, and a chunk takes along what
    waits: limit its queue instead, `headrace queues limit`, then a chunk takes along only what was counted.
    """

    queue: str
    max_attempts: int
    time_limit: float
    backoff: Backoff | None
    needs: Iterable[type[Integration]]
    priority: Priority
    unique: Unique | None
    backoffs: Backoffs
    retry_for: float | None
    expires: float | None
    formerly: Iterable[str]


def chunk_job(
    shape: Callable[P, A], *, most: int, **options: Unpack[Options]
) -> Callable[[Callable[[Context, Sequence[Member[A]]], None]], Job[P]]:
    """Record a function of many runs as a job.

    Args:
        shape: A class, usually a dataclass, that the arguments of one run are given to.
        most: Runs of one execution, at least 2.
        options: As of `job`. The time limit is that of an execution; attempts, retries and ages are those of each run.

    Raises:
        ValueError: If a chunk would be a single run.
    """

    def record(function: Callable[[Context, Sequence[Member[A]]], None]) -> Job[P]:
        if most < 2:  # noqa: PLR2004 - a chunk of one is a job
            raise ValueError(f"{function.__name__}: a chunk has at least 2 runs; use @job for one")
        chunk = Chunk(shape, function, most)
        single: Callable[Concatenate[Context, P], Result] = chunk.alone()
        recorded: Job[P] = job(**options)(single)
        return enroll(replace(recorded, chunk=chunk))

    return record
