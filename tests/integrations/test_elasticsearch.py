"""The search client against the embedded search server, and against servers that fail on purpose."""

from collections.abc import Iterable, Iterator
from itertools import count
from typing import Any

import orjson
import pytest

from integrations import IntegrationError, NotFound, Rejected, Unauthorized, Unavailable
from integrations.elasticsearch import Bucket, Elasticsearch, ElasticsearchSettings
from sandbox.services import Services
from tests.integrations.scripted import Scripted, break_off, hang_up, reply

MAPPING: dict[str, Any] = {
    "dynamic": "strict",
    "_meta": {"mapping_hash": "abc"},
    "properties": {"id": {"type": "long"}, "h": {"type": "long"}, "name": {"type": "text"}},
}
_numbers = count(1)


@pytest.fixture
def search(services: Services) -> Iterator[Elasticsearch]:
    made = Elasticsearch(ElasticsearchSettings(url=services.search.url))
    yield made
    made.close()


@pytest.fixture
def index(search: Elasticsearch) -> Iterator[str]:
    """A fresh index with its write alias `<name>-w`."""
    name = f"things-{next(_numbers)}"
    search.create_index(name, MAPPING, {"number_of_replicas": 0}, aliases=[f"{name}-w"])
    yield name
    search.delete_index(name)


@pytest.fixture
def odd(server: Scripted) -> Iterator[Elasticsearch]:
    """A client of the scripted server."""
    made = Elasticsearch(ElasticsearchSettings(url=server.url))
    yield made
    made.close()


def _lines(actions: Iterable[tuple[dict[str, Any], dict[str, Any] | None]]) -> bytes:
    documents = (part for pair in actions for part in pair if part is not None)
    return b"".join(orjson.dumps(document) + b"\n" for document in documents)


def _put(index: str, number: int, version: int = 1, **fields: object) -> tuple[dict[str, Any], dict[str, Any]]:
    action = {"_index": index, "_id": str(number), "version": version, "version_type": "external_gte"}
    return {"index": action}, {"id": number, "h": number * 10, "name": f"thing {number}", **fields}


def _drop(index: str, number: int, version: int = 1) -> tuple[dict[str, Any], None]:
    action = {"_index": index, "_id": str(number), "version": version, "version_type": "external_gte"}
    return {"delete": action}, None


def test_the_probe_is_content_with_a_server_that_answers(search: Elasticsearch) -> None:
    search.probe()


def test_an_index_is_made_found_and_deleted(search: Elasticsearch, index: str) -> None:
    assert search.index_exists(index)
    assert search.indices("things-*")[index] == {"mapping_hash": "abc"}
    assert search.alias_targets(f"{index}-w") == [index]
    with pytest.raises(Rejected) as caught:
        search.create_index(index, MAPPING)
    assert caught.value.code == "resource_already_exists_exception"
    assert search.delete_index(index)
    assert not search.index_exists(index)
    assert not search.delete_index(index)
    assert search.indices(f"{index}*") == {}
    assert search.alias_targets(f"{index}-w") == []


def test_a_batch_is_judged_line_by_line(search: Elasticsearch, index: str) -> None:
    alias = f"{index}-w"
    assert search.bulk(_lines([_put(alias, 1, 5), _put(alias, 2, 5)])).ok == [0, 1]
    outcome = search.bulk(
        _lines(
            [
                _put(alias, 3),
                _put(alias, 1, 4),
                _put(alias, 4, surprise=True),
                _drop(alias, 2, 6),
                _drop(alias, 99),
                _put(alias, 5, h="NaN"),
                _put("nowhere", 6),
            ]
        ),
        require_alias=True,
    )
    assert outcome.ok == [0, 1, 3, 4]
    assert outcome.statuses[:2] == [201, 409]
    assert outcome.no_index == [6]
    assert outcome.retry == []
    assert set(outcome.poison) == {2, 5}
    assert "strict_dynamic_mapping_exception" in outcome.poison[2]
    assert not search.index_exists("nowhere")


def test_a_blocked_index_asks_for_patience_and_poisons_nothing(search: Elasticsearch, index: str) -> None:
    for block, status in (("index.blocks.read_only_allow_delete", 429), ("index.blocks.write", 403)):
        search.put_settings(index, {block: True})
        outcome = search.bulk(_lines([_put(index, 1)]))
        assert (outcome.statuses, outcome.retry, outcome.poison) == ([status], [0], {})
        search.put_settings(index, {block: False})
    assert search.bulk(_lines([_put(index, 1)])).ok == [0]


