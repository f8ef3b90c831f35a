"""The warehouse's jobs against the stand-in warehouse and the real Postgres: item by item the same at the end."""

import random
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from typing import Any

import orjson
import pytest
from sqlalchemy import select, text
from sqlalchemy.orm import Session, sessionmaker

import jobs
from integrations import Unavailable
from integrations.warehouse import Warehouse, WarehouseSettings
from jobs import Cancel, Context, _walk, warehouse
from models import Event, Location, Product, Quarantine, Run, StockLevel, Stream, Verdict
from sandbox.upstreams import Upstreams
from tests.ledger import wrong_levels

PRODUCTS, STORES = 300, 4
Item = dict[str, Any]
Sync = Callable[[], Context]
Tell = Callable[[str, Any], Item]
_ids = count(1)


@pytest.fixture(scope="module")
def running() -> Iterator[Upstreams]:
    """One stand-in for the module; every test finds it without faults."""
    with Upstreams.start(products=PRODUCTS, stores=STORES) as upstreams:
        yield upstreams


@pytest.fixture
def upstreams(running: Upstreams) -> Iterator[Upstreams]:
    """The stand-in, well again afterwards."""
    yield running
    running.admin.reset_faults()


@pytest.fixture
def client(upstreams: Upstreams) -> Iterator[Warehouse]:
    """Our client of the stand-in."""
    settings = WarehouseSettings.model_validate({"url": upstreams.warehouse_url, "token": upstreams.token})
    made = Warehouse(settings)
    yield made
    made.close()


@pytest.fixture
def context(client: Warehouse, make_context: Callable[..., Context]) -> Context:
    """A context whose warehouse is the stand-in."""
    return make_context(client)


@pytest.fixture
def tell(context: Context, sessions: sessionmaker[Session]) -> Tell:
    """Return a function that receives a webhook and runs its job."""

    def receive(event_type: str, data: Any) -> Item:
        body = data if isinstance(data, bytes) else orjson.dumps({"type": event_type, "data": data})
        with sessions.begin() as session:
            event = Event(
                source="warehouse", external_id=f"msg_{next(_ids)}", type=event_type, verdict=Verdict.ACCEPTED,
                headers={}, body=body,
            )  # fmt: skip
            session.add(event)
            session.flush()
            event_id = event.id
        return warehouse.apply_event(context, event_id=event_id) or {}

    return receive


def differences(upstreams: Upstreams, sessions: sessionmaker[Session]) -> list[str]:
    """Name what is not the same here and there, products and levels, tombstones and the ledger included."""
    with sessions() as session:
        prices = {
            p.source_id: (p.sku, p.name, p.price, p.deleted_at is not None) for p in session.scalars(select(Product))
        }
        stock = {
            s.source_id: (s.on_hand, s.source_reserved, s.incoming)
            for s in session.scalars(select(StockLevel).where(StockLevel.deleted_at.is_(None)))
        }
        found = [f"ledger {source_id}" for source_id in wrong_levels(session)]
    for item in upstreams.admin.products():
        price = item["price"]["amount"] if item["price"] else None
        ours = prices.pop(item["id"], None)
        if ours != (item["sku"], item["name"], price, item["deleted"]) and not (ours is None and item["deleted"]):
            found.append(item["id"])
    for item in upstreams.admin.levels():
        theirs = None if item["deleted"] else (item["on_hand"], item["reserved"], item["incoming"])
        if stock.pop(item["id"], None) != theirs:
            found.append(item["id"])
    return found + list(prices) + list(stock)


def open_rows(sessions: sessionmaker[Session]) -> list[Quarantine]:
    with sessions() as session:
        rows = select(Quarantine).where(Quarantine.resolved_at.is_(None)).order_by(Quarantine.id)
        return list(session.scalars(rows))


def a_level(upstreams: Upstreams) -> Item:
    alive = [item for item in upstreams.admin.levels() if not item["deleted"]]
    return alive[next(_ids) % len(alive)]


