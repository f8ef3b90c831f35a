"""The command line as a process: what it prints, how it leaves, and that it never shows a traceback."""

import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

import pytest
import redis
from sqlalchemy import Engine, text

from models import migrations
from sandbox.services import Services
from tests.copies import Copy
from tests.workers import rows
from tests.workers.asking import OURS, asked

HEADRACE = Path(sys.executable).parent / "headrace"
#: An address where nobody answers: the port is reserved and never served.
NOBODY = "127.0.0.1:1"


class Cli(Protocol):
    """Runs one command line to its end."""

    def __call__(self, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]: ...


@pytest.fixture
def environment(services: Services, database_url: str) -> dict[str, str]:
    """The environment of our processes: the test's own database and a Redis of its own number."""
    kept = {name: value for name, value in os.environ.items() if not OURS.match(name)}
    redis = services.valkey.url.rsplit("/", 1)[0] + "/7"
    return kept | services.environment() | {"DATABASE_URL": database_url, "REDIS_URL": redis}


@pytest.fixture
def cli(environment: dict[str, str]) -> Cli:
    """The installed command line."""

    def run(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        found = {name: value for name, value in (environment | variables).items() if value}
        done = subprocess.run(
            [HEADRACE, *arguments], env=found, capture_output=True, text=True, timeout=60, check=False
        )
        assert "Traceback" not in done.stderr + done.stdout
        return done

    return run


@pytest.fixture
def ask(environment: dict[str, str]) -> Cli:
    """The command line, answered by a process that has read our code already."""

    def run(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        done = asked(environment | variables, *arguments)
        assert "Traceback" not in done.stderr + done.stdout
        return done

    return run


@pytest.fixture
def processes(environment: dict[str, str], engine: Engine, tmp_path: Path) -> Iterator[None]:
    """A live relay and worker."""
    modules = (["workers.relay"], ["workers.worker", "--threads", "2"])
    started = [Copy(module, options, out=tmp_path / module, environment=environment) for module, *options in modules]
    alive = text("SELECT count(DISTINCT kind) FROM processes WHERE kind IN ('relay', 'worker')")
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        poll_until(lambda: connection.execute(alive).scalar() == len(modules))
    yield
    for process in started:
        process.signal(signal.SIGTERM)
    for process in started:
        process.wait(30)


def poll_until(true: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.05)


def insert_run(engine: Engine, state: str = "dead", args: str = "{}", error: str | None = None) -> int:
    statement = text("""
        INSERT INTO runs (job, queue, args, state, failures, max_attempts, error, finished_at)
        VALUES ('warehouse.sync', 'warehouse', CAST(:args AS jsonb), :state, 1, 10, :error, now()) RETURNING id
    """)
    with engine.begin() as connection:
        return int(connection.execute(statement, {"state": state, "args": args, "error": error}).scalar_one())


def parsed(done: subprocess.CompletedProcess[str]) -> Any:
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_without_arguments_it_prints_its_help(cli: Cli) -> None:
    done = cli()
    assert done.returncode == 0
    assert "doctor" in done.stdout
    assert done.stderr == ""


def test_it_is_also_a_module(environment: dict[str, str]) -> None:
    command = [sys.executable, "-m", "workers", "--help"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=True)
    assert "headrace" in done.stdout


def test_the_arguments_of_a_job_are_listed_as_they_are_given(ask: Cli) -> None:
    listed = {job["name"]: job["arguments"] for job in parsed(ask("jobs", "--json"))}
    assert listed["maintenance.prune"][0] == "succeeded: int = 30"
    assert listed["alerts.to_email"] == ["alert: int", "what: Literal['opened', 'resolved']"]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("bogus", "No such command"),
        ("runs list --bogus", "No such option"),
        ("runs list --limit 0", "--limit"),
        ("runs list --state asleep", "asleep"),
        ("runs list --since yesterday", "write 10m"),
        ("runs list --arg sku", "is no pair"),
        ("runs show 12", "there is no run 12"),
        ("runs show 99999999999999999999", "Invalid value for 'ID'"),
        ("runs retry", "say which runs"),
        ("runs retry --canary 5", "say which runs"),
        ("runs retry --state succeeded --rate 1", "are for dead runs"),
        ("runs retry --job warehouse.sync --stop-at 101", "--stop-at"),
        ("runs prioritise 1", "--to"),
        ("runs prioritise 1 --to soon", "soon"),
        ("redrives show 4", "there is no redrive 4"),
        ("redrives stop 4", "there is no redrive 4"),
        ("run", "Missing argument"),
        ("run warehouse.snyc", "did you mean warehouse.sync?"),
        ("run warehouse.sync --arg full=maybe", "argument 'full'"),
        ("run warehouse.sync --arg sku=1", "is not one of this job's arguments"),
        ("run warehouse.sync --timeout 3", "give --wait"),
        ("queues pause wharehouse", "did you mean warehouse?"),
        ("upstreams reset nobody", "there is no upstream"),
        ("schedules pause nobody", "there is no schedule"),
        ("schedules preview search.rebuild", "has no schedule"),
        ("schedules why nothing 2026-11-25T04:00", "there is no schedule called 'nothing'"),
        ("schedules add mine --job nothing --every 1h", "there is no job called 'nothing'"),
        ("schedules add mine --job warehouse.sync", "give one rule"),
        ("schedules add mine --job warehouse.sync --every 1h --at 2099-01-01", "give one rule"),
        ("schedules add mine --job warehouse.sync --every soon", "'soon' is no interval"),
        ("schedules add mine --job warehouse.sync --at 2027-02-30T08:00", "day is out of range"),
        ("schedules add mine --job warehouse.sync --every 1h --zone Mars/Base", "not a known time zone"),
        ("schedules add mine --job warehouse.sync --every 1h --missed some", "missed fires"),
        ("schedules add mine --job warehouse.sync --every 1h --arg sku=1", "is not one of this job's arguments"),
        ("schedules add my.own --job warehouse.sync --every 1h", "no dot"),
        ("schedules change nothing --every 1h", "there is no schedule"),
        ("schedules remove nothing", "there is no schedule"),
        ("webhooks show 1", "there is no event 1"),
        ("webhooks replay", "say which events"),
        ("webhooks backfill warehouse", "does not list its events"),
        ("webhooks backfill", "stripe is not configured"),
        ("streams rewind products --to start", "there is no stream"),
        ("streams show products", "there is no stream"),
        ("streams verify products", "there is no stream"),
        ("streams approve products", "there is no stream"),
    ],
)
def test_a_wrong_question_gets_one_line_and_code_2(ask: Cli, line: str, words: str) -> None:
    done = ask(*line.split())
    assert done.returncode == 2
    assert words in done.stderr
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""


