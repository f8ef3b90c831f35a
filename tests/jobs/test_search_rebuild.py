"""A rebuild replaces the index under full life, from wherever an earlier one died, and there is a way back."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Event
from typing import Any

import pytest
from sqlalchemy import Engine, update
from sqlalchemy.orm import Session

from integrations import Rejected, Throttled
from integrations.elasticsearch import BulkOutcome, Elasticsearch, ElasticsearchSettings
from jobs import Cancel, Interrupted, search
from jobs._documents import ALIAS, MAPPING
from jobs._generations import build_lock, look
from jobs._search_differences import compare
from models import Generation
from sandbox.services import Services
from tests.jobs.test_search import CLEAN, Shop

MANY = 30


@pytest.fixture
def shop(engine: Engine, services: Services, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shop]:
    monkeypatch.setattr("jobs._search_rebuild.BATCH", 10)  # so that few products make several batches
    made = Shop(engine, services.search.url)
    yield made.open(many=MANY)
    made.close()


class Crash(BaseException):
    """Stands for the end of the process: nothing may catch it."""


class Mortal(Elasticsearch):
    """A search server whose client dies right before or right after its n-th writing call."""

    def __init__(self, address: str, *, dies_at: int, after: bool) -> None:
        super().__init__(ElasticsearchSettings(url=address))
        self.left = dies_at
        self.after = after

    def mortal(self, act: Callable[[], Any]) -> Any:
        self.left -= 1
        if self.left == 0 and not self.after:
            raise Crash
        result = act()
        if self.left == 0:
            raise Crash
        return result

    def create_index(
        self,
        name: str,
        mapping: Mapping[str, Any],
        settings: Mapping[str, Any] | None = None,
        aliases: Sequence[str] = (),
    ) -> None:
        self.mortal(lambda: super(Mortal, self).create_index(name, mapping, settings, aliases))

    def bulk(self, ndjson: bytes, *, require_alias: bool = False) -> BulkOutcome:
        outcome: BulkOutcome = self.mortal(lambda: super(Mortal, self).bulk(ndjson, require_alias=require_alias))
        return outcome

    def refresh(self, index: str) -> None:
        self.mortal(lambda: super(Mortal, self).refresh(index))

    def put_settings(self, index: str, settings: Mapping[str, Any]) -> None:
        self.mortal(lambda: super(Mortal, self).put_settings(index, settings))

    def swap_alias(
        self, alias: str, *, add: Sequence[str], remove: Sequence[str] = (), remove_index: str | None = None
    ) -> None:
        self.mortal(lambda: super(Mortal, self).swap_alias(alias, add=add, remove=remove, remove_index=remove_index))

    def delete_index(self, name: str) -> bool:
        return bool(self.mortal(lambda: super(Mortal, self).delete_index(name)))


def equal_everywhere(shop: Shop) -> bool:
    """Whether every generation equals the database, document by document."""
    context = shop.context()
    seen = look(context)
    return seen.intact and all(not compare(context, g).drift for g in seen.generations)


def test_a_rebuild_replaces_the_index_and_keeps_the_previous_one(shop: Shop) -> None:
    shop.index()
    (before,) = shop.es.alias_targets(ALIAS)

    built = search.rebuild(shop.context()) or {}

    assert shop.es.alias_targets(ALIAS) == [built["index"]] != [before]
    assert {(g.index, g.state) for g in shop.status().generations} == {(before, "previous"), (built["index"], "live")}
    assert equal_everywhere(shop)


def test_only_one_previous_generation_is_kept(shop: Shop) -> None:
    for _ in range(3):
        search.rebuild(shop.context())

    assert len(shop.es.indices(f"{ALIAS}-*")) == 2
    assert shop.status().strangers == []


def test_a_rollback_shows_the_previous_index_with_everything_that_happened_since(shop: Shop) -> None:
    shop.index()
    (before,) = shop.es.alias_targets(ALIAS)
    search.rebuild(shop.context())
    shop.do("UPDATE products SET price = 50 WHERE id = 3")
    shop.do("UPDATE products SET deleted_at = now() WHERE id = 4")
    shop.index()

    search.rollback(shop.context())

    assert shop.es.alias_targets(ALIAS) == [before]
    assert (shop.document(3) or {})["price_cents"] == 50
    assert shop.document(4) is None
    assert equal_everywhere(shop)
    search.rollback(shop.context())  # and forth again
    assert shop.es.alias_targets(ALIAS) != [before]
    assert equal_everywhere(shop)


def test_a_rollback_without_a_previous_index_is_refused(shop: Shop) -> None:
    shop.index()

    with pytest.raises(Cancel, match="no previous generation"):
        search.rollback(shop.context())


@pytest.mark.parametrize("action", [search.rebuild, search.rollback])
def test_nobody_moves_generations_while_a_rebuild_runs(shop: Shop, action: Callable[..., Any]) -> None:
    shop.index()
    with build_lock(shop.context()) as ours:
        assert ours

        with pytest.raises(Cancel, match="a rebuild is"):
            action(shop.context())

        assert shop.index()["built"] is False  # changes flow all the same


def test_two_rebuilds_at_once_end_with_one_new_index(shop: Shop) -> None:
    shop.index()
    with ThreadPoolExecutor(2) as pool:
        tries = [pool.submit(search.rebuild, shop.context()) for _ in range(2)]
    refused = [t.exception() for t in tries if t.exception()]

    assert all(isinstance(error, Cancel) for error in refused)
    assert len(refused) < 2
    assert [g.state for g in shop.status().generations].count("live") == 1
    assert equal_everywhere(shop)


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_a_rebuild_that_dies_at_any_step_is_finished_by_the_next_one(shop: Shop, after: bool) -> None:
    shop.index()
    search.rebuild(shop.context())
    deaths = 0
    while True:
        mortal = Mortal(shop.address, dies_at=deaths + 1, after=after)
        try:
            search.rebuild(shop.context(mortal))
            break
        except Crash:
            deaths += 1
        finally:
            mortal.close()
        # Searches never notice: one index behind the alias, complete.
        assert len(shop.es.alias_targets(ALIAS)) == 1
        assert shop.documents() == MANY
        shop.do(f"UPDATE products SET price = price + 1 WHERE id % 7 = {deaths % 7}")
        shop.index()
        assert shop.verify() == CLEAN
        search.rebuild(shop.context())
        assert equal_everywhere(shop)
        assert len(shop.es.indices(f"{ALIAS}-*")) == 2
    assert deaths >= 9  # create, three bulks, refreshes, settings, swap, delete


def test_a_rebuild_continues_where_the_last_one_stopped(shop: Shop) -> None:
    shop.index()
    mortal = Mortal(shop.address, dies_at=4, after=False)  # after create and two batches
    with pytest.raises(Crash):
        search.rebuild(shop.context(mortal))
    mortal.close()
    (unfinished,) = [g for g in shop.status().generations if g.state == "building"]
    assert unfinished.scanned_to == 20

    built = search.rebuild(shop.context()) or {}

    assert built["index"] == unfinished.index
    assert equal_everywhere(shop)


def test_an_unfinished_index_with_an_old_mapping_is_not_continued(shop: Shop) -> None:
    shop.index()
    mortal = Mortal(shop.address, dies_at=4, after=False)
    with pytest.raises(Crash):
        search.rebuild(shop.context(mortal))
    mortal.close()
    with Session(shop.engine) as session, session.begin():
        session.execute(update(Generation).where(Generation.state == "building").values(mapping_hash="old"))

    search.rebuild(shop.context())

    assert len(shop.es.indices(f"{ALIAS}-*")) == 2
    assert equal_everywhere(shop)


def test_changes_made_during_a_rebuild_reach_both_indices(shop: Shop) -> None:
    """Writers, followers and a rebuild at the same time; at rest nothing differs anywhere."""
    shop.index()
    end = Event()

    def write(seed: int) -> None:
        turn = seed
        while not end.is_set():
            turn += 1
            shop.do(f"UPDATE products SET price = price + 1 WHERE id % 5 = {turn % 5} AND id % 2 = {seed}")
            shop.do(f"UPDATE products SET deleted_at = now() WHERE id = {turn % MANY + 1}")
            shop.do(f"UPDATE stock_levels SET on_hand = on_hand + 1 WHERE product_id = {turn * 3 % MANY + 1}")
            shop.do(f"UPDATE products SET deleted_at = NULL WHERE id = {turn % MANY + 1}")

    def follow() -> None:
        while not end.is_set():
            shop.index()

    def build() -> None:
        try:
            for _ in range(3):
                search.rebuild(shop.context())
        finally:
            end.set()

    with ThreadPoolExecutor(5) as pool:
        work = [pool.submit(write, 0), pool.submit(write, 1), pool.submit(follow), pool.submit(follow)]
        work.append(pool.submit(build))
    for task in work:
        task.result()
    shop.do("UPDATE search_changes SET due_at = now()")
    shop.index()

    assert shop.number("SELECT count(*) FROM search_changes") == 0
    assert shop.verify() == CLEAN
    assert equal_everywhere(shop)


def test_changes_that_wait_when_a_rebuild_starts_reach_the_previous_index_too(shop: Shop) -> None:
    shop.index()
    shop.do("UPDATE products SET price = 50 WHERE id = 3")

    search.rebuild(shop.context())

    assert equal_everywhere(shop)


def test_a_new_index_with_many_refused_documents_does_not_replace_a_good_one(shop: Shop) -> None:
    shop.index()
    (before,) = shop.es.alias_targets(ALIAS)
    shop.do("UPDATE products SET updated_at = 'infinity' WHERE id <= 21")

    with pytest.raises(Rejected, match="21 of 30 products were refused"):
        search.rebuild(shop.context())

    assert shop.es.alias_targets(ALIAS) == [before]
    assert list(shop.es.indices(f"{ALIAS}-*")) == [before]


def test_a_few_refused_documents_do_not_hold_up_a_rebuild(shop: Shop) -> None:
    shop.index()
    shop.do("UPDATE products SET updated_at = 'infinity' WHERE id <= 2")

    search.rebuild(shop.context())

    assert shop.verify() == {**CLEAN, "rejected": 2}


def test_an_index_lost_in_the_middle_of_a_rebuild_means_starting_over_not_giving_up(shop: Shop) -> None:
    shop.index()

    class Forgetful(Elasticsearch):
        """Loses the index right before its first refresh."""

        def refresh(self, index: str) -> None:
            self.delete_index(index)
            super().refresh(index)

    with pytest.raises(Throttled, match="start over"):
        search.rebuild(shop.context(Forgetful(ElasticsearchSettings(url=shop.address))))

    search.rebuild(shop.context())
    assert equal_everywhere(shop)


def test_a_batch_never_makes_up_a_missing_index(shop: Shop) -> None:
    shop.index()
    (live,) = shop.es.alias_targets(ALIAS)

    class Racing(Elasticsearch):
        """Loses the live index between the look at it and the batch."""

        def bulk(self, ndjson: bytes, *, require_alias: bool = False) -> BulkOutcome:
            self.delete_index(live)
            return super().bulk(ndjson, require_alias=require_alias)

    shop.do("UPDATE products SET deleted_at = now() WHERE id = 3")
    shop.do("UPDATE products SET price = 50 WHERE id = 4")
    result = search.index_changes(shop.context(Racing(ElasticsearchSettings(url=shop.address)))) or {}
    assert result["postponed"] == 1  # not taken for delivered
    shop.index()

    assert live not in shop.es.indices(f"{ALIAS}*")
    assert shop.verify() == CLEAN
    assert len(shop.es.indices(f"{ALIAS}*")) == 1  # the delete made one up; it is swept


def test_a_rebuild_stops_where_it_is_when_the_worker_stops(shop: Shop) -> None:
    shop.index()
    context = shop.context()
    context.stop.interrupted = True

    with pytest.raises(Interrupted):
        search.rebuild(context)

    search.rebuild(shop.context())
    assert equal_everywhere(shop)


def test_indices_of_other_installations_are_left_alone(shop: Shop) -> None:
    shop.es.create_index("products-of-somebody-else", MAPPING)

    shop.index()
    search.rebuild(shop.context())

    assert "products-of-somebody-else" in shop.es.indices(f"{ALIAS}-*")
