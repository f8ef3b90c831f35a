"""Batches and chains under everything that may move a run, in any order: the counters are those of the rows.

Workers claim and end members in sets, die and are found; operators run again, cancel and discard; runs are enqueued
behind others at any time, and removed.
"""

import hypothesis.strategies as st
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test
from sqlalchemy import Engine, text

from jobs import batch
from models import NEVER, State
from tests.workers import rows
from tests.workers.trial_jobs import effect, nothing
from workers import actions, ledger, rescue
from workers.actions import CANCEL, DISCARD, RESTORE, RETRY, Selection
from workers.ledger import Ending
from workers.runtime import Runtime

PLACES = st.integers(0, 1_000)
ENDS = {"succeeded": "succeeded", "dead": "failed", "waiting": "snoozed", "cancelled": "cancelled"}
ENDED = (State.DEAD, State.CANCELLED)


class Composition(RuleBasedStateMachine):
    """Batches and chains, one step at a time."""

    engine: Engine

    def __init__(self) -> None:
        super().__init__()
        rows.change(self.engine, "TRUNCATE runs, attempts, calls, log_lines, processes, batches RESTART IDENTITY")
        self.runs: list[int] = []
        #: Callbacks of a batch that were seen, which never change any more.
        self.called: dict[tuple[int, str], int] = {}

    def picked(self, *places: int) -> tuple[int, ...]:
        return tuple({self.runs[place % len(self.runs)] for place in places})

    @rule(count=st.integers(0, 4), chained=st.booleans())
    def write_a_batch(self, count: int, chained: bool) -> None:
        with self.engine.begin() as connection, batch(connection, "b") as made:
            members = made.add_many(effect, [{"key": "a"}] * count)
            if chained and members:
                members.append(made.add(effect.after(members[-1]), key="b"))
            made.on_finish(nothing)
            made.on_success(nothing)
        self.runs += members

    @precondition(lambda self: self.runs)
    @rule(place=PLACES)
    def enqueue_behind(self, place: int) -> None:
        with self.engine.begin() as connection:
            self.runs.append(effect.after(*self.picked(place)).enqueue(connection, key="c"))

    @precondition(lambda self: self.runs)
    @rule(places=st.lists(PLACES, min_size=1, max_size=5), how=st.sampled_from(sorted(ENDS)))
    def a_worker_ends_some(self, places: list[int], how: str) -> None:
        with self.engine.begin() as connection:
            held = ledger.claim(connection, self.picked(*places), rows.enter(connection), [effect.name])
        with self.engine.begin() as connection:
            ledger.finish(connection, [Ending(run.run_id, run.attempt, state=how, outcome=ENDS[how]) for run in held])

    @precondition(lambda self: self.runs)
    @rule(places=st.lists(PLACES, min_size=1, max_size=5), cancelled=st.booleans())
    def a_worker_dies_with_some(self, places: list[int], cancelled: bool) -> None:
        with self.engine.begin() as connection:
            process = rows.enter(connection)
            ledger.claim(connection, self.picked(*places), process, [effect.name])
            if cancelled:
                actions.move(connection, CANCEL, Selection(ids=self.picked(*places)), by="ada")
            connection.execute(text("UPDATE processes SET stopped_at = now() WHERE id = :id"), {"id": process})
        with self.engine.begin() as connection:
            rescue.take_back(connection)
        rows.change(self.engine, f"UPDATE runs SET due_at = now() WHERE state = 'waiting' AND due_at < '{NEVER}'")

    @precondition(lambda self: self.runs)
    @rule(places=st.lists(PLACES, min_size=1, max_size=4), kind=st.sampled_from([CANCEL, DISCARD, RESTORE, RETRY]))
    def an_operator_moves_some(self, places: list[int], kind: actions.Move) -> None:
        with self.engine.begin() as connection:
            actions.move(connection, kind, Selection(ids=self.picked(*places)), by="ada")

    @invariant()
    def the_counters_are_those_of_the_rows(self) -> None:
        wrong = """
            SELECT count(*) FROM batches b CROSS JOIN LATERAL (
                SELECT count(*) AS total, count(*) FILTER (WHERE state = 'succeeded') AS succeeded,
                       count(*) FILTER (WHERE state = 'dead') AS dead,
                       count(*) FILTER (WHERE state = 'cancelled') AS cancelled
                FROM runs WHERE batch_id = b.id) AS c
            WHERE (b.total, b.succeeded, b.dead, b.cancelled)
                IS DISTINCT FROM (c.total, c.succeeded, c.dead, c.cancelled)
        """
        assert rows.one(self.engine, wrong) == 0

    @invariant()
    def each_callback_is_written_once_and_when_it_is_due(self) -> None:
        with self.engine.connect() as connection:
            batches = connection.execute(text("SELECT * FROM batches")).all()
        for found in batches:
            self.note(found.id, "finish", found.finish_run_id)
            self.note(found.id, "success", found.success_run_id)
            assert found.finish_run_id or found.total > found.succeeded + found.dead + found.cancelled
            assert found.success_run_id or found.total > found.succeeded
            assert found.finish_run_id or not found.success_run_id
        written = "SELECT count(*) FROM runs WHERE job = :job"
        assert rows.one(self.engine, written, job=nothing.name) == len(self.called)

    def note(self, number: int, which: str, run_id: int | None) -> None:
        assert self.called.get((number, which), run_id) == run_id
        if run_id is not None:
            self.called[number, which] = run_id

    @invariant()
    def no_run_began_before_the_one_that_it_waits_for_had_succeeded(self) -> None:
        early = """
            SELECT count(*) FROM runs r WHERE r.after_id IS NOT NULL AND r.attempt > 0 AND NOT EXISTS (
                SELECT 1 FROM attempts WHERE run_id = r.after_id AND outcome = 'succeeded')
        """
        assert rows.one(self.engine, early) == 0

    @invariant()
    def whoever_still_waits_does_so_for_a_reason(self) -> None:
        stuck = """
            SELECT count(*) FROM runs r JOIN runs b ON b.id = r.after_id
            WHERE r.state = 'waiting' AND (b.state = 'succeeded' AND r.due_at = :never OR NOT b.followed)
                AND r.due_at = :never
        """
        assert rows.one(self.engine, stuck, never=NEVER) == 0

    def teardown(self) -> None:
        """Run everything again until it has succeeded: then every batch has, too."""
        for _ in range(50):
            with self.engine.begin() as connection:
                actions.move(connection, RETRY, Selection(states=ENDED, job=effect.name), by="ada")
            if not self._drain():
                break
        unhappy = "SELECT count(*) FROM batches WHERE success_run_id IS NULL"
        assert rows.one(self.engine, unhappy) == 0
        self.the_counters_are_those_of_the_rows()

    def _drain(self) -> int:
        """End what may be ended well; return how many runs are left."""
        if self.runs:
            self.a_worker_ends_some(list(range(len(self.runs))), "succeeded")
        left = "SELECT count(*) FROM runs WHERE job = :job AND state <> 'succeeded'"
        return int(rows.one(self.engine, left, job=effect.name))


def test_whatever_moves_the_members_the_counters_are_right_and_callbacks_come_once(runtime: Runtime) -> None:
    class Here(Composition):
        pass

    Here.engine = runtime.engine
    quick = settings(
        max_examples=30, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck), database=None
    )
    run_state_machine_as_test(Here, settings=quick)
