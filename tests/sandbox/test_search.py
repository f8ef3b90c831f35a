"""The embedded search server behind its front, as the official client sees it in good times and bad."""

import http.client
from collections.abc import Iterator
from pathlib import Path

import pytest
from elasticsearch import ApiError, BadRequestError, ConflictError, Elasticsearch, helpers
from elasticsearch import ConnectionError as SearchConnectionError

from sandbox.search import Search


@pytest.fixture
def search(tmp_path: Path) -> Iterator[Search]:
    with Search(tmp_path / "search") as server:
        yield server


@pytest.fixture
def client(search: Search) -> Iterator[Elasticsearch]:
    with Elasticsearch(search.url, max_retries=0) as connected:
        yield connected


def test_the_official_client_works_through_the_front(client: Elasticsearch) -> None:
    mappings = {"dynamic": "strict", "properties": {"name": {"type": "text"}, "price": {"type": "long"}}}
    client.indices.create(index="products-1", mappings=mappings)
    client.indices.update_aliases(actions=[{"add": {"index": "products-1", "alias": "products"}}])

    def write(version: int, price: int) -> tuple[int, int]:
        actions = [
            {
                "_index": "products-1",
                "_id": str(number),
                "version": version,
                "version_type": "external_gte",
                "_source": {"name": f"oat milk {number}", "price": price},
            }
            for number in range(50)
        ]
        written, failed = helpers.bulk(client, actions, raise_on_error=False, stats_only=True, refresh=True)
        assert isinstance(failed, int)
        return written, failed

    assert write(5, 300) == (50, 0)
    assert write(5, 310) == (50, 0)
    assert write(4, 999) == (0, 50)
    assert client.count(index="products")["count"] == 50
    hits = client.search(index="products", query={"match": {"name": "7"}})["hits"]["hits"]
    assert [hit["_source"]["price"] for hit in hits] == [310]
    assert client.indices.exists_alias(name="products")
    assert not client.indices.exists(index="nothing")
    with pytest.raises(BadRequestError, match="strict_dynamic_mapping"):
        client.index(index="products", document={"colour": "red"})
    with pytest.raises(ConflictError):
        client.index(index="products", id="7", version=3, version_type="external_gte", document={"price": 1})


def test_the_front_carries_a_bulk_of_five_megabytes(client: Elasticsearch) -> None:
    operations = [line for number in range(100) for line in ({"index": {"_id": str(number)}}, {"text": "y" * 50_000})]
    answer = client.bulk(index="large", operations=operations, refresh=True)
    assert not answer["errors"]
    assert client.count(index="large")["count"] == 100
    texts = client.search(index="large", size=100)["hits"]["hits"]
    assert sum(len(hit["_source"]["text"]) for hit in texts) == 5_000_000


def test_the_front_answers_503_while_the_server_is_killed_and_works_again_after(
    search: Search, client: Elasticsearch
) -> None:
    client.index(index="notes", id="1", document={"n": 1})
    search.kill()
    for _ in range(2):
        with pytest.raises(ApiError) as away:
            client.count(index="notes")
        assert away.value.status_code == 503
    search.start()
    assert not client.indices.exists(index="notes")


def test_a_kept_connection_never_notices_a_restart_behind_the_front(search: Search) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", search.port, timeout=20)
    for _ in range(3):
        connection.request("GET", "/")
        answer = connection.getresponse()
        assert (answer.status, answer.read()[:1]) == (200, b"{")
        search.restart()
    connection.close()


def test_a_stopped_search_server_refuses_and_comes_back_at_the_same_address(
    search: Search, client: Elasticsearch
) -> None:
    search.stop()
    with pytest.raises(SearchConnectionError):
        client.info()
    search.start()
    assert client.ping()


def test_the_front_answers_in_the_media_type_that_was_asked_for(search: Search) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", search.port, timeout=20)
    for asked, answered in [
        ("application/vnd.elasticsearch+json; compatible-with=9", "application/vnd.elasticsearch+json"),
        ("application/json", "application/json"),
    ]:
        connection.request("GET", "/missing/_doc/1", headers={"Accept": asked})
        response = connection.getresponse()
        response.read()
        assert response.status == 404
        assert response.headers["Content-Type"].startswith(answered)
    connection.close()


def test_the_front_refuses_a_body_in_chunks_instead_of_losing_it(search: Search) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", search.port, timeout=20)
    connection.putrequest("POST", "/_bulk")
    connection.putheader("Transfer-Encoding", "chunked")
    connection.endheaders()  # it answers as soon as it has seen the header
    assert connection.getresponse().status == 411
    connection.close()
