"""Each condition finds what should not go on, says what to do, and lets the rest be."""

import json
from collections.abc import Sequence

import pytest
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from jobs import _conditions
from jobs._conditions import Finding, counted, lasting, look
from models import Kind
from tests.workers import rows

WORKER = "INSERT INTO processes (kind, host, pid, version, queues, heartbeat_at, stopped_at) VALUES "


def found(engine: Engine, kind: Kind, queues: Sequence[str] = ("search",)) -> list[Finding]:
    """Return what is found of one kind."""
    with Session(engine) as session:
        return [finding for finding in look(session, queues=queues, run_id=1) if finding.kind is kind]


def subjects(engine: Engine, kind: Kind, queues: Sequence[str] = ("search",)) -> set[str]:
    return {finding.subject for finding in found(engine, kind, queues)}


def add_run(engine: Engine, state: str, **values: object) -> None:
    """Write a run; moments are given as SQL."""
    given = {"job": "'a.b'", "queue": "'search'", "args": "'{}'", "max_attempts": 1, "state": f"'{state}'"} | values
    rows.change(
        engine, f"INSERT INTO runs ({', '.join(given)}) VALUES ({', '.join(str(value) for value in given.values())})"
    )


def ago(**units: int) -> str:
    """Return a moment in the past as SQL."""
    return "now() - interval '" + " ".join(f"{number} {unit}" for unit, number in units.items()) + "'"


def test_an_empty_installation_has_nothing_but_queues_that_nobody_serves(engine: Engine) -> None:
    with Session(engine) as session:
        assert {(f.kind, f.subject) for f in look(session, queues=["search"], run_id=1)} == {(Kind.UNSERVED, "search")}
        assert look(session, queues=[], run_id=1) == []


SCHEDULE = "INSERT INTO schedules (name, rule, zone, next_fire_at, paused_at, retired_at) VALUES "
SLOT = "INSERT INTO slots (schedule, fire_at, outcome, recorded_at) VALUES "


def test_a_fire_that_came_too_late_or_not_at_all_is_missed(engine: Engine) -> None:
    rows.change(
        engine,
        SCHEDULE
        + f"""('a.fine', 'r', 'UTC', now(), NULL, NULL), ('a.overdue', 'r', 'UTC', {ago(minutes=6)}, NULL, NULL),
        ('a.paused', 'r', 'UTC', {ago(minutes=6)}, now(), NULL), ('a.retired', 'r', 'UTC', {ago(days=1)}, NULL, now()),
        ('a.late', 'r', 'UTC', now(), NULL, NULL), ('a.stumbled', 'r', 'UTC', now(), NULL, NULL),
        ('a.history', 'r', 'UTC', now(), NULL, NULL), ('a.refused', 'r', 'UTC', NULL, NULL, NULL)""",
    )
    rows.change(
        engine,
        SLOT
        + f"""('a.fine', {ago(hours=3)}, 'ran', now()), ('a.late', {ago(hours=3)}, 'missed', now()),
        ('a.late', {ago(hours=2)}, 'caught_up', now()), ('a.refused', now(), 'refused', now()),
        ('a.stumbled', {ago(minutes=4)}, 'caught_up', now()),
        ('a.history', {ago(days=2)}, 'missed', {ago(hours=2)})""",
    )
    assert subjects(engine, Kind.MISSED) == {"a.overdue", "a.late", "a.refused"}
    late, overdue, _ = sorted(found(engine, Kind.MISSED), key=lambda finding: finding.subject)
    assert late.sentence.startswith("2 fires of a.late came more than 5 min too late or could not run, the last ")
    assert "1 of them made up for by nothing: see `headrace schedules slots a.late`." in late.sentence
    assert "a.overdue should have fired 6 min ago" in overdue.sentence


def test_a_queue_is_late_by_its_oldest_due_run_wherever_that_waits(engine: Engine) -> None:
    late = {"due_at": ago(minutes=6)}
    add_run(engine, "waiting", queue="'plain'", priority=3, **late)
    add_run(engine, "waiting", queue="'plain'", due_at=ago(minutes=1))
    add_run(engine, "waiting", queue="'keyed'", key="'k'", **late)
    add_run(engine, "queued", queue="'pushed'", queued_at="now()", **late)
    add_run(engine, "running", queue="'busy'", **late)
    add_run(engine, "waiting", queue="'fine'", due_at=ago(minutes=4))
    queues = ["plain", "keyed", "pushed", "busy", "fine"]
    assert subjects(engine, Kind.LATE, queues) == {"plain", "keyed", "pushed"}
    assert "waits for 6 min, limit 5 min" in found(engine, Kind.LATE, ["plain"])[0].sentence