def test_an_index_is_compared_by_counts_checksums_and_documents(search: Elasticsearch, index: str) -> None:
    search.bulk(_lines(_put(index, number) for number in (1, 2, 9, 10, 25)))
    search.refresh(index)
    assert search.count(index) == 5
    assert search.checksum_buckets(index, 10) == {0: Bucket(3, 120), 10: Bucket(1, 100), 20: Bucket(1, 250)}
    assert search.ids_and_checksums(index, 2, 10) == {2: 20, 9: 90}
    assert search.documents(index, [9, 77]) == {9: {"id": 9, "h": 90, "name": "thing 9"}}
    assert search.documents(index, []) == {}
    found = search.search(index, {"query": {"match": {"name": "25"}}})
    assert [hit["_id"] for hit in found["hits"]["hits"]] == ["25"]


def test_more_ids_than_one_answer_holds_are_fetched_in_turns(
    search: Elasticsearch, index: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("integrations.elasticsearch._CHUNK", 2)
    search.bulk(_lines(_put(index, number) for number in range(1, 6)))
    search.refresh(index)
    assert search.ids_and_checksums(index, 0, 5) == {1: 10, 2: 20, 3: 30, 4: 40}


def test_an_alias_moves_in_one_step_and_a_squatter_goes_with_it(search: Elasticsearch, index: str) -> None:
    alias = f"{index}-live"
    search.create_index(alias, MAPPING)
    search.swap_alias(alias, add=[index], remove_index=alias)
    assert search.alias_targets(alias) == [index]
    search.create_index(f"{index}-b", MAPPING)
    search.swap_alias(alias, add=[f"{index}-b"], remove=[index])
    assert search.alias_targets(alias) == [f"{index}-b"]
    with pytest.raises(NotFound):
        search.swap_alias(alias, add=["nowhere"])
    search.delete_index(f"{index}-b")


def test_a_question_about_nothing_is_not_found_and_a_senseless_one_rejected(search: Elasticsearch, index: str) -> None:
    with pytest.raises(NotFound, match="asked to count nowhere"):
        search.count("nowhere")
    with pytest.raises(Rejected) as caught:
        search.search(index, {"query": {"no_such_query": {}}})
    assert caught.value.status == 400


@pytest.mark.parametrize(
    ("step", "kind"),
    [
        (hang_up, Unavailable),
        (break_off, Unavailable),
        (reply(500, {"error": {"type": "x"}}), Unavailable),
        (reply(503, b"front"), Unavailable),
        (reply(429, {"error": {"type": "es_rejected_execution_exception"}}), Unavailable),
        (reply(403, {"error": {"type": "cluster_block_exception"}, "status": 403}), Unavailable),
        (reply(403, {"error": {"type": "security_exception"}, "status": 403}), Unauthorized),
        (reply(401, {"error": {"type": "security_exception"}}), Unauthorized),
        (reply(413, b""), Rejected),
        (reply(200, {}), Rejected),
        (reply(200, b"<html>", {"X-Elastic-Product": "Elasticsearch", "Content-Type": "text/html"}), Unavailable),
        (reply(200, b"{", {"X-Elastic-Product": "Elasticsearch"}), Unavailable),
        (reply(200, {}, {"X-Elastic-Product": "Elasticsearch"}), Unavailable),
    ],
)
def test_every_failure_of_the_server_has_its_error_and_is_asked_once(
    server: Scripted, odd: Elasticsearch, step: Any, kind: type[IntegrationError]
) -> None:
    server.will(step)
    for ask in (lambda: odd.count("x"), lambda: odd.bulk(b'{"delete":{"_index":"x","_id":"1"}}\n')):
        server.seen.clear()
        with pytest.raises(IntegrationError) as caught:
            ask()
        assert type(caught.value) is kind
        assert caught.value.upstream == "elasticsearch"
        assert len(server.seen) == 1


def test_no_message_carries_the_password_of_the_address() -> None:
    client = Elasticsearch(ElasticsearchSettings(url="http://elastic:hunter2@127.0.0.1:9"))
    with pytest.raises(Unavailable) as caught:
        client.probe()
    assert "hunter2" not in f"{caught.value!r} {caught.value.__cause__!r}"
    client.close()


@pytest.mark.parametrize(
    ("url", "called"),
    [
        ("http://search", "http://search:80"),
        ("https://elastic:pass@es.example.com/", "https://es.example.com:443"),
        ("http://search:9200/prefix", "http://search:9200/prefix"),
    ],
)
def test_an_address_may_leave_out_its_port_and_carry_a_path(url: str, called: str) -> None:
    client = Elasticsearch(ElasticsearchSettings(url=url))
    assert [node.base_url for node in client._client.transport.node_pool.all()] == [called]
    client.close()
