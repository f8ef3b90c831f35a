"""The walk: how a stream is read from where we left off to its end, whatever happens on the way.

    take     lock the stream's row, raise its fence, go on with an unfinished walk or begin one at the mark
    page     ask the upstream; then one transaction: fence, items, quarantine, sightings, checkpoint
    finish   with the last page: move the mark, sweep after a full walk, close the walk

The mark moves only at the end, to the latest change seen but never past the moment the walk began by the upstream's
own clock, so an item dated in the future cannot make us skip the present. The next walk begins a little before the
mark: what an upstream commits late is read again, and reading again is free of consequences.

A crash between two pages costs nothing: the cursor was saved with the page. A walk that lost its stream to another
one finds the fence raised at its next page, writes nothing and ends. An upstream that turns in circles is left.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, Generic, Protocol, TypeVar

from sqlalchemy import func, select, text, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from integrations import CursorExpired, Integration, Unavailable
from integrations.warehouse import LevelItem, Page, ProductItem, Warehouse
from jobs import _quarantine
from jobs._context import Context
from jobs._quarantine import SetAside
from jobs._signals import Cancel, Snooze
from jobs._stock import Applied, News, twice
from jobs._sweep import sweep
from models import Run, State, Stream, StreamMove

T = TypeVar("T", ProductItem, LevelItem)

OVERLAP = timedelta(minutes=10)
#: Seconds after which a walk looks again whether the one that holds its stream is done.
PATIENCE = 30.0

MOST_PAGES = 20_000
MOST_EMPTY = 3
MOST_EXPIRED = 10
#: A page with more refused items than both of these is the upstream's accident, not a few bad items.
MOST_REFUSED = 20
REFUSED_SHARE = 0.1

COUNTS = ("seen", "changed", "unchanged", "quarantined", "deleted", "pages", "not_modified")

FENCE = text("SELECT 1 FROM streams WHERE id = :id AND fence = :fence FOR NO KEY UPDATE")
SIGHT = text("""
    INSERT INTO sightings (stream_id, source_id)
    SELECT :stream_id, id FROM unnest(CAST(:ids AS text[])) AS i(id) ORDER BY id ON CONFLICT DO NOTHING
""")


class Lister(Protocol[T]):
    """All that a walk needs of an upstream: one page of one list, asked of the integration that a flow names."""

    def __call__(
        self, upstream: Any, /, *, updated_since: datetime | None, cursor: str | None, etag: str | None
    ) -> Page[T]:
        """Return the page after the cursor, or the first one."""


@dataclass(frozen=True)
class Flow(Generic[T]):
    """What one stream is made of: how it is listed, fetched and written, the table it fills, and whose it is."""

    name: str
    table: str
    page: Lister[T]
    fetch: Callable[[Any, str], T]
    apply: Callable[[Session, Sequence[T], News], Applied]
    kind: type[Integration] = Warehouse
    #: Whether pages come in order of change, oldest first: only then a part of them says what was read.
    ascending: bool = True

    @property
    def upstream(self) -> str:
        """The name of whose stream it is."""
        return self.kind.name


@dataclass(frozen=True)
class Walk:
    """Where a walk stands; each page makes the next one."""

    stream_id: int
    fence: int
    full: bool
    since: datetime | None
    cursor: str | None
    started: datetime | None
    max_seen: datetime | None
    counts: dict[str, int]
    #: ETag of an earlier answer to the same question; only for the first page.
    etag: str | None = None


@dataclass
class Guards:
    """What one attempt has met, to notice an upstream that leads nowhere."""

    cursors: set[str] = field(default_factory=set)
    pages: int = 0
    empty: int = 0
    expired: int = 0

    def pass_page(self, flow: Flow[Any], page: Page[Any]) -> None:
        """Let a page through.

        Raises:
            Unavailable: The upstream repeats a cursor, promises more on empty pages, never ends, or sent mostly waste.
        """
        self.pages += 1
        found = len(page.items) + len(page.rejects)
        self.empty = 0 if found else self.empty + 1
        if page.next_cursor is not None and page.next_cursor in self.cursors:
            raise _lost(flow, "its next page is one we have read", "it is asked again later from the last page")
        if page.has_more and self.empty >= MOST_EMPTY:
            raise _lost(flow, f"{MOST_EMPTY} empty pages in a row promise more", "it is asked again later")
        if self.pages > MOST_PAGES:
            raise _lost(flow, f"it has not ended after {MOST_PAGES} pages", "it goes on later from the last page")
        if len(page.rejects) > max(MOST_REFUSED, REFUSED_SHARE * found):
            bad = f"{len(page.rejects)} of {found} items of a page are malformed ({page.rejects[0].reason})"
            raise _lost(flow, bad, "nothing of that page was written; it is asked again later, tell the upstream")
        self.cursors |= {page.next_cursor} if page.next_cursor else set()


def ensure(session: Session, name: str, upstream: str = Warehouse.name) -> int:
    """Return the id of the stream's row, made when it is missing."""
    wanted = select(Stream.id).where(Stream.upstream == upstream, Stream.name == name)
    found = session.scalar(wanted)
    if found is None:
        session.execute(insert(Stream).values(upstream=upstream, name=name).on_conflict_do_nothing())
        found = session.scalar(wanted)
    return int(found or 0)


