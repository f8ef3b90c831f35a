"""Fetching again: what would not validate on a list is asked for by its id, where it is often right.

A few failures in a row end it, for then it is the upstream that is ill. What is gone there, and what is good now,
leaves the quarantine; the rest stays for the next time.
"""

from dataclasses import dataclass
from typing import Generic, TypeVar

from sqlalchemy.orm import Session

from integrations import NotFound, Rejected, Unavailable
from integrations.warehouse import LevelItem, ProductItem
from jobs import _quarantine
from jobs._context import Context
from jobs._stock import News, twice
from jobs._walk import Flow, ensure

T = TypeVar("T", ProductItem, LevelItem)

#: Items fetched again in one go, how many are written together, and how many failures in a row end it.
MOST_REFETCHED = 5_000
TOGETHER = 100
MOST_UNREACHABLE = 3


@dataclass
class Batch(Generic[T]):
    """What one batch of fetches brought: good items by the id asked for, ids that are gone, and bad ones."""

    good: dict[str, T]
    gone: list[str]
    bad: list[_quarantine.SetAside]
    unreachable: int = 0


def refetch(context: Context, flow: Flow[T]) -> dict[str, int]:
    """Fetch what is in quarantine and has an id, and write what is good now; return what became of it."""
    with context.transaction() as session:
        stream_id = ensure(session, flow.name, flow.upstream)
        ids = _quarantine.open_ids(session, stream_id, MOST_REFETCHED)
    counts = {"fetched": len(ids), "applied": 0, "gone": 0, "still_bad": 0}
    for start in range(0, len(ids), TOGETHER):
        context.check()
        batch = _fetch(context, flow, ids[start : start + TOGETHER])
        bad = _settle(context, flow, stream_id, batch)
        counts["applied"] += len(batch.good) - bad
        counts["gone"] += len(batch.gone)
        counts["still_bad"] += len(batch.bad) + bad + batch.unreachable
        context.progress(done=min(start + TOGETHER, len(ids)), total=len(ids), note=f"{flow.name}: fetching again")
    return counts


def _fetch(context: Context, flow: Flow[T], ids: list[str]) -> Batch[T]:
    batch = Batch[T]({}, [], [])
    in_a_row = 0
    for item_id in ids:
        try:
            batch.good[item_id] = flow.fetch(context.use(flow.kind), item_id)
        except NotFound:
            batch.gone.append(item_id)
        except Rejected as error:
            if error.code != "malformed_item":
                raise
            batch.bad.append(_quarantine.set_aside(item_id, str(error), ""))
        except Unavailable:
            batch.unreachable += 1
            in_a_row += 1
            if in_a_row >= MOST_UNREACHABLE:
                raise
            continue
        in_a_row = 0
    return batch


def _settle(context: Context, flow: Flow[T], stream_id: int, batch: Batch[T]) -> int:
    """Write a batch and close what it settled; return how many good items still had no place."""

    def attempt(session: Session) -> int:
        applied = flow.apply(session, list(batch.good.values()), News("sync", context.run_id))
        _quarantine.resolve(session, stream_id, [*batch.good, *batch.gone])
        aside = [_quarantine.from_misfit(misfit) for misfit in applied.misfits]
        _quarantine.keep(session, stream_id, batch.bad + aside)
        return len(aside)

    return twice(context, attempt)
