"""The canaries: which queues have one, and what one does on its way."""

from collections.abc import Callable, Iterator

import pytest
from sqlalchemy import Engine, text
from sqlalchemy.orm import Session, sessionmaker

import jobs
from integrations import Unavailable
from integrations.elasticsearch import Elasticsearch, ElasticsearchSettings
from jobs import Cancel, Context, Interrupted, Priority, _canary, job
from jobs import _job as registry
from sandbox.services import Services
from tests.workers import rows

PARTS = ["scheduler_ms", "relay_ms", "broker_ms", "postgres_ms", "search_ms"]
RUNNING = """
    INSERT INTO runs (id, job, queue, args, state, attempt, max_attempts, slot_at, created_at, queued_at, started_at)
    VALUES (1, 'canary.search', 'search', '{}', 'running', 1, 3, now() - interval '7 s', now() - interval '6 s',
            now() - interval '4 s', now() - interval '1 s')
"""


@pytest.fixture(autouse=True)
def own_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Jobs that are recorded here are forgotten here."""
    jobs.load()
    monkeypatch.setattr(registry, "_registry", dict(registry._registry))


@pytest.fixture
def search(services: Services) -> Iterator[Elasticsearch]:
    """The search server."""
    made = Elasticsearch(ElasticsearchSettings(url=services.search.url))
    yield made
    made.close()


@pytest.fixture
def nobody() -> Iterator[Elasticsearch]:
    """A search server that is not there."""
    made = Elasticsearch(ElasticsearchSettings(url="http://127.0.0.1:1"))
    yield made
    made.close()


def test_each_queue_that_a_topic_uses_has_one_and_it_is_urgent_and_shares_no_limit() -> None:
    topics = [job for job in jobs.load().values() if job.function.__module__.startswith("jobs.")]
    assert {job.queue for job in topics} == set(jobs.canaries())
    for queue, canary in jobs.canaries().items():
        assert (canary.name, canary.queue, canary.priority) == (f"canary.{queue}", queue, Priority.URGENT)
        assert canary.schedule is not None
        assert (canary.schedule.text, canary.key, canary.limit, canary.needs) == ("every 1 min", None, None, ())


def test_a_queue_that_only_others_use_has_none_and_loading_again_makes_no_second_one() -> None:
    before = dict(jobs.canaries())
    job(queue="elsewhere")(_nothing)
    jobs.load()
    assert jobs.canaries() == before
    assert all(jobs.find(canary.name) is canary for canary in before.values())


def _nothing(context: Context) -> None:
    del context


def test_a_job_that_has_the_name_of_a_canary_is_named() -> None:
    recorded = job(formerly=("canary.elsewhere",))(_nothing)
    with pytest.raises(ValueError, match=rf"the job {recorded.name} has the name of the canary of the queue elsewhere"):
        _canary.hatch(["elsewhere"])


def test_a_canary_tells_how_long_each_part_of_its_way_took(
    engine: Engine, make_context: Callable[..., Context], search: Elasticsearch
) -> None:
    rows.change(engine, RUNNING)
    told = _canary.fly(make_context(search))
    assert list(told) == PARTS
    assert [told[part] for part in PARTS[:3]] == [1_000, 2_000, 3_000]
    assert min(told["postgres_ms"], told["search_ms"]) > 0
    assert rows.run_row(engine, 1).checkpoint == {"attempt": 1}


def test_one_whose_message_came_before_the_relays_commit_has_no_time_on_the_broker(
    engine: Engine, make_context: Callable[..., Context], search: Elasticsearch
) -> None:
    rows.change(engine, RUNNING)
    rows.change(engine, "UPDATE runs SET queued_at = NULL, slot_at = NULL")
    told = _canary.fly(make_context(search))
    assert [told[part] for part in PARTS[:3]] == [0, 5_000, 0]


def test_a_search_that_does_not_answer_puts_it_aside_with_the_reason(
    engine: Engine, make_context: Callable[..., Context], nobody: Elasticsearch
) -> None:
    rows.change(engine, RUNNING)
    with pytest.raises(
        Cancel, match=r"^search: elasticsearch gave no answer when asked to count products"
    ) as put_aside:
        _canary.fly(make_context(nobody))
    assert isinstance(put_aside.value.__cause__, Unavailable)


def test_a_database_that_hangs_puts_it_aside_with_the_reason(
    engine: Engine,
    make_context: Callable[..., Context],
    search: Elasticsearch,
    sessions: sessionmaker[Session],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_canary, "BOUND", text("SET LOCAL statement_timeout = '50ms'"))
    rows.change(engine, RUNNING)
    with sessions.begin() as session:
        session.execute(text("SELECT 1 FROM runs WHERE id = 1 FOR UPDATE"))
        with pytest.raises(Cancel, match=r"^postgres: canceling statement due to statement timeout$"):
            _canary.fly(make_context(search))


def test_one_that_was_taken_from_its_attempt_passes_no_judgement(
    engine: Engine, make_context: Callable[..., Context], search: Elasticsearch
) -> None:
    rows.change(engine, RUNNING)
    with pytest.raises(Interrupted):
        _canary.fly(make_context(search, attempt=2))
