"""What makes no sense together is refused where a job is declared, with a sentence that says why."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from jobs._arguments import parameters, required
from jobs._fire_policy import Overlap
from jobs._policy import is_retried
from jobs._unique import Unique

if TYPE_CHECKING:
    from jobs._job import Job


def _check_sharing(job: "Job[Any]") -> None:
    """Refuse what makes no sense together, where it is declared.

    Raises:
        ValueError: The message says what and why.
    """
    named = {*([job.key] if job.key else []), *((job.unique.by or ()) if job.unique else ())}
    if unknown := sorted(named - set(parameters(job.function))):
        raise ValueError(f"job {job.name} has no argument {unknown[0]!r} that a key could be taken from")
    if job.per_key is not None and job.key is None and not job.entity:
        raise ValueError(f"job {job.name} limits each key and has none: say key='...', or use limit=")
    if job.on and job.key not in {None, "event_id"}:
        raise ValueError(f"job {job.name} answers events, which bring only event_id: it has no other key")
    if any(most is not None and most < 1 for most in (job.limit, job.per_key)):
        raise ValueError(f"job {job.name}: a limit below 1 would hold its runs for ever; pause the job instead")


def _check_entity(job: "Job[Any]") -> None:
    """Refuse an entity that no event could name, and sharing that does not go with one.

    Raises:
        ValueError: The message says what and why.
    """
    if job.entity and not job.on:
        raise ValueError(f"job {job.name} has an entity and answers no event that could name it: give on=[...]")
    if job.entity and (
        job.key is not None or job.unique not in {None, Unique(wait=job.unique.wait if job.unique else 0)}
    ):
        raise ValueError(
            f"job {job.name}: its entity is its key, and unique runs of one are Unique() or Unique(wait=...)"
        )


def _check_timing(job: "Job[Any]") -> None:
    """Refuse a schedule for a job that it cannot call, and a backoff after an error that is followed by none.

    Raises:
        ValueError: The message names the argument or the error.
    """
    if job.schedule is not None and (needed := required(job.function)):
        raise ValueError(f"job {job.name} has a schedule, which gives no arguments: give {needed[0]!r} a default")
    if job.schedule is not None and job.schedule.policy.overlap is Overlap.QUEUE and job.limit != 1:
        raise ValueError(f"job {job.name}: its fires queue behind each other, so it runs once at a time: give limit=1")
    for kind in job.backoffs:
        if not is_retried(kind):
            raise ValueError(
                f"job {job.name} has a backoff for {kind.__name__}, which is followed by no pause: leave it out"
            )


CHECKS: tuple[Callable[["Job[Any]"], None], ...] = (_check_sharing, _check_entity, _check_timing)
