"""The verdict, judged from sights made up for it and from a real system whose parts go away."""

import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import MappingProxyType

import httpx
import pytest
import redis
from sqlalchemy import Engine, text

from sandbox.services import Services
from sandbox.valkey import Valkey
from tests.web.serving import environment, serving, until
from web.health import Status, judge
from web.pulse import NotMigrated, Sight, Snapshot
from web.question import Silence
from web.recent import DeadView, RetryingView
from workers.canaries import CanaryView
from workers.census import GenerationView, IndexView, ProcessView, QueueView, StreamView, TotalsView
from workers.circuits import CircuitView
from workers.timetable import ScheduleView

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
QUEUE = QueueView("search", 0, 0, 0, 0, None, None, None, None, None, 1)
SCHEDULE = ScheduleView(
    "a.b", "every 60 s", "UTC", NOW + timedelta(seconds=9), None, None, None, None, None, None, None, None, None
)
STREAM = StreamView(
    "warehouse", "products", NOW, NOW, 60.0, {}, walking=False, run_id=None, quarantined=0, held_deletions=0
)
LIVE = GenerationView("products-1", "live", 1, 1, NOW, NOW)
INDEX = IndexView([LIVE], 0, None, 0, NOW, {}, 0)
CANARY = CanaryView(
    "search",
    NOW - timedelta(seconds=30),
    0.4,
    {},
    missing_since=None,
    run_id=None,
    state=None,
    error=None,
    next_fire_at=NOW + timedelta(seconds=30),
    paused_at=None,
    paused_by=None,
    paused_as=None,
    resumed_at=None,
)
LONG_AGO = NOW - timedelta(hours=1)


def process(kind: str, *, alive: bool = True, skew: float = 0.0) -> ProcessView:
    return ProcessView(1, kind, "mill", 1, "1", ["search"], 8, LONG_AGO, NOW, None, alive, 0, skew)


WELL = Snapshot(
    taken_at=NOW,
    runs={},
    dead=DeadView(0, None, None),
    retrying=[],
    queues=[QUEUE],
    schedules=[SCHEDULE],
    streams=[STREAM],
    index=INDEX,
    totals=TotalsView(1, 1, 1, 0, 0, 0, 0, 0),
    processes=[process("worker"), process("relay"), process("scheduler")],
    pace=[],
    movements=[],
    recent_runs=[],
    canaries=[CANARY],
    circuits=[],
)
ANSWERING: dict[str, Silence | None] = {"redis": None, "elasticsearch": None}


def sight(postgres: Snapshot | NotMigrated | Silence = WELL, **parts: Silence | None) -> Sight:
    return Sight(postgres, MappingProxyType(ANSWERING | parts))


def test_a_system_in_which_everything_flows_is_green() -> None:
    verdict = judge(sight())
    assert verdict.status is Status.GREEN
    assert verdict.troubles == []


