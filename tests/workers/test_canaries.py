"""Who looks at the canaries sees where work stands still: judged from rows, and from a real system that is broken."""

import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import pytest
from sqlalchemy import Engine, text

import jobs
from models import migrations
from sandbox.valkey import Valkey
from tests.copies import Copy
from tests.workers import rows
from tests.workers.asking import asked
from tests.workers.members import Members
from web import health, pulse
from web.question import Silence
from workers import canaries, census
from workers.canaries import CanaryView, Stopped

SYSTEM = (
    """
    INSERT INTO processes (kind, host, pid, version, queues, threads, started_at)
    SELECT kind, 'mill', 1, '1', CASE kind WHEN 'worker' THEN CAST(:queues AS text[]) ELSE '{}' END, 2,
           now() - interval '1 h'
    FROM unnest(ARRAY['scheduler', 'relay', 'worker']) AS kind
    """,
    """
    INSERT INTO schedules (name, rule, zone, next_fire_at)
    SELECT 'canary.' || queue, 'every 1 min', 'UTC', now() + interval '30 s'
    FROM unnest(CAST(:queues AS text[])) AS queue
    """,
)
SENT = """
    WITH sent AS (
        INSERT INTO runs
            (job, queue, args, state, max_attempts, slot_at, created_at, due_at, finished_at, error, result)
        SELECT 'canary.' || queue, queue, '{}', :state, 3, at, at, at,
               CASE WHEN :state IN ('succeeded', 'dead', 'cancelled') THEN at + interval '2 s' END, :error,
               CASE WHEN :state = 'succeeded' THEN '{"relay_ms": 250, "search_ms": 4.5}'::jsonb END
        FROM unnest(CAST(:queues AS text[])) AS queue, (SELECT now() - CAST(:ago AS interval) AS at) AS ago
        RETURNING id, job, slot_at
    )
    INSERT INTO slots (schedule, fire_at, outcome, run_id) SELECT job, slot_at, 'ran', id FROM sent
"""

#: The slots after the newest ones joined their runs.
JOINED = """
    INSERT INTO slots (schedule, fire_at, outcome, run_id)
    SELECT job, slot_at + interval '1 min', 'coalesced', id FROM runs WHERE created_at > now() - interval '5 min'
"""
#: The worker has one run more under way.
WORK = """
    INSERT INTO runs (job, queue, args, state, max_attempts, process_id)
    SELECT 'a.b', 'search', '{}', 'running', 1, id FROM processes WHERE kind = 'worker'
"""


@pytest.fixture
def living(engine: Engine) -> Engine:
    """A system in which everybody lives for an hour, and a canary of each queue came back ten minutes ago."""
    jobs.load()
    for statement in SYSTEM:
        rows.change(engine, statement, queues=list(jobs.canaries()))
    send(engine, "succeeded", "10 min", *jobs.canaries())
    return engine


def send(engine: Engine, state: str, ago: str, *queues: str, error: str | None = None) -> None:
    rows.change(engine, SENT, state=state, ago=ago, queues=list(queues or ["search"]), error=error)


def look(engine: Engine) -> list[CanaryView]:
    with engine.connect() as connection:
        return canaries.look(connection)


def judge(engine: Engine, views: list[CanaryView] | None = None) -> list[Stopped]:
    with engine.connect() as connection:
        queues, processes = census.queues(connection, jobs.canaries()), census.processes(connection)
        now = connection.execute(text("SELECT now()")).scalar_one()
    return canaries.stopped(look(engine) if views is None else views, queues, processes, now)


def test_while_they_come_back_nothing_is_said_and_each_tells_its_way(living: Engine) -> None:
    send(living, "succeeded", "30 s")
    send(living, "running", "3 s")
    assert judge(living) == []
    view = {view.queue: view for view in look(living)}["search"]
    assert (view.seconds, view.parts) == (2.0, {"relay": 0.25, "search": 0.0045})


