"""A delivery keeps the newest state whoever ends last, and one bad product never holds up the others."""

from collections.abc import Iterator

import pytest
from sqlalchemy import Engine, event

from integrations import Rejected, Unavailable
from integrations.elasticsearch import BulkOutcome, Elasticsearch, ElasticsearchSettings
from jobs import search
from jobs._documents import ALIAS
from jobs._generations import write_alias
from sandbox.services import Services
from tests.jobs.test_search import CLEAN, Shop


@pytest.fixture
def shop(engine: Engine, services: Services) -> Iterator[Shop]:
    made = Shop(engine, services.search.url)
    yield made.open(many=30)
    made.close()


def test_an_old_message_does_not_raise_the_dead(shop: Shop) -> None:
    shop.index()
    late = _line_for(shop, shop.number("SELECT nextval('search_versions')"))
    shop.do("UPDATE products SET deleted_at = now() WHERE id = 3")
    shop.index()

    outcome = shop.es.bulk(late, require_alias=True)

    assert outcome.statuses == [409]
    assert shop.document(3) is None


def _line_for(shop: Shop, version: int) -> bytes:
    (index,) = shop.es.alias_targets(ALIAS)
    action = (
        f'{{"index":{{"_index":"{write_alias(index)}","_id":"3","version":{version},"version_type":"external_gte"}}}}'
    )
    return f'{action}\n{{"id":3}}\n'.encode()


def test_a_batch_too_large_for_one_request_goes_in_pieces(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jobs._search_delivery.LARGEST", 1_000)

    shop.index()

    assert shop.documents() == 30
    assert shop.verify() == CLEAN


def test_a_poison_document_is_set_aside_alone_and_heals_with_the_next_change(shop: Shop) -> None:
    shop.index()

    # The index takes no date without an end; everything else of the statement is fine.
    shop.do("UPDATE products SET price = price + 1, updated_at = CASE id WHEN 3 THEN 'infinity' ELSE now() END")
    result = shop.index()

    assert (result["rejected"], result["postponed"]) == (1, 0)
    assert (shop.document(4) or {})["price_cents"] == 5
    assert shop.number("SELECT count(*) FROM search_changes") == 0
    assert shop.verify() == {**CLEAN, "rejected": 1}
    assert list(shop.status().reject_reasons) == [3]

    shop.do("UPDATE products SET price = 50, updated_at = now() WHERE id = 3")
    shop.index()

    assert shop.status().rejected == 0
    assert shop.verify() == CLEAN


class Away(Elasticsearch):
    """A search server that answers questions and takes no documents."""

    def bulk(self, ndjson: bytes, *, require_alias: bool = False) -> BulkOutcome:
        del ndjson, require_alias
        raise Unavailable("elasticsearch gave no answer", upstream="elasticsearch")


class Busy(Elasticsearch):
    """A search server that asks for patience line by line."""

    def bulk(self, ndjson: bytes, *, require_alias: bool = False) -> BulkOutcome:
        del require_alias
        lines = len(ndjson.splitlines()) // 2
        return BulkOutcome([429] * lines, ok=[], retry=list(range(lines)))


class Choosy(Elasticsearch):
    """A search server that refuses a request as a whole when product 3 is in it."""

    status = 0

    def bulk(self, ndjson: bytes, *, require_alias: bool = False) -> BulkOutcome:
        if b'"_id":"3"' in ndjson:
            raise Rejected("elasticsearch refused", upstream="elasticsearch", status=self.status)
        return super().bulk(ndjson, require_alias=require_alias)


@pytest.mark.parametrize("status", [400, 413])
def test_one_product_that_spoils_whole_requests_is_found_and_set_aside(shop: Shop, status: int) -> None:
    shop.index()
    shop.do("UPDATE products SET price = 50")
    choosy = Choosy(ElasticsearchSettings(url=shop.address))
    choosy.status = status

    result = search.index_changes(shop.context(choosy)) or {}
    choosy.close()

    assert (result["products"], result["rejected"]) == (30, 1)
    assert shop.verify() == {**CLEAN, "rejected": 1}
    assert list(shop.status().reject_reasons) == [3]


def test_a_refused_credential_blames_no_product(shop: Shop) -> None:
    shop.index()
    shop.do("UPDATE products SET price = 50 WHERE id = 3")
    choosy = Choosy(ElasticsearchSettings(url=shop.address))
    choosy.status = 401

    with pytest.raises(Rejected):
        search.index_changes(shop.context(choosy))
    choosy.close()

    assert shop.status().rejected == 0
    assert shop.number("SELECT count(*) FROM search_changes WHERE due_at <= now()") == 1


@pytest.mark.parametrize("moment", ["nextval", "external_gte"])
def test_of_two_racing_batches_the_newer_state_wins_whichever_ends_last(shop: Shop, moment: str) -> None:
    """One batch pauses after drawing its ordinal, or after reading; meanwhile another one goes all the way."""
    shop.index()
    shop.do("UPDATE products SET price = 50 WHERE id = 3")
    raced: list[str] = []

    @event.listens_for(shop.engine, "after_cursor_execute")
    def race(*details: object) -> None:
        if moment in str(details[2]) and not raced:
            raced.append(moment)
            shop.do("UPDATE products SET price = 60 WHERE id = 3")
            assert shop.index()["marks"] == 1

    shop.index()

    assert raced
    assert (shop.document(3) or {})["price_cents"] == 60
    assert shop.verify() == CLEAN


def test_marks_are_due_again_at_once_when_the_search_server_goes_away(shop: Shop) -> None:
    shop.index()
    shop.do("UPDATE products SET price = 50 WHERE id = 3")

    with pytest.raises(Unavailable):
        search.index_changes(shop.context(Away(ElasticsearchSettings(url=shop.address))))

    assert shop.number("SELECT count(*) FROM search_changes WHERE due_at <= now()") == 1
    shop.index()
    assert shop.verify() == CLEAN


def test_lines_that_the_index_cannot_take_now_come_back_later(shop: Shop) -> None:
    shop.index()
    shop.do("UPDATE products SET price = 50 WHERE id = 3")

    result = search.index_changes(shop.context(Busy(ElasticsearchSettings(url=shop.address)))) or {}

    assert result["postponed"] == 1
    assert shop.number("SELECT count(*) FROM search_changes WHERE due_at > now()") == 1
    assert shop.verify() == CLEAN  # it is on its way
    shop.do("UPDATE search_changes SET due_at = now()")
    shop.index()
    assert (shop.document(3) or {})["price_cents"] == 50


def test_an_older_database_still_wins_over_a_newer_index(shop: Shop) -> None:
    """After a restore the ordinals start below what the index has seen; they are brought up to the clock."""
    shop.index()
    shop.do("UPDATE products SET price = 50")
    shop.index()
    shop.do("SELECT setval('search_versions', 1)")

    shop.do("UPDATE products SET price = 60")
    shop.index()

    assert (shop.document(3) or {})["price_cents"] == 60
    assert shop.verify() == CLEAN