LATE = timedelta(seconds=90)
GONE = replace(CANARY, missing_since=NOW - timedelta(minutes=4), run_id=7, state="waiting")
ALL = [process("worker"), process("relay"), process("scheduler")]
TROUBLES = [
    (replace(WELL, processes=[]), "red", "No worker is alive"),
    (replace(WELL, processes=[process("worker"), process("scheduler")]), "red", "No relay is alive"),
    (replace(WELL, processes=[process("worker"), process("relay")]), "red", "No scheduler is alive"),
    (replace(WELL, processes=[process("worker", alive=False)]), "red", "No worker is alive"),
    (replace(WELL, queues=[replace(QUEUE, workers=0)]), "amber", "No live worker serves the queue search, nothing"),
    (replace(WELL, queues=[replace(QUEUE, workers=0, waiting=1)]), "red", "1 run there cannot go on"),
    (
        replace(WELL, queues=[replace(QUEUE, due=2, oldest_due_seconds=61.0)]),
        "amber",
        "search is 61 s late, limit 60 s",
    ),
    (
        replace(WELL, queues=[replace(QUEUE, due=2, oldest_due_seconds=301.0)]),
        "red",
        "search is 5 min late, limit 60 s",
    ),
    (
        replace(WELL, queues=[replace(QUEUE, due=2, oldest_due_seconds=999.0, paused_at=NOW - LATE, paused_by="ada")]),
        "amber",
        "ada paused the queue search 90 s ago, 2 due runs held",
    ),
    (replace(WELL, schedules=[replace(SCHEDULE, next_fire_at=NOW - LATE)]), "amber", "a.b should have fired 90 s ago"),
    (
        replace(WELL, circuits=[CircuitView("warehouse", NOW - LATE, NOW, "it did not answer in time: later.")]),
        "amber",
        "The circuit of warehouse is open for 90 s (it did not answer in time: later): what needs it waits",
    ),
    (
        replace(WELL, circuits=[CircuitView("warehouse", NOW - timedelta(seconds=301), NOW, None)]),
        "red",
        "The circuit of warehouse is open for 5 min, limit 5 min (no error)",
    ),
    (replace(WELL, streams=[replace(STREAM, freshness_seconds=7201.0)]), "amber", "was last read 2 h ago, limit 2 h"),
    (replace(WELL, streams=[replace(STREAM, freshness_seconds=None)]), "amber", "was never read to its end"),
    (replace(WELL, streams=[replace(STREAM, held_deletions=12)]), "amber", "12 items of warehouse/products vanished"),
    (
        replace(WELL, retrying=[RetryingView("a.b", 2, NOW - LATE, "the partner is away\nsince noon")]),
        "amber",
        "2 runs of a.b failed twice or more and will try again (the partner is away)",
    ),
    (replace(WELL, dead=DeadView(3, "a.b", NOW - LATE)), "amber", "3 runs died in the last 24 h, the newest 90 s ago"),
    (replace(WELL, index=replace(INDEX, drift=4)), "amber", "4 products that differ"),
    (replace(WELL, index=replace(INDEX, generations=[])), "amber", "No search index is live yet"),
    (
        replace(WELL, index=replace(INDEX, oldest_seconds=301.0, pending=7)),
        "amber",
        "5 min behind, limit 5 min, with 7",
    ),
    (replace(WELL, index=replace(INDEX, rejects=1)), "amber", "refused 1 document"),
    (
        replace(WELL, canaries=[GONE]),
        "red",
        "No canary of the queue search has come back for 4 min: run 7 is due and no",
    ),
    (
        replace(WELL, canaries=[replace(CANARY, paused_at=NOW - LATE, paused_by="ada", paused_as="schedules")]),
        "amber",
        "ada paused the canary of the queue search 90 s ago",
    ),
    (
        replace(WELL, processes=[*ALL, process("worker", skew=-4.24)]),
        "amber",
        "The clock of the host mill is 4.2 s behind",
    ),
]


@pytest.mark.parametrize(("seen", "status", "words"), TROUBLES)
def test_each_trouble_has_its_status_and_its_sentence(seen: Snapshot, status: str, words: str) -> None:
    verdict = judge(sight(seen))
    assert verdict.status == status
    assert any(words in check.detail and check.status == status for check in verdict.troubles), verdict.troubles


@pytest.mark.parametrize("seen", [trouble[0] for trouble in TROUBLES])
def test_each_trouble_says_what_to_do(seen: Snapshot) -> None:
    for check in judge(sight(seen)).troubles:
        assert any(word in check.detail for word in ("start", "headrace", "look at")), check.detail


