"""A walk reads everything once, whatever breaks on the way; absence is concluded from complete walks only."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import select, text
from sqlalchemy.orm import Session, sessionmaker

from integrations import CursorExpired, Unavailable
from integrations.warehouse import LevelItem, LocationItem, Page, ProductItem, Reject, Warehouse, WarehouseSettings
from jobs import Cancel, Context, Interrupted, Snooze, _stock, _walk, warehouse
from jobs._stock import Applied, News
from jobs._walk import OVERLAP, Flow
from models import Product, Quarantine, Run, State, StockLevel, StockMovement, Stream, StreamMove

BASE = datetime(2026, 11, 1, tzinfo=UTC)
AS_OF = BASE + timedelta(days=1)


class Crash(Exception):  # noqa: N818 - a moment of the story, not an error of ours
    """The process dies here."""


@dataclass
class Shelf:
    """The list of an upstream, in the test's hands: products in order of change, a few on a page."""

    items: list[ProductItem] = field(default_factory=list)
    rejects: list[Reject] = field(default_factory=list)
    size: int = 2
    etag: str | None = None
    as_of: datetime = AS_OF
    asked: list[tuple[datetime | None, str | None, str | None]] = field(default_factory=list)
    #: What happens instead of the page at this number of the asking, counted from 1.
    trouble: dict[int, Exception] = field(default_factory=dict)

    def page(
        self, _warehouse: Warehouse, /, *, updated_since: datetime | None, cursor: str | None, etag: str | None
    ) -> Page[ProductItem]:
        self.asked.append((updated_since, cursor, etag))
        if error := self.trouble.pop(len(self.asked), None):
            raise error
        if etag is not None and etag == self.etag:
            return Page([], [], None, has_more=False, as_of=self.as_of, etag=etag, not_modified=True)
        found = sorted((i for i in self.items if not updated_since or i.updated_at >= updated_since), key=order)
        start = int(cursor or 0)
        end = start + self.size
        more = end < len(found)
        return Page(
            found[start:end],
            [] if cursor else self.rejects,
            str(end) if more else None,
            has_more=more,
            as_of=self.as_of,
            etag=self.etag,
            not_modified=False,
        )


def order(item: ProductItem) -> tuple[datetime, str]:
    return item.updated_at, item.id


def product(number: int, *, version: int = 1, deleted: bool = False) -> ProductItem:
    moment = BASE + timedelta(hours=number, seconds=version)
    values = {"id": f"prod_{number:03}", "sku": f"SKU-{number}", "name": f"Product {number}", "deleted": deleted}
    return ProductItem.model_validate({**values, "version": version, "updated_at": moment.isoformat()})


def stock_of(number: int) -> LevelItem:
    values = {"id": f"il_{number:03}", "sku": f"SKU-{number}", "location_id": "loc_1", "reserved": 0, "version": 1}
    return LevelItem.model_validate({**values, "on_hand": number, "updated_at": BASE.isoformat()})


def shelf_of(number: int, size: int = 2) -> Shelf:
    return Shelf([product(n) for n in range(1, number + 1)], size=size)


def flow(shelf: Shelf) -> Flow[ProductItem]:
    return Flow("products", "products", shelf.page, Warehouse.product, _stock.apply_products)


@pytest.fixture
def context(make_context: Callable[..., Context]) -> Iterator[Context]:
    """A context whose warehouse is configured and never asked."""
    warehouse = Warehouse(WarehouseSettings.model_validate({"url": "http://127.0.0.1:9", "token": "unused"}))
    yield make_context(warehouse)
    warehouse.close()


def stream(sessions: sessionmaker[Session]) -> Stream:
    with sessions() as session:
        return session.scalars(select(Stream).where(Stream.name == "products")).one()


def live(sessions: sessionmaker[Session]) -> list[str]:
    with sessions() as session:
        rows = select(Product.source_id).where(Product.deleted_at.is_(None)).order_by(Product.source_id)
        return list(session.scalars(rows))


def test_a_walk_reads_every_page_and_moves_the_mark_to_the_latest_change(
    context: Context, sessions: sessionmaker[Session]
) -> None:
    shelf = shelf_of(5)
    counts = _walk.walk(context, flow(shelf), full=False)
    assert (counts["seen"], counts["changed"], counts["pages"]) == (5, 5, 3)
    row = stream(sessions)
    assert row.high_water == product(5).updated_at
    assert (row.walk_full, row.walk_cursor, row.walk_started, row.full_walked_at) == (None, None, None, None)
    assert row.walked_at is not None
    with sessions() as session:
        move = session.scalars(select(StreamMove)).one()
    assert (move.moved_from, move.moved_to, move.reason) == (None, row.high_water, "walk")


