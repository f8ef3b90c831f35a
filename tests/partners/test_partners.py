"""Partners that are described, not programmed: the walk, the ledger and the quarantine are those of the warehouse."""

import base64
import hmac
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any

import orjson
import pytest
from pydantic import ValidationError
from sqlalchemy import select, text
from sqlalchemy.orm import Session, sessionmaker

from integrations import (
    BadSignature,
    Cursor,
    Fields,
    Link,
    Listing,
    Number,
    Offset,
    PartnerSettings,
    Rejected,
    StockPartner,
    Throttled,
    Token,
    Unavailable,
)
from integrations._path import check_path, look
from integrations.warehouse import LevelItem, LocationItem, ProductItem
from jobs import Context, _stock, sync_partner
from jobs._stock import News
from models import Location, Quarantine, StockLevel, StockMovement, Stream
from tests.ledger import wrong_levels
from tests.partners.serving import Partner, Request, Response, Route, serving
from tests.partners.shopifylike import PATH, WebShop, WebShopSettings
from tests.partners.squarelike import Tills

BASE = datetime(2026, 11, 1, tzinfo=UTC)
Serve = Callable[[dict[str, Route]], Partner]
Item = dict[str, Any]
_bulks = count(1)


def moment(seconds: int) -> str:
    return (BASE + timedelta(seconds=seconds)).isoformat().replace("+00:00", "Z")


@pytest.fixture
def catalogue(sessions: sessionmaker[Session]) -> None:
    """Twenty products, and one level of the warehouse's own."""
    products = [
        {"id": f"prod_{n}", "sku": f"SKU-{n}", "name": f"Product {n}", "version": 1, "updated_at": moment(0)}
        for n in range(20)
    ]
    level = {"id": "il_1", "sku": "SKU-1", "location_id": "loc_1", "on_hand": 70, "reserved": 0, "version": 1}
    with sessions.begin() as session:
        _stock.apply_products(session, [ProductItem.model_validate(one) for one in products], News("sync", 1))
        _stock.apply_locations(session, [LocationItem(id="loc_1", name="Store 1")])
        items = [LevelItem.model_validate({**level, "updated_at": moment(0)})]
        _stock.apply_levels(session, items, News("sync", 1))


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Return a function that starts a partner's server for the length of the test."""
    running = []

    def start(routes: dict[str, Route]) -> Partner:
        running.append(serving(routes))
        return running[-1].__enter__()

    yield start
    for one in running:
        one.__exit__(None, None, None)


def client(kind: type[StockPartner], partner: Partner) -> StockPartner:
    settings = kind.Settings.model_validate({"url": partner.url, "token": "shpat_secret"})
    assert isinstance(settings, PartnerSettings)
    return kind(settings)


def stock(sessions: sessionmaker[Session]) -> dict[str, int]:
    """On-hand by id of what is there; the ledger has to add up to it."""
    with sessions() as session:
        assert wrong_levels(session) == []
        rows = session.scalars(select(StockLevel).where(StockLevel.deleted_at.is_(None)))
        return {row.source_id: row.on_hand for row in rows}


def set_aside(sessions: sessionmaker[Session]) -> dict[str | None, str]:
    with sessions() as session:
        rows = session.scalars(select(Quarantine).where(Quarantine.resolved_at.is_(None)))
        return {row.external_id: row.reason for row in rows}


class Tilling:
    """The till system: counts in its hands, three on a page, newest first."""

    def __init__(self) -> None:
        self.counts = [self.count(n, f"{n}.00000", n) for n in range(1, 8)]
        self.expire: set[str] = set()
        self.routes: dict[str, Route] = {
            "POST /v2/inventory/counts/batch-retrieve": self.page,
            "POST /v2/catalog/batch-retrieve": self.objects,
            "GET /v2/locations": lambda _: Response({"locations": [{"id": "L1", "name": "Corner of Main Street"}]}),
        }

    @staticmethod
    def count(number: int, quantity: str, seconds: int) -> Item:
        return {
            "catalog_object_id": f"OBJ{number}", "location_id": "L1", "state": "IN_STOCK", "quantity": quantity,
            "calculated_at": moment(seconds),
        }  # fmt: skip

    def page(self, request: Request) -> Response:
        after = request.body.get("updated_after", "")
        found = [one for one in self.counts if one["calculated_at"] > after]
        found.sort(key=lambda one: str(one["calculated_at"]), reverse=True)
        cursor = request.body.get("cursor", "0")
        if cursor in self.expire:
            self.expire.remove(cursor)
            return Response({"errors": [{"code": "INVALID_CURSOR"}]}, 400)
        end = int(cursor) + request.body["limit"]
        answer = {"counts": found[int(cursor) : end]}
        return Response(answer | ({"cursor": str(end)} if end < len(found) else {}))

    def objects(self, request: Request) -> Response:
        ids = request.body["object_ids"]
        return Response({"objects": [{"id": one, "item_variation_data": {"sku": f"SKU-{one[3:]}"}} for one in ids]})