@pytest.mark.parametrize(
    "seen",
    [
        replace(WELL, queues=[replace(QUEUE, oldest_due_seconds=60.0)]),
        replace(WELL, streams=[replace(STREAM, freshness_seconds=7200.0)]),
        replace(WELL, streams=[replace(STREAM, freshness_seconds=None, walking=True)]),
        replace(WELL, schedules=[replace(SCHEDULE, next_fire_at=NOW - LATE, paused_at=NOW)]),
        replace(WELL, schedules=[replace(SCHEDULE, next_fire_at=NOW - LATE, retired_at=NOW)]),
        replace(WELL, index=replace(INDEX, generations=[]), totals=replace(WELL.totals, products=0)),
        replace(WELL, processes=[*ALL, process("worker", skew=2.0), process("worker", alive=False, skew=9.0)]),
    ],
)
def test_what_is_within_its_limit_or_on_purpose_is_green(seen: Snapshot) -> None:
    assert judge(sight(seen)).status is Status.GREEN


def test_each_part_that_is_away_is_red_and_said() -> None:
    for name in ("redis", "elasticsearch"):
        verdict = judge(sight(**{name: Silence("refused")}))
        assert verdict.status is Status.RED
        assert [check.name for check in verdict.troubles] == [name]


def test_the_broker_that_is_really_used_is_named() -> None:
    def details(**parts: Silence | None) -> dict[str, str]:
        seen = replace(sight(WELL, **parts), broker="RabbitMQ")
        return {check.name: check.detail for check in judge(seen).checks}

    assert details(broker=None)["broker"] == "RabbitMQ answers."
    assert details(broker=None)["redis"] == "Redis answers."
    away = details(broker=Silence("refused"), redis=Silence("refused"))
    assert away["broker"].startswith("RabbitMQ does not answer (refused): runs wait in Postgres")
    assert away["broker"].endswith("correct BROKER_URL.")
    assert "runs wait" not in away["redis"]


def test_a_part_that_answers_too_late_once_is_busy_and_again_and_again_is_lost() -> None:
    late = {times: judge(sight(elasticsearch=Silence("no answer in time", times))).status for times in (1, 2, 3)}
    assert late == {1: "amber", 2: "amber", 3: "red"}


@pytest.mark.parametrize("postgres", [Silence("refused"), NotMigrated("0001", "0002"), NotMigrated(None, "0002")])
def test_without_postgres_nothing_else_is_guessed(postgres: Silence | NotMigrated) -> None:
    verdict = judge(sight(postgres))
    assert verdict.status is Status.RED
    assert {check.name for check in verdict.checks} == {"postgres", "redis", "elasticsearch"}


LATE_QUEUE = replace(QUEUE, due=1, waiting=1, oldest_due_seconds=240.0)


@pytest.mark.parametrize(
    ("seen", "parts", "said"),
    [
        # The canary knows why the queue is late: more workers would not help.
        (replace(WELL, canaries=[GONE], queues=[LATE_QUEUE]), {}, {"canaries:relay"}),
        # A part that is away says it for the canaries, and for the queues.
        (replace(WELL, canaries=[GONE], queues=[LATE_QUEUE]), {"redis": Silence("refused")}, {"redis"}),
        (
            replace(WELL, canaries=[replace(GONE, state="cancelled", error="search: refused")]),
            {"elasticsearch": Silence("refused")},
            {"elasticsearch"},
        ),
        # The web process reaches search and the workers do not: nobody else says that.
        (replace(WELL, canaries=[replace(GONE, state="cancelled", error="search: refused")]), {}, {"canaries:search"}),
        (
            replace(WELL, canaries=[GONE], queues=[replace(LATE_QUEUE, workers=0)], processes=ALL[1:]),
            {},
            {"workers"},
        ),
        (replace(WELL, canaries=[GONE], processes=[ALL[0], ALL[2]]), {}, {"relay"}),
        (
            replace(WELL, canaries=[GONE], queues=[replace(LATE_QUEUE, paused_at=NOW, paused_by="ada")]),
            {},
            {"paused:search"},
        ),
        # Overdue, the schedule of a canary is told with its queue.
        (
            replace(
                WELL,
                canaries=[replace(CANARY, next_fire_at=NOW - timedelta(minutes=4))],
                schedules=[replace(SCHEDULE, name="canary.search", next_fire_at=NOW - timedelta(minutes=4))],
            ),
            {},
            {"canaries:scheduler"},
        ),
    ],
)
def test_what_is_wrong_is_said_once(seen: Snapshot, parts: dict[str, Silence], said: set[str]) -> None:
    assert {check.name for check in judge(sight(seen, **parts)).troubles} == said