def test_the_next_walk_begins_a_little_before_the_mark_and_includes_it(context: Context) -> None:
    shelf = shelf_of(5)
    _walk.walk(context, flow(shelf), full=False)
    shelf.asked.clear()
    counts = _walk.walk(context, flow(shelf), full=False)
    assert shelf.asked == [(product(5).updated_at - OVERLAP, None, None)]
    assert (counts["seen"], counts["changed"], counts["unchanged"]) == (1, 0, 1)


def test_an_item_dated_in_the_future_does_not_push_the_mark(context: Context, sessions: sessionmaker[Session]) -> None:
    shelf = shelf_of(2)
    shelf.items.append(product(3).model_copy(update={"updated_at": AS_OF + timedelta(days=900)}))
    _walk.walk(context, flow(shelf), full=False)
    assert stream(sessions).high_water == AS_OF


def test_the_mark_never_moves_backwards(context: Context, sessions: sessionmaker[Session]) -> None:
    shelf = shelf_of(5)
    _walk.walk(context, flow(shelf), full=False)
    mark = stream(sessions).high_water
    shelf.as_of = BASE
    _walk.walk(context, flow(shelf), full=True)
    assert stream(sessions).high_water == mark


def test_the_mark_does_not_move_before_the_end(context: Context, sessions: sessionmaker[Session]) -> None:
    shelf = shelf_of(5)
    shelf.trouble[3] = Crash()
    with pytest.raises(Crash):
        _walk.walk(context, flow(shelf), full=False)
    row = stream(sessions)
    assert (row.high_water, row.walk_cursor) == (None, "4")


@pytest.mark.parametrize("moment", [1, 2, 3, 4])
@pytest.mark.parametrize("full", [False, True])
def test_after_a_crash_before_any_page_the_walk_goes_on_there(
    context: Context, sessions: sessionmaker[Session], moment: int, full: bool
) -> None:
    shelf = shelf_of(7)
    shelf.trouble[moment] = Crash()
    with pytest.raises(Crash):
        _walk.walk(context, flow(shelf), full=full)
    shelf.asked.clear()
    counts = _walk.walk(context, flow(shelf), full=full)
    assert shelf.asked[0][1] == (None if moment == 1 else str(2 * (moment - 1)))
    assert (counts["seen"], counts["changed"], counts["pages"]) == (7, 7, 4)
    assert len(live(sessions)) == 7


@pytest.mark.parametrize("moment", [1, 2, 3, 4])
def test_a_crash_inside_a_page_leaves_nothing_of_it(
    context: Context, sessions: sessionmaker[Session], moment: int
) -> None:
    shelf = shelf_of(7)
    pages = iter(range(1, 9))

    def dying(session: Session, items: Sequence[ProductItem], news: News) -> Applied:
        applied = _stock.apply_products(session, items, news)
        if next(pages) == moment:
            raise Crash
        return applied

    with pytest.raises(Crash):
        _walk.walk(context, replace(flow(shelf), apply=dying), full=False)
    assert len(live(sessions)) == 2 * (moment - 1)
    counts = _walk.walk(context, flow(shelf), full=False)
    assert (counts["seen"], counts["changed"]) == (7, 7)


def test_a_stop_between_pages_keeps_the_pages_that_were_read(context: Context, sessions: sessionmaker[Session]) -> None:
    shelf = shelf_of(5)

    def stopping(session: Session, items: Sequence[ProductItem], news: News) -> Applied:
        context.stop.interrupted = True
        return _stock.apply_products(session, items, news)

    with pytest.raises(Interrupted):
        _walk.walk(context, replace(flow(shelf), apply=stopping), full=False)
    assert stream(sessions).walk_cursor == "2"
    assert len(live(sessions)) == 2


def test_a_full_walk_left_unfinished_goes_on_as_a_full_walk(context: Context, sessions: sessionmaker[Session]) -> None:
    shelf = shelf_of(5)
    shelf.trouble[2] = Crash()
    with pytest.raises(Crash):
        _walk.walk(context, flow(shelf), full=True)
    _walk.walk(context, flow(shelf), full=False)
    assert stream(sessions).full_walked_at is not None