def test_a_run_whose_turn_has_not_come_is_not_late_but_the_first_of_its_key_is(engine: Engine) -> None:
    late = {"due_at": ago(minutes=6)}
    for queue, ahead in (("behind", "running"), ("retried", "waiting")):
        add_run(
            engine, ahead, job=f"'{queue}'", queue=f"'{queue}'", key="'k'", attempt=1, due_at="now() + interval '1 h'"
        )
        add_run(engine, "waiting", job=f"'{queue}'", queue=f"'{queue}'", key="'k'", **late)
    add_run(engine, "waiting", job="'first'", queue="'first'", key="'k'", **late)
    add_run(engine, "waiting", job="'first'", queue="'first'", key="'k'", due_at=ago(minutes=5))
    assert subjects(engine, Kind.LATE, ["behind", "retried", "first"]) == {"first"}


def test_what_a_person_paused_is_not_late_and_what_was_resumed_gets_its_time(engine: Engine) -> None:
    for queue in ("held", "resumed", "other"):
        add_run(engine, "waiting", queue=f"'{queue}'", due_at=ago(hours=6))
        rows.change(engine, "INSERT INTO queues (name) VALUES (:name)", name=queue)
    add_run(engine, "queued", job="'a.held'", queue="'other'", due_at=ago(hours=6), queued_at="now()")
    rows.change(engine, "UPDATE queues SET paused_at = now() WHERE name = 'held'")
    rows.change(engine, "UPDATE queues SET resumed_at = now() WHERE name = 'resumed'")
    assert subjects(engine, Kind.LATE, []) == {"other"}
    rows.change(engine, "INSERT INTO pauses (job, key, paused_at) VALUES ('a.b', '', now()), ('a.held', '', now())")
    assert subjects(engine, Kind.LATE, []) == set()
    add_run(engine, "waiting", job="'a.c'", queue="'other'", due_at=ago(minutes=7))
    assert "for 7 min" in found(engine, Kind.LATE, [])[0].sentence


def test_a_queue_is_unserved_a_minute_after_its_last_worker(engine: Engine) -> None:
    rows.change(
        engine,
        WORKER
        + f"""('worker', 'h', 1, '1', '{{search}}', {ago(seconds=30)}, now()),
        ('worker', 'h', 2, '1', '{{stripe}}', {ago(minutes=2)}, NULL), ('relay', 'h', 3, '1', '{{}}', now(), NULL)""",
    )
    rows.change(engine, "INSERT INTO queues (name) VALUES ('forgotten'), ('used')")
    add_run(engine, "waiting", queue="'used'", key="'k'")
    assert subjects(engine, Kind.UNSERVED, ["search", "stripe"]) == {"stripe", "used"}
    stripe, used = sorted(found(engine, Kind.UNSERVED, ["search", "stripe"]), key=lambda finding: finding.subject)
    assert "0 runs there cannot go on: start `python -m workers.worker --queues stripe`" in stripe.sentence
    assert "and none ever did, 1 run there" in used.sentence


def test_a_queue_that_never_had_a_worker_is_given_a_minute_after_a_deploy(engine: Engine) -> None:
    rows.change(engine, WORKER + "('worker', 'h', 1, '1', '{alerts}', now(), NULL)")
    add_run(engine, "running", process_id=1)
    assert subjects(engine, Kind.UNSERVED) == set()
    rows.change(engine, "UPDATE processes SET started_at = now() - interval '61 s'")
    assert subjects(engine, Kind.UNSERVED) == {"search"}


def test_a_stream_is_stale_by_its_last_complete_walk_or_by_the_walk_that_never_ends(engine: Engine) -> None:
    add_run(engine, "running", created_at=ago(hours=3))
    rows.change(
        engine,
        f"""INSERT INTO streams (upstream, name, walked_at, run_id) VALUES
        ('warehouse', 'products', {ago(hours=3)}, NULL), ('warehouse', 'levels', {ago(hours=1)}, NULL),
        ('warehouse', 'new', NULL, NULL), ('warehouse', 'endless', NULL, 1)""",
    )
    rows.change(engine, "INSERT INTO upstreams (name, paused_at, paused_by) VALUES ('warehouse', now(), 'kim')")
    assert subjects(engine, Kind.STALE) == {"warehouse/products", "warehouse/endless"}
    endless, products = sorted(found(engine, Kind.STALE), key=lambda finding: finding.subject)
    assert "was last read 3 h ago, limit 2 h (kim paused warehouse)" in products.sentence
    assert "was never read to its end" in endless.sentence


def test_a_job_is_dying_while_its_runs_die_and_alerts_never_speak_of_themselves(engine: Engine) -> None:
    add_run(engine, "dead", finished_at=ago(minutes=50), error="'older'")
    add_run(engine, "dead", finished_at=ago(minutes=10), error="'newer'")
    add_run(engine, "dead", job="'a.old'", finished_at=ago(hours=2))
    add_run(engine, "dead", job="'alerts.to_slack'", finished_at="now()")
    add_run(engine, "dead", job="'maintenance.check_ledger'", finished_at="now()")
    add_run(engine, "succeeded", job="'a.fine'", finished_at="now()")
    assert subjects(engine, Kind.DYING) == {"a.b"}
    assert found(engine, Kind.DYING)[0].sentence.startswith("2 runs of a.b died within the last 60 min (newer): see ")


