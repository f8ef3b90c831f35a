"""A job, the registry of all jobs, and the run that an enqueue writes."""

import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, Row, text
from sqlalchemy.orm import Session, sessionmaker

import jobs
from integrations import EventKey, Rejected
from jobs import Backoff, BadRule, Context, UnknownJob, every, job
from jobs import _job as registry
from workers.entry import enter

AT = datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC)


@pytest.fixture(autouse=True)
def own_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Jobs that are recorded here are forgotten here."""
    jobs.load()
    monkeypatch.setattr(registry, "_registry", dict(registry._registry))


def total(context: Context, *, numbers: list[int], times: int = 1) -> dict[str, int]:
    """Add up."""
    del context
    return {"total": sum(numbers) * times}


def test_a_job_is_recorded_under_its_topic_and_function_and_stays_a_function(make_context: object) -> None:
    recorded = job(queue="sums", max_attempts=4, time_limit=9)(total)
    assert recorded.name == "test_job.total"
    assert jobs.find("test_job.total") is recorded
    assert (recorded.queue, recorded.max_attempts, recorded.time_limit) == ("sums", 4, 9)
    assert callable(make_context)
    assert recorded(make_context(), numbers=[1, 2]) == {"total": 3}
    assert recorded.run(make_context(), {"numbers": ["1", 2], "times": 2}) == {"total": 6}


def test_a_schedule_on_a_job_that_needs_arguments_is_refused() -> None:
    with pytest.raises(ValueError, match="has a schedule, which gives no arguments: give 'numbers' a default"):
        job(schedule=every(hours=1))(total)


def test_two_jobs_of_one_name_are_refused() -> None:
    job()(total)
    with pytest.raises(ValueError, match=r"two jobs are called test_job\.total: rename one"):
        job()(total)


def test_an_unknown_job_suggests_the_nearest_name() -> None:
    job()(total)
    with pytest.raises(UnknownJob, match=r"no job called 'test_job\.totl': did you mean test_job\.total\?"):
        jobs.find("test_job.totl")
    with pytest.raises(UnknownJob, match="`headrace jobs` lists them all"):
        jobs.find("§§§§")


def test_an_event_finds_the_job_that_answers_it() -> None:
    recorded = job(on=[EventKey("mill", "wheel.stuck")])(total)
    assert jobs.handler_of("mill", "wheel.stuck") is recorded
    assert jobs.handler_of("mill", "wheel.turns") is None
    assert jobs.handler_of("other", "wheel.stuck") is None


def test_a_run_carries_all_that_was_said_at_its_enqueue(engine: Engine) -> None:
    recorded = job(queue="sums", max_attempts=4)(total)
    with engine.begin() as connection:
        options = recorded.options(due_at=AT, unique_key="k", slot=("test_job.total", AT), event_id=7)
        run_id = options.enqueue(connection, numbers=[1])
        row = connection.execute(text("SELECT * FROM runs WHERE id = :id"), {"id": run_id}).one()
    assert (row.job, row.queue, row.args, row.max_attempts) == ("test_job.total", "sums", {"numbers": [1]}, 4)
    assert (row.due_at, row.unique_key, row.schedule, row.slot_at, row.event_id) == (
        AT,
        "k",
        "test_job.total",
        AT,
        7,
    )
    assert (row.state, row.attempt, row.failures, row.pushes) == ("waiting", 0, 0, 0)


def test_options_are_for_one_enqueue(engine: Engine) -> None:
    recorded = job()(total)
    recorded.options(unique_key="k")
    with engine.begin() as connection:
        assert recorded.enqueue(connection, numbers=[1]) != recorded.enqueue(connection, numbers=[1])


def test_a_run_is_due_at_once_by_the_databases_clock(engine: Engine) -> None:
    recorded = job()(total)
    with engine.begin() as connection:
        recorded.enqueue(connection, numbers=[1])
        assert connection.execute(text("SELECT due_at BETWEEN now() AND clock_timestamp() FROM runs")).scalar_one()


def test_a_run_is_part_of_the_callers_transaction(sessions: sessionmaker[Session]) -> None:
    recorded = job()(total)
    with sessions() as session:
        recorded.enqueue(session, numbers=[1])
        session.rollback()
        assert session.execute(text("SELECT count(*) FROM runs")).scalar_one() == 0
        recorded.enqueue(session, numbers=[1])
        session.commit()
    with sessions() as session:
        assert session.execute(text("SELECT count(*) FROM runs")).scalar_one() == 1


def test_a_schedule_that_cannot_be_read_is_named_with_its_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source = "from jobs import cron, job\n@job(schedule=cron('61 * * * *'))\ndef chime(context: object) -> None: ...\n"
    (tmp_path / "bells.py").write_text(source)
    monkeypatch.setattr(jobs, "__path__", [str(tmp_path)])
    line = "jobs/bells.py: the cron rule '61 * * * *' cannot be read: Bad minute"
    with pytest.raises(BadRule, match=re.escape(line)):
        jobs.load()
    monkeypatch.setenv("DATABASE_URL", "postgresql://here/x")
    monkeypatch.setenv("REDIS_URL", "redis://here/0")
    monkeypatch.setenv("ELASTICSEARCH_URL", "http://here")
    with pytest.raises(SystemExit) as ended, enter("scheduler", connections=1):
        pass
    assert ended.value.code == 2
    assert capsys.readouterr().err.splitlines()[-1] == f"headrace: {line}"


def test_a_job_is_found_under_the_names_it_had_before() -> None:
    recorded = job(formerly=("sums.add", "sums.total"))(total)
    assert jobs.find("sums.add") is jobs.find("sums.total") is jobs.find("test_job.total") is recorded
    assert recorded.name == "test_job.total"
    assert "sums.add" not in jobs.all_jobs()
    assert jobs.names()["sums.add"] is recorded


def other(context: Context) -> None:
    """Do something else."""
    del context


def test_two_jobs_that_claim_one_name_are_refused() -> None:
    job(formerly=("sums.add",))(total)
    with pytest.raises(ValueError, match=r"^test_job\.other and test_job\.total both claim the name sums\.add: let"):
        job(formerly=("sums.add",))(other)
    with pytest.raises(ValueError, match=r"both claim the name test_job\.total"):
        job(formerly=("test_job.total",))(other)
    job(formerly=("sums.other",))(other)


def test_a_new_job_does_not_get_a_name_that_another_one_had() -> None:
    job(formerly=("test_job.other",))(total)
    with pytest.raises(ValueError, match=r"test_job\.other and test_job\.total both claim the name test_job\.other"):
        job()(other)


def test_a_backoff_after_an_error_that_is_never_retried_is_refused() -> None:
    with pytest.raises(ValueError, match=r"has a backoff for Rejected, which is followed by no pause: leave it out"):
        job(backoffs={Rejected: Backoff(1)})(total)


@pytest.mark.parametrize("limits", [{"expires": 0}, {"retry_for": -1.0}, {"expires": float("nan")}])
def test_a_run_that_would_end_before_it_begins_is_refused(limits: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="expires and retry_for are seconds, more than 0"):
        job(expires=limits.get("expires"), retry_for=limits.get("retry_for"))(total)


LIFETIME = """
    SELECT extract(epoch FROM expires_at - greatest(due_at, created_at)) AS expires,
           extract(epoch FROM deadline_at - greatest(due_at, created_at)) AS retry_for, expires_at, deadline_at
    FROM runs WHERE id = :id