def test_a_full_walk_does_not_continue_an_unfinished_partial_one(context: Context) -> None:
    shelf = shelf_of(5)
    _walk.walk(context, flow(shelf), full=False)
    shelf.items += [product(n) for n in (6, 7, 8)]
    shelf.trouble[len(shelf.asked) + 2] = Crash()
    with pytest.raises(Crash):
        _walk.walk(context, flow(shelf), full=False)
    shelf.asked.clear()
    assert _walk.walk(context, flow(shelf), full=True)["seen"] == 8
    assert shelf.asked[0] == (None, None, None)


def test_the_walk_whose_stream_was_taken_writes_nothing_more(
    make_context: Callable[..., Context], context: Context, sessions: sessionmaker[Session]
) -> None:
    shelf = shelf_of(7)
    other = make_context(context.use(Warehouse), run_id=2)

    def overtaken(
        warehouse: Warehouse, /, *, updated_since: datetime | None, cursor: str | None, etag: str | None
    ) -> Page[ProductItem]:
        page = shelf.page(warehouse, updated_since=updated_since, cursor=cursor, etag=etag)
        if cursor == "2":
            _walk.walk(other, flow(shelf_of(7)), full=False)
        return page

    written: list[int] = []

    def counting(session: Session, items: Sequence[ProductItem], news: News) -> Applied:
        written.append(news.run_id)
        return _stock.apply_products(session, items, news)

    with pytest.raises(Cancel, match="took this stream over"):
        _walk.walk(context, replace(flow(shelf), page=overtaken, apply=counting), full=False)
    assert written == [1]
    assert len(live(sessions)) == 7
    assert (stream(sessions).run_id, stream(sessions).counts["seen"]) == (2, 7)


def test_a_walk_waits_while_a_running_run_walks_the_stream(
    make_context: Callable[..., Context], context: Context, sessions: sessionmaker[Session]
) -> None:
    with sessions.begin() as session:
        session.add(Run(id=1, job="warehouse.sync", queue="warehouse", args={}, state=State.RUNNING, max_attempts=10))
    shelf = shelf_of(5)
    shelf.trouble[2] = Crash()
    with pytest.raises(Crash):
        _walk.walk(context, flow(shelf), full=False)
    other = make_context(context.use(Warehouse), run_id=2)
    with pytest.raises(Snooze):
        _walk.walk(other, flow(shelf), full=False)
    with sessions.begin() as session:
        session.get_one(Run, 1).state = State.WAITING
    assert _walk.walk(other, flow(shelf), full=False)["seen"] == 5


def test_an_expired_cursor_costs_only_the_overlap(context: Context) -> None:
    shelf = shelf_of(7)
    shelf.trouble[3] = CursorExpired("expired", upstream="warehouse", status=410)
    counts = _walk.walk(context, flow(shelf), full=False)
    assert shelf.asked[3] == (product(4).updated_at - OVERLAP, None, None)
    assert (counts["changed"], counts["unchanged"]) == (7, 1)


def test_cursors_that_always_expire_end_the_attempt_and_not_the_progress(
    context: Context, sessions: sessionmaker[Session]
) -> None:
    shelf = Shelf([product(1).model_copy(update={"id": f"p{n}", "sku": f"S{n}"}) for n in range(5)])
    shelf.trouble = {n: CursorExpired("expired", upstream="warehouse", status=410) for n in range(2, 100, 2)}
    with pytest.raises(Unavailable, match="expire"):
        _walk.walk(context, flow(shelf), full=False)
    assert stream(sessions).high_water is None
    shelf.trouble.clear()
    _walk.walk(context, flow(shelf), full=False)
    assert len(live(sessions)) == 5


def test_a_repeated_cursor_is_noticed(context: Context) -> None:
    shelf = shelf_of(9)

    def looping(
        warehouse: Warehouse, /, *, updated_since: datetime | None, cursor: str | None, etag: str | None
    ) -> Page[ProductItem]:
        page = shelf.page(warehouse, updated_since=updated_since, cursor=cursor, etag=etag)
        return replace(page, next_cursor="2")

    with pytest.raises(Unavailable, match="its next page is one we have read"):
        _walk.walk(context, replace(flow(shelf), page=looping), full=False)
    assert len(shelf.asked) == 2


def test_empty_pages_that_promise_more_are_left_after_three(context: Context) -> None:
    shelf = shelf_of(0)

    def hollow(
        warehouse: Warehouse, /, *, updated_since: datetime | None, cursor: str | None, etag: str | None
    ) -> Page[ProductItem]:
        page = shelf.page(warehouse, updated_since=updated_since, cursor=cursor, etag=etag)
        return replace(page, next_cursor=str(len(shelf.asked)), has_more=True)

    with pytest.raises(Unavailable, match="3 empty pages"):
        _walk.walk(context, replace(flow(shelf), page=hollow), full=False)
    assert len(shelf.asked) == 3