def test_a_wrong_question_ends_the_process_with_code_2(cli: Cli) -> None:
    done = cli("run", "warehouse.snyc")
    assert done.returncode == 2
    assert "did you mean warehouse.sync?" in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"DATABASE_URL": ""}, "DATABASE_URL is missing"),
        ({"DATABASE_URL": "mysql://kim:hush@mill/shop"}, "DATABASE_URL cannot be used"),
        ({"REDIS_URL": ""}, "REDIS_URL is missing"),
    ],
)
def test_an_environment_that_cannot_be_used_is_named(cli: Cli, variables: dict[str, str], words: str) -> None:
    done = cli("runs", "list", **variables)
    assert done.returncode == 2
    assert words in done.stderr
    assert "hush" not in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("line", ["runs list", "run warehouse.sync", "queues pause warehouse", "migrate"])
def test_without_postgres_every_command_says_so_in_one_line(ask: Cli, line: str) -> None:
    done = ask(*line.split(), DATABASE_URL=f"postgresql://kim:hush@{NOBODY}/shop")
    assert done.returncode == 1
    assert "Postgres does not answer" in done.stderr
    assert "hush" not in done.stderr
    assert done.stderr.count("\n") == 1


def test_migrate_needs_the_database_alone_and_says_from_where_to_where(ask: Cli, services: Services) -> None:
    url = services.postgres.create_database(f"empty_{os.getpid()}")
    alone = {"DATABASE_URL": url, "REDIS_URL": "", "ELASTICSEARCH_URL": ""}
    refused = ask("runs", "list", DATABASE_URL=url)
    first, second = ask("migrate", **alone), ask("migrate", **alone)
    services.postgres.drop_database(f"empty_{os.getpid()}")
    assert refused.returncode == 1
    assert "run `headrace migrate`" in refused.stderr
    assert f"from no tables to {migrations.newest()}" in first.stdout
    assert "nothing to do" in second.stdout