"""


def lifetime(engine: Engine, run_id: int) -> Row[Any]:
    with engine.connect() as connection:
        return connection.execute(text(LIFETIME), {"id": run_id}).one()


@pytest.mark.parametrize("due_at", [None, AT, datetime(2020, 1, 2, tzinfo=UTC)])
def test_a_lifetime_counts_by_the_databases_clock_from_the_moment_a_run_is_first_due(
    engine: Engine, due_at: datetime | None
) -> None:
    recorded = job(expires=60, retry_for=3600)(total)
    with engine.begin() as connection:
        run_id = recorded.options(due_at=due_at).enqueue(connection, numbers=[1])
        many = recorded.options(due_at=due_at).enqueue_many(connection, [{"numbers": [2]}])
    for found in (run_id, *many):
        row = lifetime(engine, found)
        assert 59 < row.expires < 61
        assert 3599 < row.retry_for < 3601


def test_a_moment_given_at_the_enqueue_wins(engine: Engine) -> None:
    recorded = job(expires=60, retry_for=3600)(total)
    with engine.begin() as connection:
        run_id = recorded.options(expires_at=AT, deadline_at=AT).enqueue(connection, numbers=[1])
    row = lifetime(engine, run_id)
    assert (row.expires_at, row.deadline_at) == (AT, AT)
    with pytest.raises(ValueError, match="need a time zone"):
        recorded.options(expires_at=datetime(2030, 1, 1))  # noqa: DTZ001 - what is refused


def test_a_run_without_limits_of_time_has_none(engine: Engine) -> None:
    with engine.begin() as connection:
        run_id = job()(total).enqueue(connection, numbers=[1])
    assert (lifetime(engine, run_id).expires_at, lifetime(engine, run_id).deadline_at) == (None, None)