def test_a_page_that_is_mostly_waste_writes_nothing(context: Context, sessions: sessionmaker[Session]) -> None:
    shelf = shelf_of(2)
    shelf.rejects = [Reject(f"bad_{n}", "sku: Field required", {}) for n in range(21)]
    with pytest.raises(Unavailable, match="21 of 23 items"):
        _walk.walk(context, flow(shelf), full=False)
    assert live(sessions) == []
    shelf.rejects.pop()
    assert _walk.walk(context, flow(shelf), full=False)["quarantined"] == 20


def test_a_good_item_closes_its_quarantine(context: Context, sessions: sessionmaker[Session]) -> None:
    shelf = Shelf(rejects=[Reject("prod_001", "sku: Field required", {"id": "prod_001"})])
    _walk.walk(context, flow(shelf), full=False)
    _walk.walk(context, flow(shelf), full=False)
    with sessions() as session:
        row = session.scalars(select(Quarantine)).one()
    assert (row.external_id, row.times, row.resolved_at) == ("prod_001", 2, None)
    shelf.rejects, shelf.items = [], [product(1)]
    _walk.walk(context, flow(shelf), full=False)
    with sessions() as session:
        assert session.scalars(select(Quarantine)).one().resolved_at is not None


def test_an_item_without_an_id_makes_the_next_walk_full_which_closes_it(
    context: Context, sessions: sessionmaker[Session]
) -> None:
    shelf = shelf_of(3)
    shelf.rejects = [Reject(None, "id: Field required", {"sku": "SKU-9"})]
    _walk.walk(context, flow(shelf), full=False)
    shelf.rejects = []
    shelf.asked.clear()
    _walk.walk(context, flow(shelf), full=False)
    assert shelf.asked[0][0] is None
    with sessions() as session:
        assert session.scalars(select(Quarantine)).one().resolved_at is not None


def test_an_unchanged_answer_of_one_page_is_asked_for_by_its_etag(
    context: Context, sessions: sessionmaker[Session]
) -> None:
    shelf = shelf_of(5)
    shelf.etag = '"one"'
    _walk.walk(context, flow(shelf), full=False)
    assert stream(sessions).etag is None  # the answer was several pages: its first page does not speak for them
    _walk.walk(context, flow(shelf), full=False)
    mark = stream(sessions).high_water
    counts = _walk.walk(context, flow(shelf), full=False)
    assert (shelf.asked[-1][2], counts["not_modified"], counts["seen"]) == ('"one"', 1, 0)
    assert (stream(sessions).high_water, stream(sessions).etag) == (mark, '"one"')
    shelf.etag = '"two"'
    assert _walk.walk(context, flow(shelf), full=False)["seen"] == 1


def test_the_etag_of_a_first_page_does_not_speak_for_the_pages_after_it(
    context: Context, sessions: sessionmaker[Session]
) -> None:
    shelf = shelf_of(5)
    _walk.walk(context, flow(shelf), full=False)
    shelf.items += [product(n) for n in (6, 7, 8)]
    shelf.etag = '"one"'
    assert _walk.walk(context, flow(shelf), full=False)["pages"] == 2
    assert stream(sessions).etag is None


def test_what_changed_after_the_walk_began_is_not_missed_by_it(
    context: Context, sessions: sessionmaker[Session]
) -> None:
    shelf = shelf_of(20)
    _walk.walk(context, flow(shelf), full=True)
    late = product(21).model_copy(update={"updated_at": AS_OF + timedelta(seconds=1)})
    with sessions.begin() as session:
        _stock.apply_products(session, [late], News("event", 2))
    _walk.walk(context, flow(shelf), full=True)
    _walk.walk(context, flow(shelf), full=True)
    assert late.id in live(sessions)


def test_what_two_full_walks_miss_is_removed_and_what_one_misses_is_not(
    context: Context, sessions: sessionmaker[Session]
) -> None:
    shelf = shelf_of(20)
    _walk.walk(context, flow(shelf), full=True)
    gone = shelf.items.pop(4)
    assert _walk.walk(context, flow(shelf), full=True)["deleted"] == 0
    shelf.items.append(gone)
    _walk.walk(context, flow(shelf), full=True)  # seen again: the count begins anew
    shelf.items.remove(gone)
    assert _walk.walk(context, flow(shelf), full=True)["deleted"] == 0
    assert _walk.walk(context, flow(shelf), full=True)["deleted"] == 1
    assert gone.id not in live(sessions)
    shelf.items.append(gone)
    _walk.walk(context, flow(shelf), full=True)
    assert gone.id in live(sessions)  # it returned in the very state we had