@pytest.mark.parametrize(
    "line",
    [
        "jobs",
        "runs list",
        "queues list",
        "schedules list",
        "schedules slots",
        "schedules preview warehouse.sync",
        "upstreams list",
        "webhooks list",
        "streams list",
        "redrives list",
        "alerts list",
        "alerts silences",
        "processes",
        "audit",
        "users list",
        "users tokens",
    ],
)
def test_every_listing_is_json_and_nothing_else_when_asked(ask: Cli, line: str) -> None:
    done = ask(*line.split(), "--json")
    assert isinstance(parsed(done), list)
    assert done.stderr == ""


def test_runs_are_filtered_and_paged(ask: Cli, engine: Engine) -> None:
    old, new = insert_run(engine, args='{"full": true}', error="it broke"), insert_run(engine, "succeeded")
    assert [run["id"] for run in parsed(ask("runs", "list", "--json"))] == [new, old]
    filters = ("--state", "dead", "--job", "warehouse.sync", "--queue", "warehouse", "--error", "BROKE")
    found = parsed(ask("runs", "list", *filters, "--since", "1h", "--arg", "full=true", "--json"))
    assert [run["id"] for run in found] == [old]
    assert found[0]["args"] == {"full": True}
    assert parsed(ask("runs", "list", "--before", str(old), "--json")) == []
    page = ask("runs", "list", "--limit", "1")
    assert str(new) in page.stdout
    assert f"--before {new}" in page.stderr


def test_a_run_is_shown_with_its_attempts_and_without_secrets(ask: Cli, engine: Engine) -> None:
    run_id = insert_run(engine, args='{"token": "hush", "sku": "7"}', error="Bearer hush was refused")
    with engine.begin() as connection:
        values = {"id": run_id, "trace": 'File "a.py"\n  raise hush from Bearer hush'}
        connection.execute(
            text("""
                INSERT INTO attempts (run_id, number, started_at, outcome, error_class, error, traceback)
                VALUES (:id, 1, now() - interval '3 s', 'failed', 'Rejected', 'Bearer hush was refused', :trace)
            """),
            values,
        )
        line = text("INSERT INTO log_lines (run_id, attempt, line) VALUES (:id, 1, E'page 3 \\x1b[31m')")
        connection.execute(line, values)
    shown = ask("runs", "show", str(run_id))
    assert "is dead after 1 of 10 failures" in shown.stdout
    assert "page 3" in shown.stdout
    assert "\x1b" not in shown.stdout
    assert "Bearer hush" not in shown.stdout
    found = parsed(ask("runs", "show", str(run_id), "--json"))
    assert found["args"] == {"token": "<secret>", "sku": "7"}
    assert found["attempts"][0]["outcome"] == "failed"
    assert found["log"][0]["line"].startswith("page 3")
    assert "dead" in found["why"]


def test_runs_are_moved_by_filters_after_a_dry_run(ask: Cli, engine: Engine) -> None:
    ids = [insert_run(engine) for _ in range(3)]
    asked = ("runs", "retry", "--job", "warehouse.sync")
    dry = ask(*asked, "--dry-run")
    assert "3 runs would be touched by retry" in dry.stdout
    assert parsed(ask("runs", "list", "--state", "dead", "--json"))[0]["id"] == ids[-1]
    done = parsed(ask(*asked, "--json", "--by", "kim"))
    assert (done["count"], done["ids"], done["dry_run"]) == (3, ids, False)
    entry = parsed(ask("audit", "--json"))[0]
    assert (entry["actor"], entry["action"], entry["count"]) == ("kim", "runs retry", 3)
    assert "--job warehouse.sync" in entry["target"]


def test_a_dry_run_of_a_retry_says_what_the_runs_failed_of(ask: Cli, engine: Engine) -> None:
    run_id = insert_run(engine, error="Bearer hush was refused\nmore")
    rows.change(
        engine,
        """
        INSERT INTO attempts (run_id, number, started_at, outcome, error_class)
        VALUES (:id, 0, now(), 'failed', 'Unauthorized')
        """,
        id=run_id,
    )
    insert_run(engine)
    dry = ask("runs", "retry", "--state", "dead", "--dry-run")
    assert re.search(r"warehouse.sync +Unauthorized +1 ", dry.stdout)
    assert "hush" not in dry.stdout
    groups = parsed(ask("runs", "retry", "--state", "dead", "--canary", "1", "--dry-run", "--json"))["groups"]
    assert [(group["error_class"], group["count"]) for group in groups] == [("Unauthorized", 1), (None, 1)]
    assert rows.one(engine, "SELECT count(*) FROM redrives") == 0