def until_done(job: Callable[[], Item | None], attempts: int) -> Item:
    """Run a job as the executor would, again after each failure that asks for it."""
    for _ in range(attempts - 1):
        try:
            return job() or {}
        except Unavailable:
            continue
    return job() or {}


def test_the_jobs_are_recorded_with_their_schedules_and_events() -> None:
    known = jobs.load()
    assert known["warehouse.sync"].schedule == jobs.every(hours=1)
    assert known["warehouse.walk"].schedule == jobs.cron("30 3 * * *")
    for event in ("inventory_level.updated", "inventory_level.deleted", "product.updated", "product.deleted"):
        handler = jobs.handler_of("warehouse", event)
        assert handler is not None
        assert handler.name == "warehouse.apply_event"


def test_a_first_sync_makes_us_equal_and_the_next_one_reads_only_changes(
    context: Context, upstreams: Upstreams, sessions: sessionmaker[Session]
) -> None:
    result = warehouse.sync(context) or {}
    assert result["locations"] == STORES
    assert result["products"]["seen"] == PRODUCTS
    assert result["stock_levels"]["seen"] == PRODUCTS * STORES
    assert differences(upstreams, sessions) == []
    upstreams.admin.sell(50)
    again = warehouse.sync(context) or {}
    assert 0 < again["stock_levels"]["seen"] < PRODUCTS * STORES / 2
    assert again["stock_levels"]["changed"] > 0
    assert differences(upstreams, sessions) == []


def test_a_quiet_hour_is_learnt_without_reading_anything(context: Context, sessions: sessionmaker[Session]) -> None:
    for _ in range(3):
        result = warehouse.sync(context) or {}
    assert result["products"]["not_modified"] == 1
    assert result["stock_levels"] | {"not_modified": 1} == result["stock_levels"]
    with sessions() as session:
        assert all(row.walk_full is None for row in session.scalars(select(Stream)))


def test_progress_names_the_stream_and_the_page(context: Context, notes: Any) -> None:
    warehouse.sync(context)
    assert notes.steps[0] == {"done": PRODUCTS, "total": None, "note": "products: page 1"}
    assert notes.steps[-1]["note"] == "stock_levels: page 3"


def test_renamed_locations_are_followed(context: Context, sessions: sessionmaker[Session]) -> None:
    warehouse.sync(context)
    with sessions.begin() as session:
        session.execute(text("UPDATE locations SET name = 'old', deleted_at = now()"))
    warehouse.sync(context)
    with sessions() as session:
        rows = list(session.scalars(select(Location)))
    assert all(row.name.startswith("Store") and row.deleted_at is None for row in rows)


@pytest.mark.parametrize(
    "faults",
    [
        {"moving_items": 5, "duplicate_items": 4},
        {"expire_cursors_rate": 0.3},
        {"error_rate": 0.1, "drop_connections_rate": 0.1, "page_not_json_rate": 0.1},
        {"clock_skew_s": 86_400},
    ],
    ids=["moving and repeated", "expiring", "failing", "skewed"],
)
def test_a_sync_through_faults_ends_equal(
    context: Context, upstreams: Upstreams, sessions: sessionmaker[Session], faults: dict[str, float]
) -> None:
    upstreams.admin.faults(**faults)
    until_done(lambda: warehouse.sync(context), attempts=10)
    upstreams.admin.reset_faults()
    upstreams.admin.sell(20)
    warehouse.sync(context)
    assert differences(upstreams, sessions) == []


@pytest.mark.parametrize(
    ("faults", "message"),
    [
        ({"endless_empty_pages": True}, "empty pages in a row"),
        ({"cursor_loop": True}, "a page that we have read|one we have read"),
        ({"malformed_rate": 0.9}, "items of a page are malformed"),
    ],
)
def test_an_upstream_that_leads_nowhere_is_left(
    context: Context, upstreams: Upstreams, faults: dict[str, Any], message: str
) -> None:
    upstreams.admin.faults(**faults)
    with pytest.raises(Unavailable, match=message):
        warehouse.sync(context)