def walk(context: Context, flow: Flow[T], *, full: bool) -> dict[str, int]:
    """Read a stream to its end and return what was met.

    Args:
        context: Asked between pages whether to stop.
        flow: The stream.
        full: Whether to read everything, not only what changed. A full walk that was left unfinished goes on as one.

    Raises:
        Cancel: Another walk took the stream over.
        Snooze: Another run is walking the stream at the moment.
        IntegrationError: See `integrations._errors`; the walk goes on at the last page next time.
    """
    with context.transaction() as session:
        state = take(session, flow, full=full, run_id=context.run_id)
    guards = Guards({state.cursor} if state.cursor else set())
    upstream = context.use(flow.kind)
    while True:
        context.check()
        state, done = _step(context, upstream, flow, state, guards)
        context.progress(done=state.counts["seen"], note=f"{flow.name}: page {state.counts['pages']}")
        if done:
            return state.counts


def take(session: Session, flow: Flow[T], *, full: bool, run_id: int) -> Walk:
    """Take the stream: raise its fence, then go on with its unfinished walk or begin one.

    Raises:
        Snooze: Another run is walking it at the moment.
    """
    stream = session.get_one(Stream, ensure(session, flow.name, flow.upstream), with_for_update={"key_share": True})
    _wait_for_holder(session, stream, run_id)
    stream.fence += 1
    stream.run_id = run_id
    if stream.walk_full is None or (full and not stream.walk_full):
        _begin(session, stream, full=full or _quarantine.nameless(session, stream.id) > 0)
    etag = stream.etag if stream.etag_since == stream.walk_since and stream.walk_since is not None else None
    session.flush()
    return Walk(
        stream_id=stream.id,
        fence=stream.fence,
        full=bool(stream.walk_full),
        since=stream.walk_since,
        cursor=stream.walk_cursor,
        started=stream.walk_started,
        max_seen=stream.walk_max_seen,
        counts={name: int(stream.counts.get(name, 0)) for name in COUNTS},
        etag=None if stream.walk_cursor or stream.walk_started else etag,
    )


def _wait_for_holder(session: Session, stream: Stream, run_id: int) -> None:
    if stream.walk_full is None or stream.run_id in {None, run_id}:
        return
    holder = session.get(Run, stream.run_id)
    if holder is not None and holder.state == State.RUNNING:
        raise Snooze(PATIENCE, f"run {holder.id} is walking {stream.name}: this one waits for its end")


def _begin(session: Session, stream: Stream, *, full: bool) -> None:
    stream.walk_full = full
    stream.walk_since = None if full or stream.high_water is None else stream.high_water - OVERLAP
    stream.walk_cursor = stream.walk_started = stream.walk_max_seen = None
    stream.counts = dict.fromkeys(COUNTS, 0)
    session.execute(text("DELETE FROM sightings WHERE stream_id = :id"), {"id": stream.id})


def _step(context: Context, upstream: Integration, flow: Flow[T], state: Walk, guards: Guards) -> tuple[Walk, bool]:
    try:
        page = flow.page(upstream, updated_since=state.since, cursor=state.cursor, etag=state.etag)
    except CursorExpired:
        expired(guards, flow, state.cursor)
        with context.transaction() as session:
            return _rejoin(session, flow, state), False
    guards.pass_page(flow, page)
    return twice(context, lambda session: _write_page(session, context, flow, state, page)), not page.has_more


def expired(guards: Guards, flow: Flow[Any], cursor: str | None) -> None:
    """Let an expired cursor pass; the caller goes on without it.

    Raises:
        Unavailable: That leads nowhere.
    """
    guards.expired += 1
    guards.cursors.clear()  # the same places are passed again, rightly
    if cursor is None or guards.expired > MOST_EXPIRED:
        raise _lost(flow, "its cursors expire before they can be used", "it is asked again later")