def test_waiting_runs_are_made_urgent_and_what_comes_too_late_is_said(ask: Cli, engine: Engine) -> None:
    waiting, queued = insert_run(engine, "waiting"), insert_run(engine, "queued")
    done = ask("runs", "prioritise", "--job", "warehouse.sync", "--to", "urgent")
    assert f"1 run now urgent: {waiting}" in done.stdout
    assert "on the broker already, where they keep their place: 1 matching" in done.stderr
    assert parsed(ask("runs", "list", "--state", "waiting", "--json"))[0]["priority"] == 0
    named = ask("runs", "prioritise", str(queued), "--to", "bulk")
    assert named.returncode == 1
    assert f"run {queued} stays as it is: it is on the broker" in named.stderr


def test_discarded_runs_are_restored(ask: Cli, engine: Engine) -> None:
    run_id = insert_run(engine, error="broken")
    assert ask("runs", "discard", str(run_id)).returncode == 0
    assert "1 run would be touched by restore" in ask("runs", "restore", "--job", "warehouse.sync", "--dry-run").stdout
    assert "1 run dead again" in ask("runs", "restore", str(run_id)).stdout
    assert rows.state(engine, run_id) == "dead"


def test_a_redrive_is_begun_listed_and_stopped(ask: Cli, engine: Engine) -> None:
    for _ in range(3):
        insert_run(engine)
    careful = ("runs", "retry", "--state", "dead", "--canary", "1", "--rate", "0.5", "--no-wait", "--by", "kim")
    begun = parsed(ask(*careful, "--json"))
    assert (begun["total"], begun["to_go"], begun["moved"]) == (3, 3, 0)
    number = str(begun["id"])
    assert "--canary 1 --rate 0.5 --stop-at 20" in ask("redrives", "show", number).stdout
    assert "the canary of 1 is out" in ask("redrives", "list").stdout
    assert "would be stopped" in ask("redrives", "stop", number, "--dry-run").stdout
    assert "is stopped" in ask("redrives", "stop", number, "--by", "lee").stdout
    assert "has stopped already" in ask("redrives", "stop", number).stdout
    watched = ask("redrives", "watch", number, "--json")
    assert watched.returncode == 1
    assert json.loads(watched.stdout)["why"] == "lee stopped it"
    assert json.loads(watched.stdout)["kept"] == 3


def test_ctrl_c_ends_the_watching_and_not_the_redrive(environment: dict[str, str], ask: Cli, engine: Engine) -> None:
    insert_run(engine)
    command = [str(HEADRACE), "runs", "retry", "--state", "dead", "--rate", "1"]
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as watching:
        assert watching.stderr is not None
        assert "has taken 1 run;" in watching.stderr.readline()
        assert "1 to go" in watching.stderr.readline()
        watching.send_signal(signal.SIGINT)
        assert "goes on without you" in watching.stderr.readline()
        assert watching.wait(30) == 130
    assert parsed(ask("redrives", "list", "--json"))[0]["ended_at"] is None


@pytest.mark.usefixtures("processes")
def test_a_redrive_is_watched_to_its_end_and_the_code_says_whether_it_was_stopped(ask: Cli, engine: Engine) -> None:
    ids = [insert_run(engine) for _ in range(3)]  # a warehouse that nobody configured: they fail again
    stopped = ask("runs", "retry", "--job", "warehouse.sync", "--canary", "1", "--stop-at", "0")
    assert stopped.returncode == 1
    assert "1 of 1 tried runs failed again" in stopped.stdout
    assert [rows.state(engine, run_id) for run_id in ids[1:]] == ["dead", "dead"]
    rows.change(engine, "UPDATE runs SET job = 'maintenance.check_ledger', queue = 'maintenance' WHERE state = 'dead'")
    done = ask("runs", "retry", "--job", "maintenance.check_ledger", "--rate", "20", "--json")
    report = parsed(done)
    assert (report["succeeded"], report["failed"], report["why"]) == (report["total"], 0, "every run was tried")