def test_malformed_items_are_set_aside_and_fetched_again_by_id(
    context: Context, upstreams: Upstreams, sessions: sessionmaker[Session]
) -> None:
    upstreams.admin.faults(malformed_rate=0.05)
    result = warehouse.sync(context) or {}
    assert result["stock_levels"]["quarantined"] > 0
    assert result["stock_levels"]["refetched"] > 0
    assert all(row.external_id is None or "no product" in row.reason for row in open_rows(sessions))
    upstreams.admin.reset_faults()
    warehouse.sync(context)
    assert open_rows(sessions) == []
    assert differences(upstreams, sessions) == []


def test_items_that_stay_malformed_stay_set_aside_until_they_are_good(
    context: Context, upstreams: Upstreams, sessions: sessionmaker[Session]
) -> None:
    upstreams.admin.faults(malformed_rate=0.05, malformed_sticky=True)
    warehouse.sync(context)
    result = warehouse.refetch_quarantined(context) or {}
    assert result["stock_levels"]["still_bad"] == result["stock_levels"]["fetched"] > 0
    upstreams.admin.reset_faults()
    warehouse.refetch_quarantined(context)
    assert all(row.external_id is None or "no product" in row.reason for row in open_rows(sessions))


def test_a_quarantined_item_that_is_gone_is_closed(
    context: Context, tell: Tell, sessions: sessionmaker[Session]
) -> None:
    tell("inventory_level.updated", {"id": "il_nobody"})
    assert [row.external_id for row in open_rows(sessions)] == ["il_nobody"]
    result = warehouse.refetch_quarantined(context) or {}
    assert result["stock_levels"]["gone"] == 1
    assert open_rows(sessions) == []


def test_forty_updates_of_one_sku_that_came_in_any_order_are_one_run_and_one_change(
    context: Context, upstreams: Upstreams, sessions: sessionmaker[Session]
) -> None:
    warehouse.sync(context)
    level = a_level(upstreams)
    with sessions.begin() as session:
        session.execute(text("TRUNCATE search_changes"))
        session.execute(text("DELETE FROM runs"))
    versions = [
        {
            **level,
            "on_hand": number,
            "version": level["version"] + number,
            "updated_at": f"2031-01-01T00:00:{number:02}Z",
        }
        for number in range(1, 41)
    ]
    with sessions.begin() as session:
        for data in sorted(versions, key=lambda item: item["on_hand"] * 7 % 41):
            event = Event(
                source="warehouse", external_id=f"msg_{next(_ids)}", type="inventory_level.updated", headers={},
                verdict=Verdict.ACCEPTED, body=orjson.dumps({"type": "inventory_level.updated", "data": data}),
            )  # fmt: skip
            session.add(event)
            session.flush()
            jobs.answer(session, jobs.find("warehouse.apply_event"), event.id, event.body)
    with sessions() as session:
        ((run_id, event_id),) = session.execute(select(Run.id, Run.event_id)).all()
    context.run_id = run_id
    assert warehouse.apply_event(context, event_id=event_id or 0) == {"changed": 1, "quarantined": 0, "events": 40}
    with sessions() as session:
        assert session.scalar(select(StockLevel.on_hand).where(StockLevel.source_id == level["id"])) == 40
        assert session.scalar(text("SELECT count(DISTINCT product_id) FROM search_changes")) == 1
        assert session.scalar(text("SELECT count(*) FROM stock_movements WHERE kind = 'event'")) == 1


def test_a_webhook_and_a_sync_write_one_movement_between_them(
    context: Context, upstreams: Upstreams, sessions: sessionmaker[Session], tell: Tell
) -> None:
    warehouse.sync(context)
    item = a_level(upstreams)
    changed = upstreams.admin.change_level(item["id"], on_hand=item["on_hand"] - 90)
    assert tell("inventory_level.updated", changed) == {"changed": 1, "quarantined": 0}
    assert tell("inventory_level.updated", changed)["changed"] == 0
    assert tell("inventory_level.updated", item)["changed"] == 0
    warehouse.sync(context)
    with sessions() as session:
        moves = session.execute(
            text("""SELECT m.kind, m.delta FROM stock_movements m JOIN stock_levels l ON l.id = m.level_id
                    WHERE l.source_id = :id ORDER BY m.id"""),
            {"id": item["id"]},
        ).all()
    assert [tuple(move) for move in moves][-1] == ("event", -90)
    assert len(moves) == (2 if item["on_hand"] else 1)
    assert differences(upstreams, sessions) == []