VERIFY = {"job": "'search.verify'", "finished_at": "now()"}
LEDGER = {"job": "'maintenance.check_ledger'", "finished_at": "now()"}


def test_drift_is_what_the_last_daily_checks_said(engine: Engine) -> None:
    assert found(engine, Kind.DRIFT) == []
    add_run(engine, "succeeded", **VERIFY, result="""'{"missing": 2, "stale": 1, "orphans": 0, "compared": 9}'""")
    add_run(engine, "dead", **LEDGER, error="'1 of 9 levels do not add up'")
    assert subjects(engine, Kind.DRIFT) == {"search index", "stock ledger"}
    said = {finding.subject: finding.sentence for finding in found(engine, Kind.DRIFT)}
    assert said["search index"].startswith("The last check found 3 products not the same")
    assert "1 of 9 levels do not add up" in said["stock ledger"]
    add_run(engine, "succeeded", **VERIFY, result="""'{"missing": 0, "stale": 0, "orphans": 0}'""")
    add_run(engine, "succeeded", **LEDGER, result="""'{"levels": 9, "wrong": 0}'""")
    assert found(engine, Kind.DRIFT) == []


def test_drift_of_a_stream_lasts_until_that_stream_is_compared_again(engine: Engine) -> None:
    def compared(**streams: int) -> None:
        counts = {name: {"missing": 1, "stale": n, "orphans": 0, "repaired": 1} for name, n in streams.items()}
        add_run(engine, "succeeded", job="'warehouse.verify'", finished_at="now()", result=f"'{json.dumps(counts)}'")

    compared(products=3, stock_levels=0)
    compared(stock_levels=2)
    said = {finding.subject: finding.sentence for finding in found(engine, Kind.DRIFT)}
    assert said["warehouse/products"].startswith("The last check found 3 items of warehouse/products not the same")
    assert "`headrace streams repair warehouse/stock_levels`" in said["warehouse/stock_levels"]
    compared(products=0, stock_levels=0)
    assert found(engine, Kind.DRIFT) == []


def test_a_pause_that_nobody_ended_for_a_day_is_found_and_one_with_an_end_is_not(engine: Engine) -> None:
    old = ago(hours=25)
    rows.change(
        engine,
        f"""INSERT INTO queues (name, paused_at, paused_by, reason, paused_until) VALUES
        ('search', {old}, 'kim', 'upgrade', NULL), ('stripe', {old}, 'kim', NULL, now() + interval '1 day'),
        ('fresh', now(), 'kim', NULL, NULL)""",
    )
    rows.change(
        engine,
        f"INSERT INTO pauses (job, key, paused_at) VALUES ('a.b', '', {old}), ('', 'acme', {old}), ('a.b', 'k', {old})",
    )
    rows.change(engine, f"INSERT INTO upstreams (name, paused_at) VALUES ('warehouse', {old})")
    rows.change(engine, SCHEDULE + f"('a.b', 'r', 'UTC', now(), {old}, NULL)")
    held = {"queue search", "job a.b", "key acme", "key a.b k", "upstream warehouse", "schedule a.b"}
    assert subjects(engine, Kind.HELD) == held
    said = next(finding.sentence for finding in found(engine, Kind.HELD) if finding.subject == "queue search")
    assert said.startswith("kim paused the queue search at ")
    assert said.endswith("UTC (upgrade) and nobody has resumed it: `headrace queues resume` lets it go on.")


def test_a_circuit_that_is_open_for_too_long_is_told_while_somebody_probes_it(engine: Engine) -> None:
    rows.change(
        engine,
        f"""INSERT INTO upstreams (name, circuit_opened_at, next_probe_at, circuit_error)
        VALUES ('warehouse', {ago(minutes=12)}, now(), 'it did not answer: later.'),
        ('stripe', {ago(minutes=4)}, now(), ''),
        ('depot', {ago(hours=12)}, {ago(minutes=6)}, 'nothing needs it')""",
    )
    (told,) = found(engine, Kind.CIRCUIT)
    assert told.subject == "warehouse"
    assert told.sentence == (
        "The circuit of warehouse is open for 12 min, limit 5 min (it did not answer: later): what needs it waits and"
        " goes on by itself; ask the people of warehouse, see `headrace upstreams list`."
    )


def test_every_kind_but_the_trial_is_looked_for() -> None:
    assert [kind for kind, *_ in _conditions.CONDITIONS] == [kind for kind in Kind if kind is not Kind.TEST]


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0, "0 s"), (119, "119 s"), (120, "2 min"), (7199, "119 min"), (7200, "2 h"), (200_000, "2 d")],
)
def test_a_duration_is_said_in_the_largest_unit_of_which_there_are_two(seconds: float, said: str) -> None:
    assert lasting(seconds) == said
    assert (counted(1, "run"), counted(1_000, "run")) == ("1 run", "1,000 runs")