def test_a_run_that_cannot_be_moved_is_explained_and_the_code_is_1(ask: Cli, engine: Engine) -> None:
    run_id = insert_run(engine, "succeeded")
    done = ask("runs", "cancel", str(run_id))
    assert done.returncode == 1
    assert f"run {run_id} stays as it is: it is succeeded" in done.stderr


def test_a_held_queue_says_who_holds_it_and_why(ask: Cli, engine: Engine) -> None:
    dry = ask("queues", "pause", "warehouse", "--dry-run")
    assert "not paused" in dry.stdout
    assert ask("queues", "pause", "warehouse", "--by", "kim", "--reason", "they move").returncode == 0
    queue = next(row for row in parsed(ask("queues", "list", "--json")) if row["name"] == "warehouse")
    assert (queue["paused_by"], queue["reason"]) == ("kim", "they move")
    run_id = insert_run(engine, "waiting")
    assert "kim paused queue warehouse (they move)" in ask("runs", "show", str(run_id)).stdout
    assert "goes on" in ask("queues", "resume", "warehouse").stdout
    assert "was not paused" in ask("queues", "resume", "warehouse").stdout


def test_the_pause_of_a_schedule_may_have_an_end(ask: Cli, engine: Engine) -> None:
    rows.change(
        engine,
        "INSERT INTO schedules (name, rule, zone, next_fire_at) VALUES ('warehouse.sync', 'every 1 h', 'UTC', now())",
    )
    told = ask("schedules", "pause", "warehouse.sync", "--by", "kim", "--reason", "they move", "--until", "2999-01-01")
    assert "schedule warehouse.sync is paused until 2999-01-01" in told.stdout
    assert "paused by kim until" in ask("schedules", "list").stdout
    assert "goes on" in ask("schedules", "resume", "warehouse.sync").stdout
    (listed,) = parsed(ask("schedules", "list", "--json"))
    assert (listed["paused_at"], listed["paused_until"]) == (None, None)


def test_a_schedule_is_made_tried_changed_and_taken_away(ask: Cli, engine: Engine) -> None:
    new = ("schedules", "add", "mine", "--job", "warehouse.sync", "--cron", "0 4 * * *", "--zone", "Europe/Berlin")
    assert "(dry run, nothing was changed)" in ask(*new, "--arg", "full=true", "--dry-run").stdout
    assert rows.one(engine, "SELECT count(*) FROM schedules") == 0
    made = ask(*new, "--arg", "full=true", "--by", "kim")
    assert made.stdout.startswith("schedule mine starts warehouse.sync cron 0 4 * * * (Europe/Berlin), first ")
    preview = ask("schedules", "preview", "mine", "--count", "1", TZ="Asia/Kathmandu").stdout
    assert "04:00:00 CE" in preview
    assert re.search(r"0[78]:45:00 \+0545", preview)
    assert "made by kim" in ask("schedules", "list").stdout
    assert "every 15 min (UTC)" in ask("schedules", "change", "mine", "--every", "15m").stdout
    run_id = ask("schedules", "fire", "mine").stdout.strip()
    assert rows.one(engine, "SELECT args FROM runs WHERE id = :id", id=run_id) == {"full": True}
    assert "would be taken away" in ask("schedules", "remove", "mine", "--dry-run").stdout
    assert ask("schedules", "remove", "mine").stdout == "schedule mine is gone\n"
    actions = rows.one(engine, "SELECT array_agg(action ORDER BY id) FROM audit")
    assert actions == ["schedules add", "schedules change", "schedules fire", "schedules remove"]


def test_the_answer_why_it_did_not_run_is_a_sentence_or_json(ask: Cli, engine: Engine) -> None:
    ask("schedules", "add", "mine", "--job", "warehouse.sync", "--cron", "0 4 * * *", "--by", "kim")
    skipped = "('mine', :at, 'skipped_paused', 'kim had paused it')"
    slot = f"INSERT INTO slots (schedule, fire_at, outcome, note) VALUES {skipped}"
    rows.change(engine, slot, at="2026-11-25T04:00Z")
    asked = ("schedules", "why", "mine", "2026-11-25T04:00")
    assert "it was skipped: kim had paused it; recorded" in ask(*asked).stdout
    told = json.loads(ask(*asked, "--json").stdout)
    assert (told["outcome"], told["note"]) == ("skipped_paused", "kim had paused it")