def test_tombstones_arrive_by_webhook_and_by_sync_and_a_revived_item_returns(
    context: Context, upstreams: Upstreams, sessions: sessionmaker[Session], tell: Tell
) -> None:
    warehouse.sync(context)
    first, second = a_level(upstreams), a_level(upstreams)
    product = next(upstreams.admin.products())
    tell("inventory_level.deleted", upstreams.admin.change_level(first["id"], deleted=True))
    upstreams.admin.change_level(second["id"], deleted=True)
    upstreams.admin.change_product(product["id"], deleted=True)
    warehouse.sync(context)
    assert differences(upstreams, sessions) == []
    tell("inventory_level.updated", upstreams.admin.change_level(first["id"], on_hand=5))
    upstreams.admin.change_level(second["id"], on_hand=6)
    tell("product.updated", upstreams.admin.change_product(product["id"], name="Back again"))
    warehouse.sync(context)
    assert differences(upstreams, sessions) == []


def test_a_level_at_a_location_we_do_not_know_brings_the_location(
    context: Context, upstreams: Upstreams, sessions: sessionmaker[Session], tell: Tell
) -> None:
    _walk.walk(context, warehouse.PRODUCTS, full=False)
    assert tell("inventory_level.updated", a_level(upstreams)) == {"changed": 1, "quarantined": 0}
    with sessions() as session:
        assert len(list(session.scalars(select(Location)))) == STORES


def test_a_level_of_a_product_we_do_not_know_waits_for_the_product(
    context: Context, upstreams: Upstreams, sessions: sessionmaker[Session], tell: Tell
) -> None:
    item = a_level(upstreams)
    assert tell("inventory_level.updated", item) == {"changed": 0, "quarantined": 1}
    assert [row.reason for row in open_rows(sessions)] == [f"there is no product with sku {item['sku']}"]
    product = next(one for one in upstreams.admin.products() if one["sku"] == item["sku"])
    tell("product.updated", product)
    warehouse.refetch_quarantined(context)
    assert open_rows(sessions) == []
    with sessions() as session:
        assert session.scalars(select(StockLevel)).one().source_id == item["id"]


@pytest.mark.parametrize(
    "body", [b"not json", b"[]", b'{"type": "product.updated"}', b'{"data": {"id": 7}}', b"\0\xff"]
)
def test_a_body_that_cannot_be_read_is_set_aside_and_the_run_succeeds(
    sessions: sessionmaker[Session], tell: Tell, body: bytes
) -> None:
    result = tell("product.updated", body)
    assert (result["quarantined"], "note" in result) == (1, True)
    assert len(open_rows(sessions)) == 1


def test_an_event_that_is_no_longer_kept_ends_as_cancelled(context: Context) -> None:
    with pytest.raises(jobs.Cancel, match="event 999 is no longer kept"):
        warehouse.apply_event(context, event_id=999)


def test_a_full_walk_sees_everything(context: Context, sessions: sessionmaker[Session]) -> None:
    result = warehouse.walk(context) or {}
    assert result["stock_levels"]["seen"] == PRODUCTS * STORES
    with sessions() as session:
        assert all(row.full_walked_at is not None for row in session.scalars(select(Stream)))