def test_a_partial_walk_concludes_nothing_from_absence(context: Context, sessions: sessionmaker[Session]) -> None:
    shelf = shelf_of(20)
    _walk.walk(context, flow(shelf), full=True)
    shelf.items.clear()
    for _ in range(3):
        _walk.walk(context, flow(shelf), full=False)
    assert len(live(sessions)) == 20


@pytest.mark.parametrize("left", [17, 0])
def test_too_many_missing_are_held_and_not_removed(
    context: Context, sessions: sessionmaker[Session], left: int
) -> None:
    shelf = shelf_of(20)
    _walk.walk(context, flow(shelf), full=True)
    del shelf.items[left:]
    _walk.walk(context, flow(shelf), full=True)
    _walk.walk(context, flow(shelf), full=True)
    assert stream(sessions).held_deletions == 20 - left
    assert len(live(sessions)) == 20
    shelf.items = shelf_of(20).items
    _walk.walk(context, flow(shelf), full=True)
    assert stream(sessions).held_deletions == 0


def test_held_deletions_are_made_once_somebody_approves_just_so_many(
    context: Context, sessions: sessionmaker[Session]
) -> None:
    shelf = shelf_of(20)
    _walk.walk(context, flow(shelf), full=True)
    del shelf.items[12:]
    for _ in range(2):
        _walk.walk(context, flow(shelf), full=True)
    with pytest.raises(Cancel, match="7 deletions were approved and 8 are due"):
        warehouse.remove_missing(context, stream="products", most=7)
    assert warehouse.remove_missing(context, stream="products", most=8) == {"removed": 8}
    assert (len(live(sessions)), stream(sessions).held_deletions) == (12, 0)
    with pytest.raises(Cancel, match="approve again"):
        warehouse.remove_missing(context, stream="products", most=8)


def test_nothing_is_missed_while_an_item_came_without_an_id(context: Context, sessions: sessionmaker[Session]) -> None:
    shelf = shelf_of(20)
    _walk.walk(context, flow(shelf), full=True)
    shelf.items.pop()
    shelf.rejects = [Reject(None, "id: Field required", {"sku": "SKU-20"})]
    for _ in range(3):
        _walk.walk(context, flow(shelf), full=True)
    assert len(live(sessions)) == 20


def test_a_malformed_item_counts_as_seen(context: Context, sessions: sessionmaker[Session]) -> None:
    shelf = shelf_of(20)
    _walk.walk(context, flow(shelf), full=True)
    item = shelf.items.pop()
    shelf.rejects = [Reject(item.id, "sku: Field required", {"id": item.id})]
    for _ in range(3):
        _walk.walk(context, flow(shelf), full=True)
    assert item.id in live(sessions)


def test_the_sweep_takes_the_stock_of_a_missing_level_through_the_ledger(
    context: Context, sessions: sessionmaker[Session]
) -> None:
    levels = [stock_of(n) for n in range(1, 21)]
    with sessions.begin() as session:
        _stock.apply_locations(session, [LocationItem(id="loc_1", name="Store 1")])
        _stock.apply_products(session, [product(n) for n in range(1, 21)], News("sync", 1))

    def page(
        _warehouse: Warehouse, /, *, updated_since: datetime | None, cursor: str | None, etag: str | None
    ) -> Page[LevelItem]:
        del updated_since, cursor, etag
        return Page(list(levels), [], None, has_more=False, as_of=AS_OF, etag=None, not_modified=False)

    stock = Flow("stock_levels", "stock_levels", page, Warehouse.level, _stock.apply_levels)
    _walk.walk(context, stock, full=True)
    gone = levels.pop()
    _walk.walk(context, stock, full=True)
    _walk.walk(context, stock, full=True)
    with sessions() as session:
        row = session.scalars(select(StockLevel).where(StockLevel.source_id == gone.id)).one()
        moves = list(session.scalars(select(StockMovement).where(StockMovement.level_id == row.id)))
        assert session.scalar(text("SELECT count(*) FROM sightings")) == 0
    assert (row.on_hand, row.deleted_at is not None) == (0, True)
    assert sorted((move.kind, move.delta) for move in moves) == [("removal", -20), ("sync", 20)]
    levels.append(gone)
    _walk.walk(context, stock, full=True)
    with sessions() as session:
        row = session.scalars(select(StockLevel).where(StockLevel.source_id == gone.id)).one()
    assert (row.on_hand, row.deleted_at) == (20, None)
