"""What we do: the jobs of the shop.

A job is a function with a queue, limits, perhaps a schedule and the events it answers. `@job` only records it;
`workers` later binds it to a broker, so a job can be imported, called and tested like the function it is.

    @job(queue="warehouse", schedule=every(hours=1))
    def sync_stock(context: Context, *, full: bool = False) -> dict[str, int]:
        ...

    sync_stock.enqueue(session, full=True)   # a run, in the caller's own transaction
    notify.after(run_id).enqueue(session)    # another one, once that has succeeded

Files with a leading underscore are machinery; every other file of this folder is a topic of work.
"""

from jobs._answer import answer, answered, entity_of
from jobs._arguments import BadArguments, RowId
from jobs._batch import Batch, batch
from jobs._canary import canaries
from jobs._checkpoint import BadCheckpoint
from jobs._chunk import Chunk, Member, chunk_job
from jobs._context import Context
from jobs._enqueue import WRITTEN, Written
from jobs._fire_policy import ONCE, SKIP, BadRule, FirePolicy, Missed, Overlap, each, read_missed
from jobs._job import Job, Priority, UnknownJob, all_jobs, find, handler_of, job, names, renamed
from jobs._partners import sync_partner
from jobs._policy import Backoff
from jobs._schedule import Rule, at, cron, every
from jobs._schedule import read as read_rule
from jobs._signals import Cancel, Interrupted, Snooze
from jobs._topics import load
from jobs._unique import Unique

__all__ = [
    "ONCE",
    "SKIP",
    "WRITTEN",
    "Backoff",
    "BadArguments",
    "BadCheckpoint",
    "BadRule",
    "Batch",
    "Cancel",
    "Chunk",
    "Context",
    "FirePolicy",
    "Interrupted",
    "Job",
    "Member",
    "Missed",
    "Overlap",
    "Priority",
    "RowId",
    "Rule",
    "Snooze",
    "Unique",
    "UnknownJob",
    "Written",
    "all_jobs",
    "answer",
    "answered",
    "at",
    "batch",
    "canaries",
    "chunk_job",
    "cron",
    "each",
    "entity_of",
    "every",
    "find",
    "handler_of",
    "job",
    "load",
    "names",
    "read_missed",
    "read_rule",
    "renamed",
    "sync_partner",
]