@pytest.fixture
def tills() -> Tilling:
    """The till system's stock."""
    return Tilling()


@pytest.mark.usefixtures("catalogue")
def test_counts_newest_first_by_an_objects_id_and_as_decimal_text_become_levels_of_the_partner(
    serve: Serve, tills: Tilling, make_context: Callable[..., Context], sessions: sessionmaker[Session]
) -> None:
    partner = serve(tills.routes)
    tills.counts += [tills.count(8, "2.5", 8), tills.count(99, "1", 9)]
    context = make_context(client(Tills, partner))
    counts = sync_partner(context, Tills)["stock_levels"]
    assert stock(sessions) == {"il_1": 70, **{f"tills/OBJ{n}/L1": n for n in range(1, 8)}}
    assert (counts["seen"], counts["changed"], counts["quarantined"], counts["pages"]) == (9, 7, 2, 3)
    reasons = set_aside(sessions)
    assert "on_hand" in reasons["tills/OBJ8/L1"]
    assert reasons["tills/OBJ99/L1"] == "there is no product with sku SKU-99"
    with sessions() as session:
        stream = session.scalars(select(Stream).where(Stream.upstream == "tills")).one()
        places = session.scalars(select(Location.name).where(Location.upstream == "tills"))
        assert (stream.high_water, list(places)) == (BASE + timedelta(seconds=9), ["Corner of Main Street"])
    sent = partner.asked[0].headers | partner.asked[1].headers
    assert (sent["square-version"], sent["authorization"]) == ("2026-10-15", "Bearer shpat_secret")


@pytest.mark.usefixtures("catalogue")
def test_a_walk_newest_first_moves_the_mark_only_when_it_is_complete_and_loses_nothing_when_it_breaks(
    serve: Serve, tills: Tilling, make_context: Callable[..., Context], sessions: sessionmaker[Session]
) -> None:
    partner = serve(tills.routes)
    context = make_context(client(Tills, partner))
    page, asked = tills.page, []

    def breaking(request: Request) -> Response:
        asked.append(request)
        return Response({}, 501) if len(asked) == 2 else page(request)

    partner.routes["POST /v2/inventory/counts/batch-retrieve"] = breaking
    with pytest.raises(Unavailable):
        sync_partner(context, Tills)
    with sessions() as session:
        # The newest page is written: a mark at its end would skip the older ones for ever.
        assert session.scalars(select(Stream).where(Stream.upstream == "tills")).one().high_water is None
    tills.expire.add("3")  # and the place where it stood is forgotten there, so it begins again at its beginning
    sync_partner(context, Tills)
    assert len(stock(sessions)) == 8
    tills.counts.append(tills.count(1, "41.0", 700))
    partner.asked.clear()
    again = sync_partner(context, Tills)["stock_levels"]
    assert (
        next(one for one in partner.asked if "counts" in one.path).body["updated_after"]
        == "2026-10-31T23:50:06.000000Z"
    )  # ten minutes, and one second as it excludes
    assert (stock(sessions)["tills/OBJ1/L1"], again["changed"]) == (41, 1)


@pytest.mark.usefixtures("catalogue")
def test_of_two_states_of_one_moment_the_one_read_later_stays_and_the_same_again_writes_nothing(
    serve: Serve, tills: Tilling, make_context: Callable[..., Context], sessions: sessionmaker[Session]
) -> None:
    partner = serve(tills.routes)
    context = make_context(client(Tills, partner))
    sync_partner(context, Tills)
    assert sync_partner(context, Tills)["stock_levels"]["changed"] == 0
    tills.counts[6]["quantity"] = "5"
    assert sync_partner(context, Tills)["stock_levels"]["changed"] == 1
    assert stock(sessions)["tills/OBJ7/L1"] == 5