def test_one_that_was_sent_by_hand_proves_nothing_of_the_scheduler(living: Engine) -> None:
    rows.change(living, "UPDATE schedules SET next_fire_at = now() - interval '4 min'")
    send(living, "succeeded", "30 s", *jobs.canaries())
    rows.change(living, "DELETE FROM slots WHERE fire_at > now() - interval '1 min'")
    (stop,) = judge(living)
    assert (stop.stage, stop.queues) == ("scheduler", sorted(jobs.canaries()))


STAGES = [
    ("waiting", None, "relay", "is due and no relay pushes it"),
    ("queued", None, "broker", "lies on the broker and no worker takes it"),
    ("running", None, "worker", "began and does not succeed: look"),
    ("dead", "the worker that held it died", "worker", "does not succeed (the worker that held it died): look"),
    ("cancelled", "search: answered 503\nfor long", "search", "no answer from search (answered 503): look"),
    ("cancelled", "postgres: disk full", "postgres", "read it back (disk full): look"),
]


@pytest.mark.parametrize(("state", "error", "stage", "words"), STAGES)
def test_the_row_of_one_that_is_missing_tells_the_stage(
    living: Engine, state: str, error: str | None, stage: str, words: str
) -> None:
    send(living, state, "4 min", error=error)
    (stop,) = judge(living)
    run_id = rows.one(living, "SELECT max(id) FROM runs")
    assert (stop.stage, stop.queues) == (stage, ["search"])
    assert stop.sentence.startswith("No canary of the queue search has come back for 4 min: ")
    assert words in stop.sentence
    assert f"`headrace runs show {run_id}`" in stop.sentence


def test_a_fire_that_joined_one_that_came_back_late_is_not_missing(living: Engine) -> None:
    send(living, "succeeded", "4 min")
    rows.change(living, JOINED)
    rows.change(living, "UPDATE runs SET finished_at = now() WHERE created_at > now() - interval '5 min'")
    view = {view.queue: view for view in look(living)}["search"]
    assert (view.missing_since, view.run_id) == (None, None)
    assert view.seconds == pytest.approx(240, abs=5)
    assert judge(living) == []


def test_without_a_slot_it_is_the_scheduler(living: Engine) -> None:
    rows.change(living, "UPDATE schedules SET next_fire_at = now() - interval '4 min' WHERE name = 'canary.search'")
    (stop,) = judge(living)
    assert (stop.stage, stop.queues) == ("scheduler", ["search"])


def test_one_that_no_living_scheduler_knows_yet_is_not_awaited(living: Engine) -> None:
    """In a deploy the web process may be there before the scheduler that has canaries in its code."""
    rows.change(living, "UPDATE schedules SET retired_at = now() WHERE name = 'canary.search'")
    assert judge(living) == []


def test_a_stage_is_said_once_for_all_its_queues_with_the_longest_wait(living: Engine) -> None:
    send(living, "waiting", "4 min", "search", "stripe")
    send(living, "waiting", "9 min", "maintenance")
    (stop,) = judge(living)
    assert stop.sentence.startswith("No canary of the queues maintenance, search, stripe has come back for 9 min: ")


def test_one_that_was_sent_a_moment_ago_does_not_hide_why_those_before_it_fell(living: Engine) -> None:
    for ago in ("4 min", "3 min", "2 min"):
        send(living, "cancelled", ago, error="search: refused")
    send(living, "waiting", "1 s")
    assert [stop.stage for stop in judge(living)] == ["search"]
    send(living, "waiting", "70 s")
    assert [stop.stage for stop in judge(living)] == ["relay"]
    send(living, "succeeded", "1 s")
    assert judge(living) == []