def test_an_upstream_is_held_and_reset(ask: Cli) -> None:
    ask("upstreams", "pause", "stripe", "--by", "kim")
    stripe = next(row for row in parsed(ask("upstreams", "list", "--json")) if row["name"] == "stripe")
    assert (stripe["paused_by"], stripe["configured"]) == ("kim", False)
    assert "goes on" in ask("upstreams", "reset", "stripe").stdout


def test_an_open_circuit_and_a_blocked_budget_are_listed_and_cleared_by_a_reset(
    ask: Cli, engine: Engine, environment: dict[str, str]
) -> None:
    rows.change(
        engine,
        """INSERT INTO upstreams (name, circuit_opened_at, next_probe_at, circuit_error, throttled_at, throttled_until)
        VALUES ('stripe', now() - interval '4 min', now() + interval '1 min', 'stripe did not answer in time',
                now(), now() + interval '1 min')""",
    )
    with redis.Redis.from_url(environment["REDIS_URL"]) as store:
        store.hset("headrace:circuit:stripe", mapping={"until": "99999999999999", "since": "1", "opened": "1"})
        stripe = next(row for row in parsed(ask("upstreams", "list", "--json")) if row["name"] == "stripe")
        assert stripe["circuit_error"] == "stripe did not answer in time"
        assert stripe["next_probe_at"] > stripe["circuit_opened_at"]
        assert (stripe["rate"], stripe["tokens"], stripe["calls_under_way"], stripe["concurrency"]) == (
            "25/s",
            25,
            0,
            32,
        )
        in_a_minute = int(time.time() + 60) * 1000
        store.hset("headrace:budget:stripe", mapping={"until": in_a_minute, "full": in_a_minute})
        listed = " ".join(ask("upstreams", "list").stdout.split())
        assert "open since" in listed
        assert "blocked until" in listed
        tried = ask("upstreams", "reset", "stripe", "--dry-run").stdout
        assert "the circuit of stripe is open and would be closed" in tried
        assert "the budget of stripe is blocked until" in tried
        assert store.exists("headrace:circuit:stripe", "headrace:budget:stripe") == 2
        done = ask("upstreams", "reset", "stripe").stdout
        assert "the circuit of stripe is closed: the next call may try" in done
        assert "the budget of stripe is full: the next call may try" in done
        assert not store.exists("headrace:circuit:stripe", "headrace:budget:stripe")
    assert "was not open" in ask("upstreams", "reset", "stripe").stdout
    assert rows.one(engine, "SELECT count(*) FROM audit WHERE action = 'upstreams reset'") == 1
    left = "SELECT coalesce(circuit_opened_at, throttled_until) FROM upstreams WHERE name = 'stripe'"
    assert rows.one(engine, left) is None


def test_a_webhook_is_shown_and_handed_to_its_job_again(ask: Cli, engine: Engine) -> None:
    with engine.begin() as connection:
        statement = text("""
            INSERT INTO events (source, external_id, type, verdict, headers, body)
            VALUES ('warehouse', 'evt_1', 'product.updated', 'accepted', '{}', :body) RETURNING id
        """)
        event = connection.execute(statement, {"body": b'{"sku": "7", "api_key": "hush"}'}).scalar_one()
    assert parsed(ask("webhooks", "show", str(event), "--json"))["body"] == {"sku": "7", "api_key": "<secret>"}
    dry = parsed(ask("webhooks", "replay", str(event), "--dry-run", "--json"))
    assert (dry[0]["job"], dry[0]["run_id"]) == ("warehouse.apply_event", None)
    replayed = parsed(ask("webhooks", "replay", "--source", "warehouse", "--json"))
    listed = parsed(ask("webhooks", "list", "--verdict", "accepted", "--type", "product.updated", "--json"))
    assert listed[0]["run_id"] == replayed[0]["run_id"]
    assert ask("webhooks", "show", str(event), "--raw").stdout == '{"sku": "7", "api_key": "hush"}'
    for field, count in (("sku=7", 1), ("sku=8", 0)):
        assert len(parsed(ask("webhooks", "list", "--field", field, "--json"))) == count
    assert ask("webhooks", "list", "--field", "sku").returncode == 2
    unknown = ask("webhooks", "replay", "999")
    assert unknown.returncode == 1
    assert "there is no such event" in unknown.stderr


