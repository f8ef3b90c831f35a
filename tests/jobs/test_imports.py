"""Counted stock from a file: through the guard, the ledger and the quarantine, once, and on where it broke."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import Engine, func, select, text
from sqlalchemy.orm import Session, sessionmaker

from integrations.warehouse import LevelItem, LocationItem, ProductItem
from jobs import Context, _stock_files, imports, maintenance
from jobs._stock import News, apply_levels, apply_locations, apply_products
from models import Quarantine, Run, StockFile, StockFilePart, StockLevel, StockMovement
from tests.ledger import wrong_levels
from workers import actions
from workers.actions import Refused

BEFORE = datetime(2026, 11, 1, tzinfo=UTC)
HEAD = b"sku,location,on_hand\n"


def level(number: int, on_hand: int, moment: datetime = BEFORE, version: int = 7) -> LevelItem:
    values = {"id": f"il_{number}", "sku": f"SKU-{number}", "location_id": "loc_1", "on_hand": on_hand, "reserved": 1}
    return LevelItem.model_validate({**values, "version": version, "updated_at": moment.isoformat()})


@pytest.fixture(autouse=True)
def shop(sessions: sessionmaker[Session]) -> None:
    """Nine products, of which the warehouse has told us three levels of ten each."""
    product = {"version": 1, "updated_at": BEFORE.isoformat()}
    products = [{**product, "id": f"prod_{n}", "sku": f"SKU-{n}", "name": f"Product {n}"} for n in range(9)]
    with sessions.begin() as session:
        apply_products(session, [ProductItem.model_validate(one) for one in products], News("sync", 1))
        apply_locations(session, [LocationItem(id="loc_1", name="Main Street"), LocationItem(id="loc_2", name="Pier")])
        apply_levels(session, [level(n, 10) for n in range(3)], News("sync", 1))


@pytest.fixture
def give(engine: Engine, make_context: Callable[..., Context]) -> Callable[..., dict[str, int]]:
    """Return a function that takes a file in and runs its job, if one was asked for."""

    def take(content: bytes, name: str = "count.csv") -> dict[str, int]:
        taken = actions.import_stock(engine, name, lambda: [content[:30], content[30:]], by="kim")
        return imports.stock(make_context(run_id=50), file_id=taken.file_id) or {} if taken.run_id else {}

    return take


def stock(sessions: sessionmaker[Session]) -> dict[tuple[int, int], int]:
    """On-hand by product and location; the ledger has to add up to it."""
    with sessions() as session:
        assert wrong_levels(session) == []
        rows = session.scalars(select(StockLevel).where(StockLevel.deleted_at.is_(None)))
        return {(row.product_id, row.location_id): row.on_hand for row in rows}


def test_a_file_sets_figures_with_movements_and_leaves_what_is_the_upstreams(
    give: Callable[..., Any], sessions: sessionmaker[Session]
) -> None:
    counts = give(
        HEAD + b"SKU-0,loc_1,4\nSKU-1,Main Street,10\nSKU-5,Pier,-2\nSKU-77,loc_1,1\nSKU-2,loc_9,1\nSKU-2,loc_1,x\n"
    )
    assert counts == {"seen": 6, "changed": 2, "unchanged": 1, "older": 0, "quarantined": 3}
    assert stock(sessions) == {(1, 1): 4, (2, 1): 10, (3, 1): 10, (6, 2): -2}
    with sessions() as session:
        row = session.scalars(select(StockLevel).where(StockLevel.source_id == "il_0")).one()
        assert (row.source_version, row.source_reserved, row.oversold) == (7, 1, False)
        moves = session.execute(select(StockMovement.delta, StockMovement.run_id).where(StockMovement.kind == "import"))
        assert sorted(map(tuple, moves)) == [(-6, 50), (-2, 50)]
        reasons = {row.external_id: row.reason for row in session.scalars(select(Quarantine))}
    assert reasons == {
        "SKU-77 at loc_1": "there is no product with sku SKU-77",
        "SKU-2 at loc_9": "there is no location loc_9",
        "SKU-2 at loc_1": "line 7: on_hand must be a whole number, not a fraction or text",
    }
    give(HEAD + b"SKU-2,loc_1,3\n")
    with sessions() as session:
        left = session.scalars(select(Quarantine.external_id).where(Quarantine.resolved_at.is_(None)))
        assert set(left) == {"SKU-77 at loc_1", "SKU-2 at loc_9"}


def test_a_file_given_twice_changes_nothing_and_asks_for_no_run(
    give: Callable[..., Any], sessions: sessionmaker[Session]
) -> None:
    content = HEAD + b"SKU-0,loc_1,4\n"
    give(content)
    with sessions.begin() as session:
        apply_levels(session, [level(0, 9, datetime.now(UTC) + timedelta(hours=1))], News("sync", 1))
    assert give(content, name="again.csv") == {}
    assert stock(sessions)[1, 1] == 9
    with sessions() as session:
        assert session.scalar(select(func.count()).select_from(Run)) == 1
        assert session.scalar(select(func.count()).select_from(StockFilePart)) == 0


def test_the_later_of_a_count_and_an_upstreams_news_stays_and_of_two_rows_the_last(
    give: Callable[..., Any], sessions: sessionmaker[Session]
) -> None:
    later = datetime.now(UTC) + timedelta(hours=1)
    with sessions.begin() as session:
        apply_levels(session, [level(0, 9, later, version=8)], News("sync", 1))
    counts = give(HEAD + b"SKU-0,loc_1,4\nSKU-1,loc_1,5\nSKU-1,Main Street,6\n")
    assert (counts["older"], counts["changed"], counts["unchanged"]) == (1, 1, 1)
    with sessions.begin() as session:
        apply_levels(session, [level(1, 99, BEFORE + timedelta(days=1), version=8)], News("sync", 1))
    assert stock(sessions) == {(1, 1): 9, (2, 1): 6, (3, 1): 10}


def test_where_a_file_was_first_the_warehouses_level_takes_over_the_row(
    give: Callable[..., Any], sessions: sessionmaker[Session]
) -> None:
    give(HEAD + b"SKU-5,loc_1,3\n")
    with sessions.begin() as session:
        applied = apply_levels(session, [level(5, 8, datetime.now(UTC) + timedelta(hours=1))], News("sync", 1))
    assert applied.misfits == []
    assert stock(sessions)[6, 1] == 8
    with sessions() as session:
        assert session.scalar(select(StockLevel.source_id).where(StockLevel.product_id == 6)) == "il_5"


def test_an_import_goes_on_behind_its_last_page_after_a_crash(
    give: Callable[..., Any], sessions: sessionmaker[Session], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_stock_files, "PAGE", 2)
    write, written = _stock_files.write, []

    def dying(session: Session, rows: Any, *rest: Any) -> dict[str, int]:
        done = write(session, rows, *rest)
        written.append([row.line for row in rows])
        if len(written) == 2:
            raise InterruptedError("the process dies before the commit")
        return done

    monkeypatch.setattr(_stock_files, "write", dying)
    content = HEAD + b"".join(b"SKU-%d,loc_1,%d\n" % (n, n) for n in range(5))
    with pytest.raises(InterruptedError):
        give(content)
    assert len(stock(sessions)) == 3
    assert give(content)["seen"] == 5
    assert written == [[2, 3], [4, 5], [4, 5], [6]]
    assert stock(sessions) == {(n + 1, 1): n for n in range(5)}


def test_an_upload_that_breaks_off_goes_on_behind_the_last_piece_that_was_kept(
    engine: Engine, sessions: sessionmaker[Session], make_context: Callable[..., Context]
) -> None:
    pieces = [HEAD, b"SKU-0,loc_1,1\n", b"SKU-1,loc_1,1\n"]
    opened = []

    def breaking() -> Iterator[bytes]:
        opened.append(1)
        for piece in pieces:
            if len(opened) == 2 and piece is pieces[2]:
                raise OSError("the disk is away")
            yield piece

    with pytest.raises(OSError, match="away"):
        actions.import_stock(engine, "count.csv", breaking, by="kim")
    with sessions.begin() as session:
        session.execute(text("UPDATE stock_file_parts SET content = content || '\\x0a'::bytea WHERE number = 1"))
    taken = actions.import_stock(engine, "count.csv", breaking, by="kim")
    assert imports.stock(make_context(), file_id=taken.file_id) == {
        "seen": 2, "changed": 2, "unchanged": 0, "older": 0, "quarantined": 0,
    }  # fmt: skip
    with sessions() as session:
        assert (
            session.scalars(select(StockFile)).one().lines == 4
        )  # the kept piece, with its empty line, was not sent again


def test_an_upload_that_nobody_goes_on_with_is_let_go_after_a_week(
    engine: Engine, sessions: sessionmaker[Session], make_context: Callable[..., Context]
) -> None:
    actions.import_stock(engine, "asked for", lambda: [HEAD + b"SKU-0,loc_1,4\n"], by="kim")
    with sessions.begin() as session:
        session.add_all([StockFile(digest=name, name=name) for name in ("old", "new")])
        session.execute(text("UPDATE stock_files SET counted_at = now() - interval '8 days' WHERE name <> 'new'"))
    maintenance.prune(make_context())
    with sessions() as session:
        assert set(session.scalars(select(StockFile.name))) == {"asked for", "new"}


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"sku,on_hand\n", "line 1 must name the columns"),
        (HEAD, "it has no row"),
        (HEAD + b"SKU-0,loc_1,4\nSKU-1,loc_1\n", "line 3 has 2 cells"),
        (
            HEAD + b"SKU-0,loc_1,many\n" * 21 + b"SKU-1,loc_1,4\n",
            "too many of its 22 rows are malformed, the first: line 2",
        ),
    ],
)
def test_a_file_that_cannot_be_meant_is_refused_before_anything_is_kept(
    engine: Engine, sessions: sessionmaker[Session], content: bytes, complaint: str
) -> None:
    with pytest.raises(Refused, match=complaint):
        actions.import_stock(engine, "count.csv", lambda: [content], by="kim")
    with sessions() as session:
        assert session.scalar(select(func.count()).select_from(StockFile)) == 0


def test_a_dry_run_says_what_would_happen_and_changes_nothing(sessions: sessionmaker[Session]) -> None:
    content = HEAD + b"SKU-0,loc_1,4\nSKU-1,loc_1,10\nSKU-77,loc_1,1\n"
    with sessions() as session:
        counts = actions.try_import(session, lambda: [content])
        assert counts == {"seen": 3, "changed": 1, "unchanged": 1, "older": 0, "quarantined": 1}
        assert session.scalar(select(func.count()).select_from(StockFile)) == 0
    assert stock(sessions)[1, 1] == 10