@pytest.mark.parametrize(
    "why",
    [
        "UPDATE processes SET started_at = now() - interval '1 min' WHERE kind = 'relay'",
        "UPDATE processes SET heartbeat_at = now() - interval '1 min' WHERE kind = 'scheduler'",
        "UPDATE processes SET queues = '{stripe}' WHERE kind = 'worker'",
        "INSERT INTO queues (name, paused_at, paused_by) VALUES ('search', now(), 'ada')",
        "UPDATE schedules SET paused_at = now(), paused_by = 'ada'",
        "INSERT INTO pauses (job, key, paused_at, paused_by) VALUES ('canary.search', '', now(), 'ada')",
        "INSERT INTO audit (actor, action, target, count) VALUES ('ada', 'queues resume', 'search', 1)",
        "INSERT INTO audit (actor, action, target, count) VALUES ('the clock', 'pauses resume', 'canary.search', 1)",
    ],
)
def test_of_what_has_just_begun_is_held_or_is_said_elsewhere_nothing_is_said(living: Engine, why: str) -> None:
    send(living, "waiting", "4 min")
    assert [stop.stage for stop in judge(living)] == ["relay"]
    rows.change(living, why)
    assert judge(living) == []


def test_behind_runs_that_fill_its_workers_or_its_limit_it_is_late_and_not_stopped(living: Engine) -> None:
    send(living, "queued", "4 min")
    rows.change(living, WORK)
    assert [stop.stage for stop in judge(living)] == ["broker"]
    rows.change(living, WORK)
    assert judge(living) == []
    rows.change(living, "DELETE FROM runs WHERE job = 'a.b' AND id = (SELECT max(id) FROM runs)")
    rows.change(living, "INSERT INTO queues (name, concurrency) VALUES ('search', 2)")
    assert judge(living) == []


def test_the_doctor_tells_who_came_back_and_where_the_others_are(living: Engine, variables: dict[str, str]) -> None:
    many = len(jobs.canaries())
    assert (
        f"of {many} of {many} queues one came back, the last one after 2 s at most" in asked(variables, "doctor").stdout
    )
    send(living, "waiting", "4 min")
    done = asked(variables, "doctor")
    assert done.returncode == 1
    assert "✗ canaries at relay" in done.stdout
    assert "No canary of the queue search has come back for 4 min" in " ".join(done.stdout.split())
    rows.change(living, "DELETE FROM slots")
    assert "none has come back yet" in asked(variables, "doctor").stdout


def test_one_whose_schedule_never_fires_again_is_not_awaited(living: Engine) -> None:
    views = [replace(view, next_fire_at=None) for view in look(living)]
    assert judge(living, views) == []


class Mill:
    """A whole system of processes on a broker of its own, looked at as the web process looks."""

    def __init__(self, engine: Engine, members: Members) -> None:
        self.engine, self.members = engine, members
        self.sent = 0

    def start(self, *modules: str) -> list[Copy]:
        started = [self.members.start(module) for module in modules]
        alive = "SELECT count(*) FROM processes WHERE stopped_at IS NULL"
        rows.until(lambda: rows.one(self.engine, alive) >= len(started), why="".join(one.said() for one in started))
        declared = "SELECT count(*) FROM schedules WHERE name LIKE 'canary.%'"
        rows.until(lambda: rows.one(self.engine, declared) == len(jobs.canaries()))
        self.hush()
        # A fire would join one that the clock has sent just before.
        unfinished = "SELECT count(*) FROM runs WHERE job LIKE 'canary.%' AND finished_at IS NULL"
        rows.until(lambda: not rows.one(self.engine, unfinished))
        return started

    def fire(self) -> None:
        """Let the slots of all canaries be due now."""
        self.sent = rows.one(self.engine, "SELECT coalesce(max(id), 0) FROM runs")
        rows.change(self.engine, "UPDATE schedules SET next_fire_at = now() WHERE name LIKE 'canary.%'")

    def become(self, state: str) -> None:
        """Wait until that is the state of all canaries that were sent with the last fire; then no more are sent."""
        many = "SELECT count(*) FROM runs WHERE job LIKE 'canary.%' AND id > :sent AND state = :state"
        rows.until(lambda: rows.one(self.engine, many, sent=self.sent, state=state) == len(jobs.canaries()))
        self.hush()

    def hush(self) -> None:
        rows.change(self.engine, "UPDATE schedules SET next_fire_at = now() + '1 h' WHERE name LIKE 'canary.%'")

    def later(self) -> None:
        """Let four minutes have passed in which everybody said to be alive."""
        back = "- interval '4 min'"
        rows.change(self.engine, f"UPDATE runs SET created_at = created_at {back}, finished_at = finished_at {back}")
        rows.change(self.engine, f"UPDATE schedules SET next_fire_at = next_fire_at {back} WHERE next_fire_at < now()")
        rows.change(
            self.engine,
            "UPDATE processes SET started_at = started_at - interval '1 h', heartbeat_at = now() + interval '1 min'"
            " WHERE stopped_at IS NULL",
        )

    def troubles(self, **parts: Silence | None) -> set[str]:
        """Return what health says about the canaries and the processes."""
        known: dict[str, Silence | None] = {"redis": None, "elasticsearch": None}
        seen = pulse.Sight(pulse.take(self.engine, migrations.newest()), MappingProxyType(known | parts))
        said = {one.name for one in health.judge(seen).troubles}
        # Other tests of this process may have recorded jobs, whose queues nobody serves here.
        ours = {"canaries", "late", "redis", "elasticsearch", "relay", "scheduler", "workers"}
        return {name for name in said if name in ours or name.partition(":")[0] in {"canaries", "late"}}

    def say(self, names: set[str], **parts: Silence | None) -> None:
        """Wait until health says just this."""
        deadline = time.monotonic() + 30
        while (said := self.troubles(**parts)) != names:
            assert time.monotonic() < deadline, f"health says {said} of {look(self.engine)}"
            time.sleep(0.02)