def test_a_stream_is_rewound_and_remembers_it(ask: Cli, engine: Engine) -> None:
    mark = datetime(2026, 11, 23, 5, tzinfo=UTC)
    with engine.begin() as connection:
        statement = text("INSERT INTO streams (upstream, name, high_water) VALUES ('warehouse', 'products', :mark)")
        connection.execute(statement, {"mark": mark})
    rewind = ("streams", "rewind", "warehouse/products", "--to", "2026-11-22T05:00")
    foreseen = ask(*rewind, "--dry-run").stdout
    assert "would go" in foreseen
    assert "it reads about 0 rows again: 1 calls, nobody knows yet how long" in foreseen
    assert ask(*rewind, "--by", "kim", "--reason", "a bad import").returncode == 0
    shown = parsed(ask("streams", "show", "products", "--json"))
    assert shown["high_water"] == "2026-11-22T05:00:00+00:00"
    assert shown["moves"][0]["reason"] == "rewound by kim: a bad import"
    assert "a bad import" in ask("streams", "show", "products").stdout
    assert ask(*rewind).returncode == 2


def test_the_doctor_says_what_to_do_about_each_part(ask: Cli) -> None:
    redis, search = f"redis://{NOBODY}/0", f"http://{NOBODY}"
    done = ask("doctor", REDIS_URL=redis, ELASTICSEARCH_URL=search)
    assert done.returncode == 1
    assert "✓ Postgres" in done.stdout
    assert "correct REDIS_URL" in done.stdout
    assert "✗ elasticsearch" in done.stdout
    assert "python -m workers.relay" in done.stdout
    assert "BROKER_URL" not in done.stdout
    done = ask("doctor", BROKER_URL=f"amqp://kim:hush@{NOBODY}/")
    assert "✓ Redis" in done.stdout
    assert "RabbitMQ does not answer" in done.stdout
    assert "correct BROKER_URL" in done.stdout
    assert "hush" not in done.stdout
    done = ask("doctor", "--json", DATABASE_URL=f"postgresql://kim:hush@{NOBODY}/shop")
    findings = {finding["part"]: finding for finding in json.loads(done.stdout)}
    assert done.returncode == 1
    assert findings["Postgres"]["ok"] is False
    assert findings["Redis"]["ok"] is True
    assert findings["warehouse"]["ok"] is None
    assert json.loads(ask("doctor", "--json", REDIS_URL="").stdout)[0]["ok"] is False


def test_search_status_answers_while_the_search_server_is_away(ask: Cli) -> None:
    done = ask("search", "status", ELASTICSEARCH_URL=f"http://{NOBODY}")
    assert done.returncode == 1
    assert "nobody can tell what searches see" in done.stdout


def test_a_listing_that_is_not_read_to_its_end_ends_quietly(environment: dict[str, str]) -> None:
    command = f"{HEADRACE} jobs --json | head -c 1"
    done = subprocess.run(command, shell=True, env=environment, capture_output=True, text=True, timeout=60, check=True)  # noqa: S602 - a pipe is the point
    assert done.stdout == "["
    assert "Traceback" not in done.stderr


def test_waiting_ends_after_the_timeout_and_the_run_goes_on(ask: Cli) -> None:
    done = ask("run", "warehouse.sync", "--wait", "--timeout", "0")
    assert done.returncode == 1
    assert "has not ended and goes on: waits because no live worker serves queue warehouse" in done.stderr
    assert parsed(ask("runs", "list", "--json"))[0]["state"] == "waiting"


def test_ctrl_c_ends_the_waiting_and_not_the_run(environment: dict[str, str], ask: Cli) -> None:
    command = [str(HEADRACE), "run", "warehouse.sync", "--wait"]
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as waiting:
        assert waiting.stderr is not None
        assert "no live worker" in waiting.stderr.readline()
        waiting.send_signal(signal.SIGINT)
        assert "goes on without you" in waiting.stderr.readline()
        assert waiting.wait(30) == 130
    assert parsed(ask("runs", "list", "--json"))[0]["state"] == "waiting"


