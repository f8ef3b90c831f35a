"""Everything that may happen to runs, in any order, on a real Postgres and a real Valkey.

Two workers claim, finish, die and come back as zombies; the relay pushes and dies before its commit; Redis hands out
duplicates and forgets everything; the rescue takes back what it finds; operators pause, resume and cancel. Whatever the
order: each step is one legal move, no run succeeds twice, no limit of a key is passed, an ordered key begins one run
after the other, and in the end every run has ended.
"""

from typing import Any

import hypothesis.strategies as st
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test
from sqlalchemy import Engine, text

from models import FINAL, MOVES, State
from tests.workers import rows
from tests.workers.trial_jobs import effect, serial, shared
from workers import actions, gates, ledger, rescue
from workers.actions import CANCEL, HOLDS, Selection
from workers.admission import Admission
from workers.ledger import Claim, Ending
from workers.relay import Relay
from workers.runtime import Runtime

WORKERS = st.sampled_from(["first", "second"])
PLACES = st.integers(0, 1_000)
JOBS = [effect.name, serial.name, shared.name]


class Life(RuleBasedStateMachine):
    """The engine, one step at a time."""

    runtime: Runtime

    def __init__(self) -> None:
        super().__init__()
        self.engine: Engine = self.runtime.engine
        rows.change(self.engine, "TRUNCATE runs, attempts, calls, processes, log_lines, pauses RESTART IDENTITY")
        rows.change(self.engine, "UPDATE queues SET paused_at = NULL, resumed_at = NULL, ramp_seconds = NULL")
        self.runtime.redis.flushdb()
        self.relay = Relay(self.engine, self.runtime.delivery())
        self.states: dict[int, str] = {}
        self.process: dict[str, int] = {}
        self.held: dict[str, list[Claim]] = {"first": [], "second": []}
        self.zombies: list[Claim] = []
        self.enter("first")
        self.enter("second")

    def enter(self, worker: str) -> None:
        with self.engine.begin() as connection:
            self.process[worker] = rows.enter(connection)

    def finish(self, held: Claim, **ending: Any) -> int:
        with self.engine.begin() as connection:
            return ledger.finish(connection, [Ending(held.run_id, held.attempt, **ending)])

    @rule(count=st.integers(1, 4))
    def enqueue(self, count: int) -> None:
        with self.engine.begin() as connection:
            for _ in range(count):
                self.states[effect.enqueue(connection, key="a")] = State.WAITING

    @rule(sku=st.sampled_from("ab"), tenant=st.sampled_from("ab"))
    def enqueue_runs_that_share(self, sku: str, tenant: str) -> None:
        with self.engine.begin() as connection:
            self.states[serial.enqueue(connection, sku=sku, number=1)] = State.WAITING
            self.states[shared.enqueue(connection, tenant=tenant)] = State.WAITING

    @rule(kind=st.sampled_from(["queues", "jobs", "keys"]), paused=st.booleans())
    def operator_pauses_or_resumes(self, kind: str, paused: bool) -> None:
        name = {"queues": "trial", "jobs": effect.name, "keys": "a"}[kind]
        with self.engine.begin() as connection:
            if paused:
                actions.pause(connection, HOLDS[kind], name, by="ada")
            else:
                actions.resume(connection, HOLDS[kind], name, by="ada", ramp=0)

    @precondition(lambda self: self.states)
    @rule(place=PLACES)
    def operator_cancels(self, place: int) -> None:
        run_id = sorted(self.states)[place % len(self.states)]
        with self.engine.begin() as connection:
            actions.move(connection, CANCEL, Selection(ids=(run_id,)), by="ada")

    @rule()
    def relay_pushes(self) -> None:
        self.relay.push()

    @rule()
    def relay_dies_between_push_and_commit(self) -> None:
        with self.engine.connect() as connection:
            due = ledger.take_due(connection, {"trial": 100})
            due += Admission().take(connection, gates.read(connection), {"trial": 100})
            self.runtime.delivery().push((run.queue, run.job, run.run_id, run.pushes > 1) for run in due)
            connection.rollback()

    @precondition(lambda self: self.states)
    @rule(place=PLACES)
    def redis_delivers_twice(self, place: int) -> None:
        run_id = sorted(self.states)[place % len(self.states)]
        self.runtime.delivery().push([("trial", effect.name, run_id, True)])

    @rule()
    def redis_forgets_everything(self) -> None:
        self.runtime.redis.flushdb()

    @rule(worker=WORKERS, most=st.integers(1, 5))
    def worker_claims(self, worker: str, most: int) -> None:
        delivery = self.runtime.delivery()
        ids, _ = delivery.fetch("trial", most)
        wanted = sorted({int(found) for found in ids})
        self.held[worker] += rows.claim(self.engine, self.process[worker], *wanted, jobs=JOBS)
        delivery.forget("trial", ids)

    @rule()
    def a_worker_fetches_and_loses_it(self) -> None:
        self.runtime.delivery().fetch("trial", 2)

    @precondition(lambda self: any(self.held.values()))
    @rule(worker=WORKERS, how=st.sampled_from(["succeeded", "failed", "snoozed", "shutdown"]))
    def worker_finishes(self, worker: str, how: str) -> None:
        if not self.held[worker]:
            return
        held = self.held[worker].pop()
        if how == "succeeded":
            assert self.finish(held, state="succeeded", outcome="succeeded") == 1
        else:
            assert self.finish(held, state="waiting", outcome=how, counts=how == "failed") == 1

    @rule(worker=WORKERS)
    def worker_dies_and_is_found(self, worker: str) -> None:
        """Its runs are taken back; it may have been frozen only, so it may still speak."""
        process = self.process[worker]
        rows.change(
            self.engine, "UPDATE processes SET heartbeat_at = now() - interval '1 hour' WHERE id = :id", id=process
        )
        rescue.rescue(self.engine, self.runtime.delivery())
        self.zombies += self.held[worker]
        self.held[worker] = []
        self.enter(worker)

    @precondition(lambda self: self.zombies)
    @rule(place=PLACES)
    def zombie_speaks(self, place: int) -> None:
        zombie = self.zombies.pop(place % len(self.zombies))
        assert self.finish(zombie, state="succeeded", outcome="succeeded") == 0

    @precondition(lambda self: self.states)
    @rule(place=PLACES)
    def operator_asks_a_running_run_to_stop(self, place: int) -> None:
        run_id = sorted(self.states)[place % len(self.states)]
        asked = "UPDATE runs SET cancel_requested_at = now() WHERE id = :id AND state = 'running'"
        rows.change(self.engine, asked, id=run_id)

    @rule()
    def time_passes(self) -> None:
        rows.change(self.engine, "UPDATE runs SET due_at = now() WHERE state = 'waiting'")
        rows.change(self.engine, "UPDATE runs SET queued_at = now() - interval '1 min' WHERE state = 'queued'")

    @precondition(lambda self: self.states)
    @rule(place=PLACES, limit=st.sampled_from(["expires_at", "deadline_at"]))
    def the_time_of_a_run_is_over(self, place: int, limit: str) -> None:
        run_id = sorted(self.states)[place % len(self.states)]
        rows.change(self.engine, f"UPDATE runs SET {limit} = now() - interval '1 ms' WHERE id = :id", id=run_id)

    @rule()
    def rescue_looks_around(self) -> None:
        rescue.rescue(self.engine, self.runtime.delivery())

    @invariant()
    def each_run_made_at_most_one_legal_move(self) -> None:
        with self.engine.connect() as connection:
            now = dict(map(tuple, connection.execute(text("SELECT id, state FROM runs"))))
        for run_id, state in now.items():
            before = State(self.states[run_id])
            assert state == before or State(state) in MOVES[before], (run_id, before, state)
        self.states = now

    @invariant()
    def no_run_succeeded_twice_and_success_is_the_last_word(self) -> None:
        wrong = """
            SELECT count(*) FROM (
                SELECT run_id, count(*) FILTER (WHERE outcome = 'succeeded') AS successes FROM attempts GROUP BY run_id
            ) counted JOIN runs r ON r.id = run_id WHERE successes <> (r.state = 'succeeded')::int
        """
        assert rows.one(self.engine, wrong) == 0

    @invariant()
    def no_limit_of_a_key_is_passed(self) -> None:
        most = """
            SELECT coalesce(max(many), 0) FROM (
                SELECT count(*) AS many FROM runs WHERE state IN ('queued', 'running') AND job = :job GROUP BY key
            ) AS counted
        """
        assert rows.one(self.engine, most, job=shared.name) <= 2
        assert rows.one(self.engine, most, job=serial.name) <= 1

    @invariant()
    def an_ordered_key_begins_one_run_after_the_other(self) -> None:
        begun = """
            SELECT coalesce(max(many), 0) FROM (
                SELECT count(*) AS many FROM runs
                WHERE job = :job AND (state = 'running' OR state IN ('waiting', 'queued') AND attempt > 0) GROUP BY key
            ) AS counted
        """
        assert rows.one(self.engine, begun, job=serial.name) <= 1

    @invariant()
    def every_running_run_is_held_by_a_worker(self) -> None:
        held = sorted(claim.run_id for claims in self.held.values() for claim in claims)
        running = sorted(run_id for run_id, state in self.states.items() if state == State.RUNNING)
        assert held == running

    def teardown(self) -> None:
        """Let everything calm down: every run ends."""
        for worker in self.held:
            while self.held[worker]:
                self.worker_finishes(worker, "succeeded")
        for kind, name in (("queues", "trial"), ("jobs", effect.name), ("keys", "a")):
            with self.engine.begin() as connection:
                actions.resume(connection, HOLDS[kind], name, by="ada", ramp=0)
                gates.lift(connection)
        for _ in range(100):
            if not rows.unfinished(self.engine):
                break
            self.time_passes()
            self.rescue_looks_around()
            self.relay_pushes()
            self.worker_claims("first", 200)
            while self.held["first"]:
                self.worker_finishes("first", "succeeded")
        self.states = dict.fromkeys(self.states, State.WAITING)
        with self.engine.connect() as connection:
            ended = set(connection.execute(text("SELECT state FROM runs")).scalars())
        assert ended <= FINAL


def test_whatever_happens_in_whatever_order_no_run_is_lost_and_none_succeeds_twice(runtime: Runtime) -> None:
    class Here(Life):
        pass

    Here.runtime = runtime
    quick = settings(
        max_examples=20, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck), database=None
    )
    run_state_machine_as_test(Here, settings=quick)