@pytest.mark.usefixtures("catalogue")
def test_a_full_walk_misses_only_levels_of_its_own_upstream(
    serve: Serve, tills: Tilling, make_context: Callable[..., Context], sessions: sessionmaker[Session]
) -> None:
    tills.counts = [tills.count(n, "1", n) for n in range(1, 16)]
    context = make_context(client(Tills, serve(tills.routes)))
    sync_partner(context, Tills, full=True)
    del tills.counts[3]
    assert sync_partner(context, Tills, full=True)["stock_levels"]["deleted"] == 0
    assert sync_partner(context, Tills, full=True)["stock_levels"]["deleted"] == 1
    found = stock(sessions)
    assert ("il_1" in found, "tills/OBJ4/L1" in found, len(found)) == (True, False, 15)


class Exporting:
    """The web shop: levels in its hands, written out when asked, ready at the second look."""

    def __init__(self, levels: int) -> None:
        self.levels = {f"gid_{n}": self.level(n) for n in range(levels)}
        self.file = b""
        self.looks = 0
        self.about = ""
        self.address = "/files/export.jsonl?signature=very-secret"
        self.url = ""
        self.ranges = True
        self.routes: dict[str, Route] = {
            f"POST {PATH}": self.graphql,
            "GET /files/export.jsonl": self.piece,
            "GET /admin/api/2026-10/inventory_levels/": self.one,
        }

    @staticmethod
    def level(number: int) -> Item:
        quantities = [{"name": "available", "quantity": 4}, {"name": "on_hand", "quantity": 5 + number},
                      {"name": "committed", "quantity": 1}]  # fmt: skip
        return {
            "id": f"gid_{number}", "updatedAt": moment(number), "location": {"id": 77}, "quantities": quantities,
            "item": {"sku": f"SKU-{number}"}, "__parentId": f"item_{number}",
        }  # fmt: skip

    def graphql(self, request: Request) -> Response:
        if "mutation" in request.body["query"]:
            lines = [part for one in self.levels.values() for part in ({"id": one["__parentId"]}, one)]
            self.file = b"".join(orjson.dumps(line) + b"\n" for line in lines)
            self.looks = 0
            self.about = f"gid://Bulk/{next(_bulks)}"
            return Response({"data": {"bulkOperationRunQuery": {"bulkOperation": {"id": self.about}}}})
        assert request.body["variables"] == {"id": self.about}
        self.looks += 1
        done = {"status": "COMPLETED", "url": self.url + self.address}
        return Response({"data": {"bulkOperation": done if self.looks > 1 else {"status": "RUNNING", "url": None}}})

    def piece(self, request: Request) -> Response:
        if not self.ranges:
            return Response(self.file)
        first, last = (int(part) for part in request.headers["range"].removeprefix("bytes=").split("-"))
        body = self.file[first : last + 1]
        return Response(body, 206, {"Content-Range": f"bytes {first}-{first + len(body) - 1}/{len(self.file)}"})

    def one(self, request: Request) -> Response:
        found = self.levels.get(request.path.rpartition("/")[2].removesuffix(".json"))
        return Response({"inventory_level": found}) if found else Response({"errors": "Not Found"}, 404)


def until_written(context: Context) -> Item:
    """Sync as the executor would: an export that is not ready yet is a snooze."""
    with pytest.raises(Throttled, match="still writing its export"):
        sync_partner(context, WebShop)
    found: Item = sync_partner(context, WebShop)["stock_levels"]
    return found


@pytest.mark.usefixtures("catalogue")
@pytest.mark.parametrize("ranges", [True, False], ids=["in pieces", "from a server that knows no ranges"])
def test_an_export_is_waited_for_and_read_line_by_line_in_pieces(
    serve: Serve, make_context: Callable[..., Context], sessions: sessionmaker[Session], *, ranges: bool
) -> None:
    shop = Exporting(levels=20)
    shop.ranges = ranges
    partner = serve(shop.routes)
    shop.url = partner.url
    counts = until_written(make_context(client(WebShop, partner)))
    assert (counts["seen"], counts["changed"], counts["quarantined"]) == (20, 20, 0)
    assert stock(sessions) == {"il_1": 70, **{f"webshop/gid_{n}": 5 + n for n in range(20)}}
    files = [one for one in partner.asked if one.path.startswith("/files/")]
    assert len(files) == (3 if ranges else 1) or not ranges
    assert all("x-shopify-access-token" not in one.headers for one in files)
    posts = [one for one in partner.asked if one.path == PATH]
    assert {one.headers["x-shopify-access-token"] for one in posts} == {"shpat_secret"}
    with sessions() as session:
        # The address of the file is a credential: it is not kept.
        kept = session.execute(text("SELECT string_agg(s::text, '') FROM streams s")).scalar_one()
        assert "very-secret" not in kept


