"""Jobs of many runs, in a worker as it is served."""

import pytest
from sqlalchemy import Engine

from tests.workers import rows
from tests.workers.conftest import Working
from tests.workers.trial_jobs import effect, together
from workers import ledger
from workers.process import Presence

MOST = 5


def enqueue(engine: Engine, *how: str) -> list[int]:
    with engine.begin() as connection:
        return [together.enqueue(connection, key=str(number), how=word) for number, word in enumerate(how)]


@pytest.mark.usefixtures("relaying")
def test_runs_are_executed_together_and_each_has_its_own_attempt(engine: Engine, working: Working) -> None:
    ids = enqueue(engine, *["tell"] * 23)
    with working(threads=1):
        rows.until(lambda: not rows.unfinished(engine))
    assert rows.one(engine, "SELECT array_agg(run_id ORDER BY run_id) FROM effects") == ids
    assert rows.one(engine, "SELECT max(key::int) FROM effects") == MOST
    assert rows.one(engine, "SELECT count(*) FROM effects WHERE key = '5'") >= 20
    assert {tuple(rows.outcomes(engine, run_id)) for run_id in ids} == {("succeeded",)}
    assert rows.run_row(engine, ids[7]).result == {"told": "7"}


FATES = {
    "": (["succeeded"], "succeeded", None),
    "fail": (["failed", "failed"], "dead", "is no good"),
    "refuse": (["failed"], "dead", "said no"),
    "snooze": (["snoozed", "succeeded"], "succeeded", None),
}


@pytest.mark.usefixtures("relaying")
def test_each_run_has_an_outcome_of_its_own(engine: Engine, working: Working) -> None:
    ids = dict(zip(FATES, enqueue(engine, *FATES), strict=True))
    with working(threads=1):
        rows.until(lambda: not rows.unfinished(engine))
    for how, (outcomes, state, error) in FATES.items():
        row = rows.run_row(engine, ids[how])
        assert (rows.outcomes(engine, ids[how]), row.state) == (outcomes, state), how
        assert (error or "") in (row.error or "")


@pytest.mark.usefixtures("relaying")
def test_what_the_job_raises_is_the_fate_of_those_that_were_not_settled(engine: Engine, working: Working) -> None:
    settled, silent, guilty = enqueue(engine, "tell", "", "raise")
    with working(threads=1):
        rows.until(lambda: not rows.unfinished(engine))
    assert rows.outcomes(engine, settled) == ["succeeded"]
    assert rows.outcomes(engine, guilty) == ["failed", "failed"]
    assert rows.outcomes(engine, silent)[0] == "failed"
    assert rows.attempts(engine, silent)[0].error == "all that said nothing"


@pytest.mark.usefixtures("relaying")
def test_a_run_with_arguments_of_an_older_version_fails_alone(engine: Engine, working: Working) -> None:
    old, new = enqueue(engine, "", "")
    rows.change(engine, "UPDATE runs SET args = '{\"sku\": 1}' WHERE id = :id", id=old)
    with working(threads=1):
        rows.until(lambda: not rows.unfinished(engine))
    assert (rows.state(engine, old), rows.state(engine, new)) == ("dead", "succeeded")
    assert "argument 'key': is required" in rows.run_row(engine, old).error


@pytest.mark.usefixtures("relaying")
def test_a_chunk_over_its_time_limit_times_out_but_for_what_was_settled(engine: Engine, working: Working) -> None:
    settled, late = enqueue(engine, "tell", "linger")
    with working(threads=1):
        rows.until(lambda: not rows.unfinished(engine))
    assert rows.outcomes(engine, settled) == ["succeeded"]
    assert rows.outcomes(engine, late) == ["timed_out", "timed_out"]
    assert rows.run_row(engine, late).error == "took longer than its time limit of 1 s"


@pytest.mark.usefixtures("relaying")
def test_a_stop_puts_a_whole_chunk_back_uncounted(engine: Engine, working: Working) -> None:
    ids = enqueue(engine, "linger", "", "")
    with working(threads=1):
        rows.until(lambda: rows.one(engine, "SELECT count(*) FROM effects") == len(ids))
    assert {tuple(rows.outcomes(engine, run_id)) for run_id in ids} == {("shutdown",)}
    assert rows.one(engine, "SELECT sum(failures) FROM runs") == 0


def test_only_due_runs_of_the_job_that_nobody_holds_are_taken_along(engine: Engine) -> None:
    presence = Presence(engine, "worker").start()
    try:
        ids = enqueue(engine, *[""] * 6)
        with engine.begin() as connection:
            effect.enqueue(connection, key="another job")
            together.options(due_at=rows.one(engine, "SELECT now() + interval '1 hour'")).enqueue(
                connection, key="late"
            )
        rows.change(engine, "UPDATE runs SET state = 'queued', queued_at = now() WHERE id = :id", id=ids[4])
        rows.claim(engine, presence.id, ids[0], jobs=[together.name])
        with engine.begin() as first, engine.begin() as second:
            taken = [c.run_id for c in ledger.claim_beside(first, "trial", [together.name], presence.id, 3)]
            rest = [c.run_id for c in ledger.claim_beside(second, "trial", [together.name], presence.id, 9)]
    finally:
        presence.stop()
    assert sorted(taken) == [ids[1], ids[2], ids[4]]
    assert sorted(rest) == [ids[3], ids[5]]


@pytest.mark.parametrize(
    "hold",
    [
        "UPDATE queues SET paused_at = now() WHERE name = 'trial'",
        "UPDATE queues SET concurrency = 1 WHERE name = 'trial'",
        "INSERT INTO pauses (job, key, paused_at, paused_by) VALUES ('trial_jobs.together', '', now(), 'kim')",
    ],
    ids=["a paused queue", "a limited queue", "a paused job"],
)
def test_a_chunk_takes_nothing_along_that_is_held_back(engine: Engine, hold: str) -> None:
    rows.change(engine, "INSERT INTO queues (name) VALUES ('trial')")
    enqueue(engine, "", "")
    rows.change(engine, hold)
    presence = Presence(engine, "worker").start()
    try:
        with engine.begin() as connection:
            assert ledger.claim_beside(connection, "trial", [together.name], presence.id, 9) == []
    finally:
        presence.stop()