def test_the_red_come_before_the_amber() -> None:
    seen = replace(WELL, index=replace(INDEX, rejects=1), processes=[])
    statuses = [check.status for check in judge(sight(seen)).troubles]
    assert statuses == sorted(statuses, key=[Status.RED, Status.AMBER].index)
    assert len(set(statuses)) == 2


def test_a_web_process_alone_is_live_and_ready_and_its_verdict_is_red(client: httpx.Client) -> None:
    assert client.get("/health/live").status_code == 200
    assert client.get("/health/ready").status_code == 200
    until(lambda: client.get("/health").status_code == 503)  # a look is good for a second
    answer = client.get("/health")
    assert (answer.status_code, answer.json()["status"]) == (503, "red")
    assert {"name", "status", "detail"} <= set(answer.json()["checks"][0])


def test_with_all_processes_alive_the_verdict_turns_green(client: httpx.Client, engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(
            text(
                "INSERT INTO processes (kind, host, pid, version, queues)"
                " SELECT k, 'mill', 1, '1', '{alerts,default,maintenance,search,stripe,warehouse}'"
                " FROM unnest(ARRAY['worker', 'relay', 'scheduler']) AS k"
            )
        )
    until(lambda: client.get("/health").status_code == 200)
    assert client.get("/health").json()["status"] == "green"


def test_a_database_that_is_not_migrated_makes_it_not_ready_and_says_what_to_run(services: Services) -> None:
    bare = services.postgres.create_database("bare")
    with serving(environment(services, bare)) as web, web.client() as client:
        assert client.get("/health/ready").status_code == 503
        assert "headrace migrate" in client.get("/health").text


def test_a_database_that_is_away_leaves_it_live_not_ready_red_and_measurable(services: Services) -> None:
    with serving(environment(services, "postgresql://nobody@127.0.0.1:9/none")) as web, web.client() as client:
        assert client.get("/health/live").status_code == 200
        assert client.get("/health/ready").status_code == 503
        assert client.get("/health").status_code == 503
        metrics = client.get("/metrics")
        assert metrics.status_code == 200
        assert 'headrace_up{part="postgres"} 0.0' in metrics.text
        assert "headrace_runs{" not in metrics.text
        client.headers["Authorization"] = "Bearer hr_whose_owner_nobody_can_look_up"
        page = client.get("/")
        assert page.status_code == 503
        assert "Postgres does not answer" in page.text
        assert "Traceback" not in page.text
        api = client.get("/api/v1/overview")
        assert (api.status_code, api.headers["content-type"]) == (503, "application/problem+json")


def test_a_redis_that_hangs_is_noticed_within_three_seconds(
    services: Services, database_url: str, engine: Engine, tmp_path: Path
) -> None:
    del engine
    valkey = Valkey(tmp_path)
    valkey.start()
    variables = environment(services, database_url) | {"REDIS_URL": valkey.url}
    try:
        with serving(variables) as web, web.client() as client:
            assert _redis(client) == "green"
            with redis.Redis.from_url(valkey.url) as admin:
                admin.client_pause(60_000)
            until(lambda: _redis(client) == "red")
            before = time.monotonic()
            assert _redis(client) == "red"
            assert time.monotonic() - before < 3.5
    finally:
        valkey.close()


def _redis(client: httpx.Client) -> str:
    return next(str(check["status"]) for check in client.get("/health").json()["checks"] if check["name"] == "redis")
