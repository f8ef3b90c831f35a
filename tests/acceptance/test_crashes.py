"""Everything is killed, wiped or restarted in the middle of its work. Nobody repairs anything, and it adds up."""

from itertools import pairwise

import redis
from sqlalchemy import text

from sandbox._process import Server
from sandbox.stage import Stage
from tests.acceptance import proof
from workers import reach

ALIVE = "SELECT count(*) FROM processes WHERE kind = :kind AND stopped_at IS NULL"
GOES_ON = "SELECT count(*) FROM attempts WHERE id > :newest AND outcome = 'succeeded'"
UPKEEP = "search.index_changes"


def test_a_worker_killed_in_the_middle_of_a_sync_loses_nothing_and_another_goes_on_meanwhile(stage: Stage) -> None:
    (second,) = stage.fleet.start("worker")
    stage.wait_for("the second worker", lambda: stage.number(ALIVE, kind="worker") == 2, seconds=proof.HEALING)
    with proof.sync_under_way(stage) as run_id, proof.webhooks_under_way(stage):
        holder = stage.number(
            "SELECT pid FROM processes p JOIN runs r ON r.process_id = p.id WHERE r.id = :run", run=run_id
        )
        (victim,) = (name for name, child in stage.fleet.members.items() if child.pid == holder)
        newest = stage.number("SELECT max(id) FROM attempts")
        stage.fleet.kill(victim)
        stage.upstreams.admin.reset_faults()
        stage.wait_for(
            "the other worker to go on", lambda: stage.number(GOES_ON, newest=newest) > 0, seconds=proof.HEALING
        )
        assert stage.fleet.supervise() == [victim]
    assert proof.attempts(stage, run_id) == ["lost", "succeeded"]
    stage.fleet.stop(second)
    proof.adds_up(stage)


def test_a_worker_that_is_stopped_in_the_middle_of_a_sync_gives_it_back_uncounted(stage: Stage) -> None:
    with proof.sync_under_way(stage) as run_id:
        stage.fleet.stop("worker-1")
        assert stage.number(proof.STATE, run=run_id, state="running") == 0
        assert stage.fleet.start("worker") == ["worker-1"]
        stage.upstreams.admin.reset_faults()
    assert proof.attempts(stage, run_id) == ["shutdown", "succeeded"]
    assert stage.number("SELECT failures FROM runs WHERE id = :run", run=run_id) == 0
    proof.adds_up(stage)


def test_a_power_cut_in_the_middle_of_everything_loses_nothing(stage: Stage) -> None:
    with proof.sync_under_way(stage), proof.webhooks_under_way(stage):
        for server in (stage.services.postgres, stage.services.valkey, stage.services.search):
            server.kill()
        for name in stage.fleet.members:
            stage.fleet.kill(name)
        for server in (stage.services.search, stage.services.valkey, stage.services.postgres):
            server.start()
        assert sorted(stage.fleet.supervise()) == ["relay-1", "scheduler-1", "web-1", "worker-1"]
        stage.upstreams.admin.reset_faults()
    proof.adds_up(stage)


def test_a_relay_killed_while_it_pushes_loses_nothing_and_doubles_nothing(stage: Stage) -> None:
    with proof.webhooks_under_way(stage):
        stage.fleet.kill("relay-1")
        assert stage.fleet.supervise() == ["relay-1"]
    proof.adds_up(stage)


def test_a_web_process_killed_while_webhooks_come_in_gets_all_of_them(stage: Stage) -> None:
    with proof.webhooks_under_way(stage):
        stage.fleet.kill("web-1")
        assert stage.fleet.supervise() == ["web-1"]
    proof.adds_up(stage)