def _rejoin(session: Session, flow: Flow[T], state: Walk) -> Walk:
    """Go on without the cursor: where pages come in order of change, what lies safely before the last one was read."""
    _hold(session, state)
    read_to = state.max_seen and min(state.max_seen, state.started or state.max_seen) - OVERLAP
    if not flow.ascending:
        read_to = None
    known = [moment for moment in (state.since, read_to) if moment is not None]
    state = replace(state, cursor=None, since=max(known, default=None))
    _save(session, state)
    return state


def _write_page(session: Session, context: Context, flow: Flow[T], state: Walk, page: Page[T]) -> Walk:
    _hold(session, state)
    applied = flow.apply(session, page.items, News("sync", context.run_id))
    aside: list[SetAside] = [_quarantine.from_reject(reject) for reject in page.rejects]
    aside += [_quarantine.from_misfit(misfit) for misfit in applied.misfits]
    ids: list[str] = [item.id for item in page.items]
    times: list[datetime] = [item.updated_at for item in page.items]
    _quarantine.resolve(session, state.stream_id, ids)
    _quarantine.keep(session, state.stream_id, aside)
    if state.full:
        met = sorted({*ids, *(one.fingerprint for one in aside)})
        session.execute(SIGHT, {"stream_id": state.stream_id, "ids": met})
    after = replace(
        state,
        cursor=page.next_cursor,
        # An ETag speaks for its page only: it stands for the whole answer when that was one page, wholly understood.
        etag=page.etag if state.started is None and not aside else None,
        started=state.started or page.as_of,
        max_seen=max((moment for moment in (state.max_seen, *times) if moment is not None), default=None),
        counts=_count(state.counts, page, applied, len(aside)),
    )
    if page.has_more:
        _save(session, after)
        return replace(after, etag=None)
    return _finish(session, context, flow, after)


def _finish(session: Session, context: Context, flow: Flow[T], state: Walk) -> Walk:
    stream = session.get_one(Stream, state.stream_id)
    if state.full and state.started is not None:
        removed = sweep(session, stream, flow.table, state.started, context)
        state = replace(state, counts=state.counts | {"deleted": state.counts["deleted"] + removed})
        stream.full_walked_at = _now(session)
    if state.max_seen is not None and state.started is not None:
        _move(session, stream, min(state.max_seen, state.started), context.run_id)
    stream.etag, stream.etag_since = (state.etag, state.since) if state.etag and state.since else (None, None)
    stream.walk_full = stream.walk_since = stream.walk_cursor = None
    stream.walk_started = stream.walk_max_seen = None
    stream.counts = state.counts
    stream.walked_at = _now(session)
    return state


def _move(session: Session, stream: Stream, reached: datetime, run_id: int) -> None:
    if stream.high_water is None or reached > stream.high_water:
        move = StreamMove(
            stream_id=stream.id, moved_from=stream.high_water, moved_to=reached, reason="walk", run_id=run_id
        )
        session.add(move)
        stream.high_water = reached


def _hold(session: Session, state: Walk) -> None:
    if session.scalar(FENCE, {"id": state.stream_id, "fence": state.fence}) is None:
        raise Cancel("another walk took this stream over and goes on where this one was: nothing is lost")


def _save(session: Session, state: Walk) -> None:
    checkpoint = {
        "walk_since": state.since,
        "walk_cursor": state.cursor,
        "walk_started": state.started,
        "walk_max_seen": state.max_seen,
        "counts": state.counts,
    }
    session.execute(update(Stream).where(Stream.id == state.stream_id).values(checkpoint))


def _count(counts: dict[str, int], page: Page[Any], applied: Applied, aside: int) -> dict[str, int]:
    seen = len(page.items) + len(page.rejects)
    met = {
        "seen": seen,
        "changed": applied.changed,
        "unchanged": seen - applied.changed - aside,
        "quarantined": aside,
        "deleted": applied.deleted,
        "pages": 1,
        "not_modified": int(page.not_modified),
    }
    return {name: counts[name] + met[name] for name in COUNTS}


def _now(session: Session) -> datetime:
    return session.execute(select(func.now())).scalar_one()


def _lost(flow: Flow[Any], what: str, then: str) -> Unavailable:
    return Unavailable(f"{flow.upstream} cannot be walked through {flow.name}: {what}; {then}.", upstream=flow.upstream)
