"""The product search: an index in Elasticsearch that always follows the database.

A change of a product, its price or its stock leaves a mark in the writer's own transaction. `index_changes` tells the
index of every mark within seconds, and builds the index anew when the search server has forgotten it. `rebuild` makes
a new index beside the live one and swaps them once they are equal, `rollback` swaps back, and `verify` proves every
night that the index shows what the database holds, or says by how many products it does not.
"""

from dataclasses import asdict
from typing import Any

from integrations.elasticsearch import Elasticsearch
from jobs import Context, cron, every, job
from jobs._generations import look
from jobs._search_changes import drain
from jobs._search_differences import compare, mark
from jobs._search_rebuild import ensure, go_back, rebuild_all, surviving_a_loss
from jobs._search_status import SearchStatus, status
from jobs._signals import Snooze

__all__ = ["SearchStatus", "ensure", "index_changes", "rebuild", "rollback", "status", "verify"]

_HOURS = 3600.0


@job(queue="search", schedule=every(seconds=5), time_limit=1 * _HOURS, needs=[Elasticsearch])
def index_changes(context: Context) -> dict[str, Any]:
    """Tell every generation what changed; build the index first if there is none."""
    built = ensure(context)
    return {"built": built, **asdict(drain(context))}


@job(queue="search", time_limit=12 * _HOURS, needs=[Elasticsearch])
def rebuild(context: Context) -> dict[str, Any]:
    """Build a new index from the database and swap it in; a second rebuild at once is refused."""
    generation = rebuild_all(context)
    return {"index": generation.index}


@job(queue="search", schedule=cron("40 3 * * *"), time_limit=1 * _HOURS, needs=[Elasticsearch])
def verify(context: Context, *, repair: bool = False) -> dict[str, Any]:
    """Count in how many products the index and the database differ.

    Args:
        context: The running job.
        repair: Whether to mark what differs, so that the next `index_changes` delivers it again.
    """
    ensure(context)
    live = look(context).one("live")
    if live is None:
        raise Snooze(30, "the search index is being built: it is verified when it stands")
    with surviving_a_loss():
        found = compare(context, live)
    if repair and found.drift:
        mark(context, found.drift)
        context.log(f"marked {len(found.drift)} products to be delivered again")
    return found.summary()


@job(queue="search", needs=[Elasticsearch])
def rollback(context: Context) -> dict[str, Any]:
    """Point searches back at the previous generation, which was told every change all along."""
    left, now = go_back(context)
    return {"from": left.index, "to": now.index}