def test_queued_runs_outlive_a_redis_that_was_wiped(stage: Stage) -> None:
    stage.fleet.stop("worker-1")
    newest = stage.number("SELECT max(id) FROM runs")
    # Sales of one product share a run while it waits, so there are fewer runs than sales.
    stage.upstreams.admin.sell(300, wait_s=proof.HEALING)
    queued = "SELECT count(*) FROM runs WHERE id > :run AND state = 'queued'"
    backlog = "SELECT count(*) FROM runs WHERE id > :run AND state IN ('waiting', 'queued')"
    stage.wait_for("a backlog", lambda: stage.number(backlog, run=newest) >= 150, seconds=proof.HEALING)
    # The rest waits in Postgres: without a worker, a queue reaches no further.
    stage.wait_for("queued runs", lambda: stage.number(queued, run=newest) >= reach.LEAST, seconds=proof.HEALING)

    client = redis.Redis.from_url(stage.services.valkey.url)
    client.flushall()
    client.close()

    assert stage.fleet.start("worker") == ["worker-1"]
    proof.adds_up(stage)
    assert stage.number("SELECT count(*) FROM runs WHERE id > :run AND job LIKE 'warehouse.%'", run=newest) >= 150


def test_a_redis_that_dies_with_everything_in_it_is_filled_again(stage: Stage) -> None:
    with proof.webhooks_under_way(stage):
        stage.services.valkey.kill()
        stage.services.valkey.start()
    proof.adds_up(stage)


def test_a_graceful_restart_of_postgres_during_a_sync_and_webhooks_is_outwaited(stage: Stage) -> None:
    with proof.sync_under_way(stage), proof.webhooks_under_way(stage):
        stage.services.postgres.restart()
    proof.adds_up(stage)


def test_a_crash_of_postgres_during_a_sync_and_webhooks_loses_nothing(stage: Stage) -> None:
    with proof.sync_under_way(stage), proof.webhooks_under_way(stage):
        crash(stage.services.postgres)
    proof.adds_up(stage)


def test_a_search_server_that_forgot_its_index_gets_it_back(stage: Stage) -> None:
    before = stage.number(proof.LIVE_GENERATION)
    stage.services.search.restart()
    stage.wait_for("a new index", lambda: stage.number(proof.LIVE_GENERATION) > before, seconds=proof.HEALING)
    proof.adds_up(stage)


def test_two_schedulers_fire_each_slot_once_and_one_goes_on_when_the_other_is_killed(stage: Stage) -> None:
    first = stage.number("SELECT max(id) FROM slots WHERE schedule = :job", job=UPKEEP)
    (second,) = stage.fleet.start("scheduler")
    stage.wait_for("the second scheduler", lambda: stage.number(ALIVE, kind="scheduler") == 2, seconds=proof.HEALING)
    _more_slots(stage, 2)
    stage.fleet.kill(second)
    stage.fleet.stop(second)
    _more_slots(stage, 1)

    statement = text("""
        SELECT s.fire_at, (SELECT count(*) FROM runs r WHERE r.schedule = s.schedule AND r.slot_at = s.fire_at) AS runs
        FROM slots s WHERE s.schedule = :job AND s.id >= :first AND s.outcome IN ('ran', 'coalesced') ORDER BY s.fire_at
    """)
    with stage.engine.begin() as connection:
        slots = connection.execute(statement, {"job": UPKEEP, "first": first}).all()
    gaps = {(after.fire_at - before.fire_at).total_seconds() for before, after in pairwise(slots)}
    assert gaps == {5.0}, "a slot was missed or fired twice"
    assert max(slot.runs for slot in slots) == 1
    proof.adds_up(stage)


def crash(server: Server) -> None:
    """End a server by SIGKILL and start it again on what it left."""
    server.kill()
    server.start()


def _more_slots(stage: Stage, count: int) -> None:
    total = "SELECT count(*) FROM slots WHERE schedule = :job"
    wanted = stage.number(total, job=UPKEEP) + count
    stage.wait_for("the next slots", lambda: stage.number(total, job=UPKEEP) >= wanted, seconds=proof.HEALING)