@pytest.fixture
def valkey(tmp_path: Path) -> Iterator[Valkey]:
    made = Valkey(tmp_path / "valkey")
    made.start()
    yield made
    made.close()


@pytest.fixture
def mill(engine: Engine, variables: dict[str, str], valkey: Valkey, tmp_path: Path) -> Iterator[Mill]:
    jobs.load()
    members = Members(tmp_path, variables | {"REDIS_URL": valkey.url})
    yield Mill(engine, members)
    members.close()


def test_canaries_come_back_and_health_names_each_stage_that_is_stopped(mill: Mill, valkey: Valkey) -> None:
    scheduler, relay, worker = mill.start("scheduler", "workers.relay", "workers.worker")
    mill.fire()
    mill.become("succeeded")
    assert mill.troubles() == set()
    for view in look(mill.engine):
        assert view.seconds is not None
        assert 0 < sum(view.parts.values()) <= view.seconds + 0.1
        assert set(view.parts) == {"scheduler", "relay", "broker", "postgres", "search"}

    # When a scheduler stands still and its heartbeat goes on
    scheduler.signal(signal.SIGSTOP)
    mill.fire()
    mill.later()
    mill.say({"canaries:scheduler"})
    scheduler.signal(signal.SIGCONT)
    mill.become("succeeded")
    assert mill.troubles() == set()

    # When a relay does
    relay.signal(signal.SIGSTOP)
    mill.fire()
    mill.become("waiting")
    mill.later()
    mill.say({"canaries:relay"})
    relay.signal(signal.SIGCONT)
    mill.become("succeeded")

    # When a worker does
    worker.signal(signal.SIGSTOP)
    mill.fire()
    mill.become("queued")
    mill.later()
    mill.say({"canaries:broker"})
    worker.signal(signal.SIGCONT)
    mill.become("succeeded")

    # When the broker is away
    valkey.stop()
    mill.fire()
    mill.become("waiting")
    mill.later()
    mill.say({"canaries:relay"})
    mill.say({"redis"}, redis=Silence("refused"))


def test_a_search_that_fails_for_the_workers_alone_is_told(
    mill: Mill, variables: dict[str, str], valkey: Valkey, tmp_path: Path
) -> None:
    members = Members(tmp_path, variables | {"REDIS_URL": valkey.url, "ELASTICSEARCH_URL": "http://127.0.0.1:1"})
    try:
        members.start("workers.worker")
        mill.start("scheduler", "workers.relay")
        mill.fire()
        mill.become("cancelled")
        mill.later()
        mill.say({"canaries:search"})
        mill.say({"elasticsearch"}, elasticsearch=Silence("refused"))
    finally:
        members.close()
