"""Schedules that operators make and change, and what a deploy does to them."""

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, text

import jobs
from jobs import SKIP, BadArguments, Context, Job, Overlap, Rule, UnknownJob, at, cron, each, every, job
from jobs import _job as registry
from tests.workers import rows
from tests.workers.trial_jobs import effect
from workers import actions, declaring, slots, timetable
from workers.actions import HOLDS, Refused
from workers.slots import Fired

NAME = "test_operators_schedules.chime"
HOURLY = every(hours=1)


def chime(context: Context) -> None:
    """Strike."""
    del context


@pytest.fixture(autouse=True)
def chiming(monkeypatch: pytest.MonkeyPatch) -> Job[[]]:
    """The only job with a schedule, beside one that takes arguments."""
    monkeypatch.setattr(registry, "_registry", {effect.name: effect})
    return job(queue="trial", schedule=HOURLY)(chime)


Doing = Callable[..., Any]


@pytest.fixture
def do(engine: Engine) -> Doing:
    """Return a function that does something in a transaction of its own."""

    def act(action: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        with engine.begin() as connection:
            return action(connection, *arguments, **options)

    return act


def deploy(connection: Connection, me: int = 0, **changed: Any) -> list[str]:
    """Start a scheduler whose code declares the job otherwise."""
    registry._registry[NAME] = replace(registry._registry[NAME], **changed)
    return declaring.declare(connection, jobs.all_jobs().values(), me)


def row(engine: Engine, name: str = NAME) -> Any:
    with engine.connect() as connection:
        return connection.execute(text("SELECT * FROM schedules WHERE name = :name"), {"name": name}).one()


def audit(engine: Engine) -> list[tuple[str, str, str]]:
    with engine.connect() as connection:
        found = connection.execute(text("SELECT actor, action, target FROM audit ORDER BY id"))
        return [(entry.actor, entry.action, entry.target) for entry in found]


def due(engine: Engine, name: str) -> None:
    rows.change(engine, "UPDATE schedules SET next_fire_at = now() WHERE name = :name", name=name)


def test_an_operators_schedule_starts_a_job_with_its_arguments(engine: Engine, do: Doing) -> None:
    planned = do(
        actions.add, "sweep-berlin", effect.name, cron("0 4 * * *", zone="Europe/Berlin"), {"key": "7"}, by="kim"
    )
    found = row(engine, "sweep-berlin")
    assert (found.job, found.args, found.rule, found.zone) == (
        effect.name,
        {"key": "7"},
        "cron 0 4 * * *",
        "Europe/Berlin",
    )
    assert found.next_fire_at == planned.first
    due(engine, "sweep-berlin")
    (fired,) = do(slots.take_due)
    run = rows.run_row(engine, fired.run_id)
    assert (run.job, run.args, run.schedule, run.slot_at) == (effect.name, {"key": "7"}, "sweep-berlin", fired.fire_at)
    assert audit(engine) == [("kim", "schedules add", "sweep-berlin")]


def test_its_policy_is_kept_with_it(engine: Engine, do: Doing) -> None:
    rule = every(minutes=1, missed=SKIP, overlap=Overlap.ALLOW, jitter=600)
    do(actions.add, "often", effect.name, rule, {"key": "a"}, by="kim")
    rows.change(engine, "UPDATE schedules SET next_fire_at = date_trunc('minute', now()) - interval '4 min'")
    (fired,) = do(slots.take_due)
    assert rows.one(engine, "SELECT array_agg(outcome ORDER BY fire_at) FROM slots") == ["missed"] * 4 + ["ran"]
    assert rows.run_row(engine, fired.run_id).due_at > fired.fire_at
    assert row(engine, "often").overlap == "allow"


def test_a_moment_fires_once_and_never_again(engine: Engine, do: Doing) -> None:
    soon = rows.one(engine, "SELECT now() + interval '0.3 s'")
    do(actions.add, "once", effect.name, at(soon.isoformat()), {"key": "a"}, by="kim")
    rows.until(lambda: rows.one(engine, "SELECT now() > :soon", soon=soon))
    (fired,) = do(slots.take_due)
    assert (fired.outcome, row(engine, "once").next_fire_at) == ("ran", None)
    assert do(slots.take_due) == []
    (view,) = do(timetable.schedules)
    assert (view.name, view.next_fire_at, view.last_outcome) == ("once", None, "ran")


@pytest.mark.parametrize(
    ("name", "rule", "words"),
    [
        ("a.b", HOURLY, "no dot"),
        ("", HOURLY, "cannot be the name"),
        ("Über", HOURLY, "cannot be the name"),
        ("late", at("2020-01-01T00:00"), "lies in the past"),
        ("queued", every(hours=1, overlap=Overlap.QUEUE), "would not queue behind"),
    ],
)
def test_what_cannot_be_scheduled_is_refused_with_the_reason(
    engine: Engine, do: Doing, name: str, rule: Rule, words: str
) -> None:
    with pytest.raises(Refused, match=words):
        do(actions.add, name, effect.name, rule, {"key": "a"}, by="kim")
    assert rows.one(engine, "SELECT count(*) FROM schedules") == 0


def test_wrong_arguments_and_unknown_jobs_are_refused_when_it_is_made(do: Doing) -> None:
    with pytest.raises(BadArguments, match="'key': is required"):
        do(actions.add, "a", effect.name, HOURLY, {}, by="kim")
    with pytest.raises(BadArguments, match="'colour': is not one of this job's arguments"):
        do(actions.add, "a", effect.name, HOURLY, {"key": "a", "colour": "red"}, by="kim")
    with pytest.raises(UnknownJob, match="did you mean"):
        do(actions.add, "a", "trial_jobs.effects", HOURLY, {}, by="kim")


def test_two_schedules_of_one_name_are_refused_until_the_first_is_taken_away(engine: Engine, do: Doing) -> None:
    do(actions.add, "mine", effect.name, HOURLY, {"key": "a"}, by="kim")
    with pytest.raises(Refused, match="already"):
        do(actions.add, "mine", effect.name, every(hours=2), {"key": "b"}, by="ada")
    do(actions.remove, "mine", by="kim")
    due(engine, "mine")
    assert do(slots.take_due) == []
    do(actions.add, "mine", effect.name, every(hours=2), {"key": "b"}, by="ada")
    assert (row(engine, "mine").args, row(engine, "mine").retired_at) == ({"key": "b"}, None)


def test_arguments_that_the_job_does_not_take_any_more_end_in_a_slot_that_says_so(engine: Engine, do: Doing) -> None:
    do(actions.add, "mine", effect.name, HOURLY, {"key": "a"}, by="kim")
    rows.change(engine, """UPDATE schedules SET args = '{"colour": "red"}'""")
    due(engine, "mine")
    (fired,) = do(slots.take_due)
    assert (fired.outcome, fired.run_id) == ("refused", None)
    assert "is required" in rows.one(engine, "SELECT note FROM slots")
    assert row(engine, "mine").next_fire_at > fired.fire_at


def test_a_schedule_that_cannot_be_read_holds_no_other(engine: Engine, do: Doing) -> None:
    do(actions.add, "broken", effect.name, HOURLY, {"key": "a"}, by="kim")
    do(actions.add, "well", effect.name, HOURLY, {"key": "a"}, by="kim")
    rows.change(engine, "UPDATE schedules SET next_fire_at = now()")
    rows.change(engine, "UPDATE schedules SET rule = 'when pigs fly' WHERE name = 'broken'")
    assert [fired.schedule for fired in do(slots.take_due)] == ["well"]


def test_a_schedule_that_postgres_refuses_holds_no_other(engine: Engine, do: Doing) -> None:
    do(actions.add, "broken", effect.name, HOURLY, {"key": "a"}, by="kim")
    do(actions.add, "well", effect.name, HOURLY, {"key": "a"}, by="kim")
    rows.change(engine, "UPDATE schedules SET next_fire_at = now()")
    rows.change(engine, "ALTER TABLE runs ADD CONSTRAINT broken_check CHECK (schedule <> 'broken')")
    assert [fired.schedule for fired in do(slots.take_due)] == ["well"]
    assert rows.one(engine, "SELECT array_agg(schedule) FROM slots") == ["well"]


def test_what_the_code_declares_is_recorded_when_it_is_added_changed_retired_and_returns(
    engine: Engine, do: Doing
) -> None:
    do(deploy)
    do(deploy)  # nothing differs
    do(deploy, schedule=cron("0 3 * * *"))
    do(deploy, schedule=None)
    do(deploy, schedule=cron("0 3 * * *"))
    told = [action for actor, action, target in audit(engine) if (actor, target) == ("the code", NAME)]
    assert told == ["schedules add", "schedules change", "schedules retire", "schedules return"]
    details = rows.one(engine, "SELECT details FROM audit WHERE action = 'schedules change'")
    assert details == {"before": "every 1 h (UTC)", "after": "cron 0 3 * * * (UTC)"}


def test_a_policy_that_changed_is_brought_in_line_and_its_next_fire_stays(engine: Engine, do: Doing) -> None:
    do(deploy)
    before = row(engine).next_fire_at
    do(deploy, schedule=every(hours=1, missed=each(most=3, within=60), jitter=5))
    found = row(engine)
    assert (found.missed, found.jitter, found.next_fire_at) == ("each 3 within 60 s", 5, before)


def test_an_operators_rule_outlives_deploys_and_is_given_back(engine: Engine, do: Doing) -> None:
    do(deploy)
    do(actions.change, NAME, every(minutes=10), by="kim", reason="they are slow today")
    assert do(deploy) == []
    found = row(engine)
    assert (found.rule, found.declared_rule, found.changed_by) == ("every 10 min", "every 1 h", "kim")
    due(engine, NAME)
    (fired,) = do(slots.take_due)
    assert row(engine).next_fire_at - fired.fire_at <= timedelta(minutes=10)
    do(actions.as_declared, NAME, by="ada")
    assert (row(engine).rule, row(engine).replaced_rule, row(engine).changed_by) == ("every 1 h", None, None)
    assert [action for _, action, _ in audit(engine)[1:]] == ["schedules change"] * 2


def test_a_rule_that_the_operator_and_the_code_have_changed_is_a_conflict_until_somebody_chooses(
    engine: Engine, do: Doing
) -> None:
    do(deploy)
    do(actions.change, NAME, every(minutes=10), by="kim")
    assert do(deploy, schedule=cron("0 3 * * *")) == [NAME]
    (view,) = do(timetable.schedules)
    assert (view.rule, view.declared_rule, view.in_conflict) == ("every 10 min", "cron 0 3 * * *", True)
    do(actions.change, NAME, every(minutes=10), by="kim")
    assert do(deploy) == []
    assert row(engine).rule == "every 10 min"


def test_what_an_operator_made_is_not_retired_by_a_deploy_and_what_the_code_declares_is_not_taken_away(
    engine: Engine, do: Doing
) -> None:
    do(actions.add, "mine", effect.name, HOURLY, {"key": "a"}, by="kim")
    do(deploy)
    assert row(engine, "mine").retired_at is None
    with pytest.raises(Refused, match="`headrace schedules pause"):
        do(actions.remove, NAME, by="kim")
    with pytest.raises(Refused, match="no code declares it"):
        do(actions.as_declared, "mine", by="kim")
    with pytest.raises(Refused, match="fires as the code declares it"):
        do(actions.as_declared, NAME, by="kim")
    with pytest.raises(Refused, match="did you mean mine"):
        do(actions.change, "mime", HOURLY, by="kim")


def test_a_schedule_is_retired_when_no_living_scheduler_has_it_in_its_code(engine: Engine, do: Doing) -> None:
    do(deploy)
    older = "INSERT INTO processes (kind, host, pid, version, jobs) VALUES ('scheduler', 'old', 1, '0', ARRAY[:name])"
    rows.change(engine, older, name=NAME)
    do(deploy, schedule=None)
    assert row(engine).retired_at is None
    rows.change(engine, "UPDATE processes SET heartbeat_at = now() - interval '1 h'")
    do(deploy)
    assert row(engine).retired_at is not None


def enter(engine: Engine, *names: str) -> int:
    """Enter a living scheduler that has these schedules in its code."""
    known = "('scheduler', 'here', 1, '0', CAST(:names AS text[]))"
    statement = f"INSERT INTO processes (kind, host, pid, version, jobs) VALUES {known} RETURNING id"
    return int(rows.one(engine, statement, names=list(names)))


def test_of_schedulers_of_two_releases_the_youngest_decides(engine: Engine, do: Doing) -> None:
    old, new = enter(engine, NAME), enter(engine, NAME)
    do(deploy, me=new, schedule=cron("0 3 * * *"))
    do(deploy, me=old, schedule=HOURLY)
    assert row(engine).rule == "cron 0 3 * * *"
    rows.change(engine, "UPDATE processes SET stopped_at = now() WHERE id = :new", new=new)
    do(deploy, me=old, schedule=every(hours=2))
    assert row(engine).rule == "every 2 h"


def test_a_schedule_whose_job_stays_in_the_code_without_it_fires_no_more(engine: Engine, do: Doing) -> None:
    do(deploy, me=enter(engine, NAME))
    rows.change(engine, "UPDATE processes SET stopped_at = now(), heartbeat_at = now()")
    do(deploy, me=enter(engine), schedule=None)
    due(engine, NAME)
    assert do(slots.take_due) == []
    assert row(engine).retired_at is not None


def test_what_only_a_scheduler_that_was_found_dead_had_in_its_code_is_retired_later(engine: Engine, do: Doing) -> None:
    do(deploy, me=enter(engine, NAME))
    me = enter(engine)
    dead = "UPDATE processes SET stopped_at = now(), heartbeat_at = now() - CAST(:ago AS interval) WHERE id <> :me"
    rows.change(engine, dead, me=me, ago="1 min")
    do(deploy, me=me, schedule=None)
    assert row(engine).retired_at is None
    rows.change(engine, dead, me=me, ago="10 min")
    do(deploy, me=me)
    assert row(engine).retired_at is not None


def test_a_replaced_rule_that_returns_brings_no_backlog(engine: Engine, do: Doing) -> None:
    do(deploy)
    do(actions.change, NAME, every(minutes=10), by="kim")
    do(deploy, schedule=None)
    rows.change(engine, "UPDATE schedules SET next_fire_at = now() - interval '7 days'")
    do(deploy, schedule=HOURLY)
    assert (row(engine).rule, do(slots.take_due)) == ("every 10 min", [])


def test_a_name_that_is_used_again_is_not_paused(engine: Engine, do: Doing) -> None:
    do(actions.add, "mine", effect.name, HOURLY, {"key": "a"}, by="kim")
    do(actions.pause, HOLDS["schedules"], "mine", by="kim")
    do(actions.remove, "mine", by="kim")
    do(actions.add, "mine", effect.name, HOURLY, {"key": "a"}, by="ada")
    due(engine, "mine")
    assert [fired.outcome for fired in do(slots.take_due)] == ["ran"]


def test_fires_of_a_paused_queue_share_one_run_whatever_the_policy_is(engine: Engine, do: Doing) -> None:
    do(actions.add, "often", effect.name, every(minutes=1, overlap=Overlap.ALLOW), {"key": "a"}, by="kim")

    def fire() -> Fired:
        rows.change(engine, "UPDATE schedules SET next_fire_at = clock_timestamp()")
        fired: Fired = do(slots.take_due)[0]
        return fired

    assert [fire().outcome for _ in range(2)] == ["ran", "ran"]
    rows.change(engine, "INSERT INTO queues (name, paused_at) VALUES ('trial', now())")
    assert fire().outcome == "coalesced"
    assert "had not ended and does its work" in rows.one(engine, "SELECT note FROM slots ORDER BY id DESC LIMIT 1")