@pytest.mark.usefixtures("processes")
def test_a_run_is_followed_to_its_end(ask: Cli, environment: dict[str, str]) -> None:
    done = ask("run", "maintenance.check_ledger", "--wait", "--timeout", "60")
    assert parsed(done) == {"levels": 0, "wrong": 0}
    dead = ask("run", "warehouse.sync", "--wait", "--timeout", "60")
    assert dead.returncode == 1
    assert "is dead" in dead.stderr
    assert "WAREHOUSE_URL" in dead.stderr
    whole = ask("run", "warehouse.sync", "--wait", "--timeout", "60", "--json")
    assert whole.returncode == 1
    assert json.loads(whole.stdout)["state"] == "dead"
    again = parsed(ask("runs", "retry", str(json.loads(whole.stdout)["id"]), "--json"))
    assert again["count"] == 1
    assert "1 alive" in ask("doctor").stdout
    assert "succeeded" not in on_a_terminal([str(HEADRACE), "run", "warehouse.sync", "--wait"], environment)


@pytest.mark.usefixtures("processes")
def test_streams_are_verified_and_held_deletions_approved_from_here(ask: Cli, engine: Engine) -> None:
    rows.change(engine, "INSERT INTO streams (upstream, name, held_deletions) VALUES ('warehouse', 'products', 1)")
    rows.change(
        engine,
        """INSERT INTO products (source_id, sku, name, source_version, source_updated_at, misses)
           SELECT 'p_' || n, 'SKU ' || n, 'Tea', 1, now(), n FROM generate_series(1, 2) n""",
    )
    refused = ask("streams", "verify", "products", "--timeout", "60")
    assert (refused.returncode, "not read to its end yet" in refused.stderr) == (1, True)
    run_id = ask("streams", "repair", "warehouse/products", "--no-wait").stdout.strip()
    assert rows.one(engine, f"SELECT args FROM runs WHERE id = {run_id}") == {"stream": "products", "repair": True}
    assert "1 items of warehouse/products would be removed" in ask("streams", "approve", "products", "--dry-run").stdout
    assert parsed(ask("streams", "approve", "products", "--timeout", "60")) == {"removed": 1}
    assert "nothing is held" in ask("streams", "approve", "products").stdout


@pytest.mark.usefixtures("processes")
def test_the_index_is_built_verified_and_repaired_from_here(ask: Cli) -> None:
    built = parsed(ask("search", "rebuild", "--timeout", "60"))
    assert built["index"].startswith("products-")
    assert parsed(ask("search", "verify", "--timeout", "60"))["missing"] == 0
    assert parsed(ask("search", "repair", "--timeout", "60"))["orphans"] == 0
    status = parsed(ask("search", "status", "--json"))
    assert status["alias"] == [built["index"]]
    refused = ask("search", "rollback", "--timeout", "60")
    assert refused.returncode == 1
    assert int(ask("search", "verify", "--no-wait").stdout) > 0


def on_a_terminal(command: list[str], environment: dict[str, str]) -> str:
    """Run a command with a terminal as its output and return what it wrote."""
    ours, theirs = pty.openpty()
    with subprocess.Popen(command, env=environment, stdout=theirs, stderr=theirs, stdin=theirs) as process:
        os.close(theirs)
        written = b""
        try:
            while chunk := os.read(ours, 4096):
                written += chunk
        except OSError:  # the terminal closes when the last writer leaves
            pass
        assert process.wait(60) == 1
    os.close(ours)
    return written.decode()


def test_a_stream_shows_what_is_in_quarantine_and_why(ask: Cli, engine: Engine) -> None:
    rows.change(engine, "INSERT INTO streams (upstream, name) VALUES ('warehouse', 'products')")
    rows.change(
        engine,
        """
        INSERT INTO quarantine (stream_id, external_id, fingerprint, reason, raw, resolved_at) VALUES
            (1, 'p_1', 'p_1', 'sku: is missing', '{}', NULL), (1, 'p_2', 'p_2', 'price: is text', '{}', now())
        """,
    )
    (only,) = parsed(ask("streams", "show", "warehouse/products", "--json"))["quarantine"]
    assert (only["external_id"], only["reason"], only["times"]) == ("p_1", "sku: is missing", 1)
    assert "sku: is missing" in ask("streams", "show", "warehouse/products").stdout


def test_a_webhook_nested_beyond_reading_is_shown_as_text(ask: Cli, engine: Engine) -> None:
    body = b"[" * 100_000
    rows.change(
        engine,
        """
        INSERT INTO events (source, external_id, type, verdict, headers, body)
        VALUES ('warehouse', 'm_1', '', 'malformed', '{}', :body)
        """,
        body=body,
    )
    shown = ask("webhooks", "show", "1", "--json")
    assert shown.returncode == 0
    assert json.loads(shown.stdout)["body"].startswith("[[[[")