@pytest.mark.usefixtures("catalogue")
def test_a_level_that_an_export_lacks_is_asked_about_and_gone_at_a_404(
    serve: Serve, make_context: Callable[..., Context], sessions: sessionmaker[Session]
) -> None:
    shop = Exporting(levels=20)
    partner = serve(shop.routes)
    shop.url = partner.url
    context = make_context(client(WebShop, partner))
    until_written(context)
    forgotten = shop.levels.pop("gid_3")
    assert until_written(context)["deleted"] == 1
    assert "webshop/gid_3" not in stock(sessions)
    with sessions() as session:
        reasons = session.scalars(select(StockMovement.reason).where(StockMovement.kind == "removal"))
        assert list(reasons) == ["the upstream says that it is gone"]
    shop.levels["gid_3"] = forgotten  # it is back, unchanged
    assert until_written(context)["changed"] == 1
    assert stock(sessions)["webshop/gid_3"] == 8


@pytest.mark.usefixtures("catalogue")
def test_an_export_that_lies_on_another_server_inside_is_not_read(
    serve: Serve, make_context: Callable[..., Context]
) -> None:
    shop = Exporting(levels=2)
    elsewhere = serve({"GET /": lambda _: Response(b"")})
    partner = serve(shop.routes)
    shop.url = elsewhere.url
    context = make_context(client(WebShop, partner))
    with pytest.raises(Throttled):
        sync_partner(context, WebShop)
    with pytest.raises(Unavailable, match="keeps its export where we do not look"):
        sync_partner(context, WebShop)
    assert elsewhere.asked == []


def test_a_webhook_is_believed_by_the_hmac_of_its_bytes_in_base64() -> None:
    settings = {"url": "https://shop.example.com", "token": "x", "webhook_secrets": "new-secret,old-secret"}
    shop = WebShop(WebShopSettings.model_validate(settings))
    body = b'{"inventory_item_id": 4711, "location_id": 77, "available": 4}'
    headers = {
        "X-Shopify-Hmac-Sha256": base64.b64encode(hmac.digest(b"old-secret", body, "sha256")).decode(),
        "X-Shopify-Webhook-Id": "b54557e4", "X-Shopify-Topic": "inventory_levels/update",
    }  # fmt: skip
    said = shop.verify(headers, body, 0.0)
    assert (said.external_id, said.type, said.subject) == ("b54557e4", "inventory_levels/update", "4711")
    assert said.secret_index == 1
    with pytest.raises(BadSignature):
        shop.verify(headers, body + b" ", 0.0)


ITEMS = [
    {"id": f"il_{n:02}", "sku": f"SKU-{n}", "place": "main", "qty": n, "at": moment(n), "rev": 1} for n in range(13)
]
PLAIN = Fields(id="id", sku="sku", location_id="place", on_hand="qty", updated_at="at", version="rev", deleted="gone")


def cut(start: int) -> list[Item]:
    return ITEMS[start : start + 4]


def by_cursor(request: Request) -> Response:
    start = int(request.query.get("after", 0))
    assert "since" in request.query
    return Response({"data": cut(start), "meta": {"next": start + 4 if start + 4 < len(ITEMS) else None}})


def by_token(request: Request) -> Response:
    start = int(request.query.get("after", 0))
    assert ("since" in request.query) == (start == 0)
    return Response({"data": cut(start), "meta": {"next": str(start + 4) if start + 4 < len(ITEMS) else ""}})


def by_link(request: Request) -> Response:
    start = int(request.query.get("p", 0))
    host = request.headers["host"]
    link = f'<http://{host}/levels?p={start + 4}&keep=yes>; rel="next", <http://{host}/levels>; rel="first"'
    return Response({"data": cut(start)}, headers={"Link": link} if start + 4 < len(ITEMS) else {})


def by_number(request: Request) -> Response:
    return Response({"data": cut((int(request.query["page"]) - 1) * 4)})


def by_offset(request: Request) -> Response:
    return Response({"data": cut(int(request.query["offset"]))})