def test_syncs_and_webhooks_side_by_side_end_equal(
    context: Context, upstreams: Upstreams, sessions: sessionmaker[Session], tell: Tell
) -> None:
    """Two writers at once, webhooks twice and shuffled: nothing waits in a circle and nothing is counted twice."""
    warehouse.sync(context)
    told = []
    for number in range(60):
        item = a_level(upstreams)
        told.append(upstreams.admin.change_level(item["id"], on_hand=number - 10))
    told += told[:30]
    random.Random(7).shuffle(told)

    def deliver(items: list[Item]) -> None:
        for item in items:
            tell("inventory_level.updated", item)

    with ThreadPoolExecutor(3) as pool:
        writers = [pool.submit(deliver, told[:45]), pool.submit(deliver, told[45:])]
        writers.append(pool.submit(lambda: warehouse.sync(context)))  # type: ignore[arg-type]
        for writer in writers:
            writer.result()
    warehouse.sync(context)
    assert differences(upstreams, sessions) == []


_OLD = """
    SELECT l.id FROM {0} l WHERE deleted_at IS NULL AND source_updated_at < (
        SELECT high_water - interval '1 hour' FROM streams WHERE name = '{0}') ORDER BY id
"""
_LEVELS, _PRODUCTS = _OLD.format("stock_levels"), _OLD.format("products")
SABOTAGE = (
    f"""INSERT INTO stock_movements (level_id, delta, kind, quantity_after, source_ref, occurred_at)
        SELECT id, 5, 'sync', 5, 'by hand', now() FROM stock_levels WHERE id IN ({_LEVELS} LIMIT 1)""",
    f"UPDATE stock_levels SET on_hand = on_hand + 5 WHERE id IN ({_LEVELS} LIMIT 1)",
    # It says that it is later than all that the warehouse has.
    f"UPDATE stock_levels SET incoming = 77, source_version = 9999 WHERE id IN ({_LEVELS} OFFSET 5 LIMIT 1)",
    f"UPDATE products SET name = 'Nonsense' WHERE id IN ({_PRODUCTS} LIMIT 3)",
    """INSERT INTO products (source_id, sku, name, source_version, source_updated_at)
       VALUES ('prod_of_nobody', 'NOBODY', 'Nobody', 1, '2020-01-01')""",
)


def test_verify_counts_what_differs_and_repair_makes_it_right(
    context: Context, upstreams: Upstreams, sessions: sessionmaker[Session]
) -> None:
    """Somebody wrote past the sync: versions are the same, so no sync would ever notice."""
    warehouse.sync(context)
    clean = {"missing": 0, "stale": 0, "orphans": 0, "repaired": 0, "quarantined": 0}
    for counts in (warehouse.verify(context) or {}).values():
        assert clean.items() <= counts.items()
        assert counts["source"] == counts["ours"] > 0
        assert counts["buckets_differing"] == 0
    with sessions.begin() as session:
        for statement in SABOTAGE:
            session.execute(text(statement))
    found = warehouse.verify(context) or {}
    assert [found["products"][kind] for kind in ("stale", "orphans", "buckets_differing")] == [3, 1, 1]
    assert found["stock_levels"]["stale"] == 2
    assert len(differences(upstreams, sessions)) == 6
    repaired = warehouse.verify(context, repair=True) or {}
    assert (repaired["products"]["repaired"], repaired["stock_levels"]["repaired"]) == (3, 2)
    assert differences(upstreams, sessions) == ["prod_of_nobody"]  # two full walks that miss it remove it
    again = warehouse.verify(context, stream="stock_levels") or {}
    assert clean.items() <= again["stock_levels"].items()
    assert list(again) == ["stock_levels"]


def test_what_changes_during_a_verification_is_on_its_way_and_not_drift(context: Context, upstreams: Upstreams) -> None:
    with pytest.raises(Cancel, match="not read to its end yet"):
        warehouse.verify(context)
    warehouse.sync(context)
    upstreams.admin.sell(30)
    upstreams.admin.faults(moving_items=40, duplicate_items=5, expire_cursors_rate=0.2)
    found = (warehouse.verify(context) or {})["stock_levels"]
    assert [found[kind] for kind in ("missing", "stale", "orphans")] == [0, 0, 0]
    assert found["on_its_way"] > 0