@pytest.mark.usefixtures("catalogue")
@pytest.mark.parametrize(
    ("paging", "route"),
    [
        (Cursor("meta.next", "after"), by_cursor),
        (Token("meta.next", "after"), by_token),
        (Link(), by_link),
        (Number(), by_number),
        (Offset(overlap=1), by_offset),
    ],
    ids=["cursor", "token", "link", "page", "offset"],
)
def test_every_way_of_paging_reads_everything_and_goes_on_where_it_broke(
    serve: Serve, make_context: Callable[..., Context], sessions: sessionmaker[Session], paging: Any, route: Route
) -> None:
    class Plain(StockPartner):
        name = "plain"
        stock = Listing(path="/levels", items="data", paging=paging, params={"since": "x"}, order="asc")
        fields = PLAIN

    asked: list[Request] = []

    def breaking(request: Request) -> Response:
        asked.append(request)
        return Response({}, 501) if len(asked) == 3 else route(request)

    context = make_context(client(Plain, serve({"GET /levels": breaking})))
    with pytest.raises(Unavailable):
        sync_partner(context, Plain)
    first = [asked[2].query, asked[2].path]
    sync_partner(context, Plain)
    assert [asked[3].query, asked[3].path] == first
    assert stock(sessions) == {"il_1": 70, **{f"plain/il_{n:02}": n for n in range(13)}}


@pytest.mark.usefixtures("catalogue")
def test_a_flag_deletes_and_a_link_to_another_server_is_refused(
    serve: Serve, make_context: Callable[..., Context], sessions: sessionmaker[Session]
) -> None:
    class Flagging(StockPartner):
        name = "flagging"
        stock = Listing(path="/levels", paging=Link())
        fields = Fields(id="id", sku="sku", location_id="place", on_hand="qty", updated_at="at", deleted="state",
                        deleted_when="archived")  # fmt: skip
        deletion = "flag"

    pages = [[ITEMS[1]], [{**ITEMS[1], "at": moment(50), "state": "archived", "qty": None}]]
    partner = serve({"GET /levels": lambda _: Response(pages.pop(0))})
    context = make_context(client(Flagging, partner))
    sync_partner(context, Flagging)
    assert "flagging/il_01" in stock(sessions)
    sync_partner(context, Flagging)
    assert "flagging/il_01" not in stock(sessions)
    partner.routes["GET /levels"] = lambda _: Response([], headers={"Link": "<http://127.0.0.1:9/>; rel=next"})
    with pytest.raises((Rejected, Unavailable), match="link to another server"):
        sync_partner(context, Flagging)


def test_the_moment_is_asked_for_as_the_partner_wants_it() -> None:
    since = datetime(2026, 11, 23, 6, tzinfo=UTC)
    asked = Listing(path="/", since="after", params={"size": 9}).filters(since)
    assert asked == {"size": 9, "after": "2026-11-23T06:00:00.000000Z"}
    epoch = Listing(path="/", since="after", since_as="epoch", since_inclusive=False)
    assert (epoch.filters(since), epoch.filters(None)) == ({"after": str(int(since.timestamp()) - 1)}, {})
    assert Listing(path="/").filters(since) == {}


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"fields": Fields(id="i", location_id="l", on_hand="q", updated_at="u")}, "where the sku lies"),
        ({"fields": PLAIN, "deletion": "404"}, "where one level is asked for"),
        (
            {"fields": Fields(id="i", sku="s", location_id="l", on_hand="q", updated_at="u"), "deletion": "flag"},
            "say where it lies",
        ),
    ],
)
def test_a_description_that_contradicts_itself_is_refused_when_it_is_imported(options: Item, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        type("Odd", (StockPartner,), {"name": "odd", "stock": Listing(path="/"), **options})


def test_paths_are_followed_as_far_as_they_lead() -> None:
    raw = {"a": {"b": 1}, "list": [{"name": "x", "v": 1}, 3, {"name": "y", "v": 2}]}
    assert [look(raw, path) for path in ("a.b", "list[name=y].v", "a.c.d", "list.v", "list[name=z].v", "a[b=1]")] == [
        1, 2, None, None, None, None,
    ]  # fmt: skip
    for wrong in ("", "a..b", "a[b]", "a[b=c"):
        with pytest.raises(ValueError, match="is no path"):
            check_path(wrong)


@pytest.mark.parametrize("quantity", ["1E+999999999", "NaN", "Infinity", "2.5", "x", "1" * 60])
def test_decimal_text_that_is_no_whole_number_is_refused_and_harms_nobody(quantity: str) -> None:
    fields = Fields(id="id", sku="sku", location_id="place", on_hand="qty", updated_at="at", decimals=True)
    drawn = fields.draw({**ITEMS[1], "qty": quantity})
    with pytest.raises(ValidationError, match="on_hand"):
        LevelItem.model_validate({"reserved": 0, "version": 0, **drawn})
    assert fields.draw({**ITEMS[1], "qty": "-12.000"})["on_hand"] == -12
