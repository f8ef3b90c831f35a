"""Alerts by hand, and the whole way: scheduler, relay and worker to a real receiver and a real mail server."""

import base64
import json
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import orjson
import pytest
from sqlalchemy import Connection, Engine, text
from standardwebhooks.webhooks import Webhook

from jobs import alerts
from tests.integrations.mail import mail_server
from tests.integrations.scripted import Scripted, scripted_server
from tests.workers import rows
from tests.workers.asking import asked, told
from tests.workers.members import Members
from workers import actions
from workers.actions import Refused

SECRET = "whsec_" + base64.b64encode(b"s" * 32).decode()
UNTIL = datetime.now(UTC) + timedelta(hours=1)
AUDIT = text("SELECT actor, action, target FROM audit ORDER BY id")
#: The next look is due now.
LOOK = "UPDATE schedules SET next_fire_at = now() WHERE name = 'alerts.check'"
LOOKS = "SELECT count(*) FROM runs WHERE job = 'alerts.check' AND state = 'succeeded'"


def test_a_silence_may_come_before_the_alert_and_is_replaced_ended_and_audited(engine: Engine) -> None:
    with engine.begin() as connection:
        actions.silence(connection, "late", "search", until=UNTIL, by="kim")
        actions.silence(connection, "late", "search", until=UNTIL + timedelta(hours=1), by="ada", reason="upgrade")
        actions.silence(connection, "all", None, until=UNTIL, by="kim")
        found = connection.execute(text("SELECT kind, subject, silenced_by, reason FROM silences ORDER BY 1")).all()
        assert found == [("", "", "kim", None), ("late", "search", "ada", "upgrade")]
        assert actions.unsilence(connection, "late", "search", by="kim")
        assert not actions.unsilence(connection, "late", "search", by="kim")
        assert [tuple(row) for row in connection.execute(AUDIT)] == [
            ("kim", "alerts silence", "late search"),
            ("ada", "alerts silence", "late search"),
            ("kim", "alerts silence", "all"),
            ("kim", "alerts unsilence", "late search"),
        ]
        with pytest.raises(Refused, match="did you mean late"):
            actions.silence(connection, "latte", None, until=UNTIL, by="kim")


def test_a_trial_is_told_even_in_silence_and_once_at_a_time(engine: Engine) -> None:
    with engine.begin() as connection:
        actions.silence(connection, "all", None, until=UNTIL, by="kim")
        runs = actions.try_alerts(connection, alerts.COURIERS, by="kim")
        assert set(runs) == set(alerts.COURIERS)
        with pytest.raises(Refused, match="a trial by kim is under way"):
            actions.try_alerts(connection, alerts.COURIERS, by="kim")
        with pytest.raises(Refused, match="no channel is configured: set ALERT_WEBHOOK_URL"):
            actions.try_alerts(connection, {}, by="ada")
        assert set(actions.try_alerts(connection, alerts.COURIERS, by="ada")) == set(alerts.COURIERS)
        assert _count(connection, "runs") == _count(connection, "alert_notices") == 6


def _count(connection: Connection, table: str) -> int:
    return int(connection.execute(text(f"SELECT count(*) FROM {table}")).scalar_one())


def test_the_command_line_lists_silences_and_tries(engine: Engine, variables: dict[str, str]) -> None:
    slack = {"ALERT_SLACK_URL": "http://127.0.0.1:1/hunter2"}
    assert told(variables, "alerts", "list") == "no alert is open: nothing that is looked for goes wrong\n"
    silence = ("alerts", "silence", "late", "search", "--until", "2h", "--reason", "upgrade", "--by", "kim")
    assert "would be silent" in told(variables, *silence, "--dry-run")
    assert rows.one(engine, "SELECT count(*) FROM silences") == 0
    assert told(variables, *silence).startswith("alerts of the kind late about search are silent until ")
    (silent,) = json.loads(told(variables, "alerts", "silences", "--json"))
    assert (silent["kind"], silent["subject"], silent["reason"]) == ("late", "search", "upgrade")
    refused = asked(variables, "alerts", "test")
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)
    assert "through alert_slack (dry run" in told(variables | slack, "alerts", "test", "--dry-run")
    runs = json.loads(told(variables | slack, "alerts", "test", "--by", "kim", "--json"))
    assert list(runs) == ["alert_slack"]
    (alert,) = json.loads(told(variables, "alerts", "list", "--json"))
    assert (alert["kind"], alert["state"]) == ("test", "open")
    assert alert["told"] == [f"alert_slack opened waiting run {runs['alert_slack']}"]


@pytest.fixture
def looked(engine: Engine) -> Callable[[], None]:
    """Return a function that lets the scheduler fire the next look now, and waits until it and all it told ended."""

    def look() -> None:
        before = rows.one(engine, LOOKS)
        rows.change(engine, LOOK)
        rows.until(lambda: rows.one(engine, LOOKS) > before)
        alive = "SELECT count(*) FROM runs WHERE queue = 'alerts' AND state IN ('waiting', 'queued', 'running')"
        rows.until(lambda: rows.one(engine, alive) == 0)

    return look


def received(server: Scripted) -> Counter[tuple[str, str]]:
    """Return how often the receiver was told what about which unserved queue; every message is proven."""
    bodies: list[Any] = [Webhook(SECRET).verify(request.body, request.headers) for request in server.seen]
    return Counter((body["type"], body["data"]["subject"]) for body in bodies if body["data"]["kind"] == "unserved")


def test_a_queue_without_a_worker_is_told_once_and_resolved_once_one_has_started(
    engine: Engine, variables: dict[str, str], tmp_path: Path, looked: Callable[[], None]
) -> None:
    with scripted_server() as server, scripted_server() as chat, mail_server() as mail:
        members = Members(
            tmp_path,
            variables
            | {"ALERT_WEBHOOK_URL": server.url, "ALERT_WEBHOOK_SECRET": SECRET, "ALERT_SLACK_URL": f"{chat.url}/T0"}
            | {"ALERT_EMAIL_TO": "a@example.com", "ALERT_EMAIL_FROM": "h@example.com"}
            | {"SMTP_URL": f"smtp://localhost:{mail.port}"},
        )
        try:
            members.start("scheduler")
            members.start("workers.relay")
            members.start("workers.worker", "--queues", "alerts", "--threads", "2")
            alive = "SELECT count(*) FROM processes"
            rows.until(lambda: rows.one(engine, alive) == 3)
            rows.until(lambda: rows.one(engine, "SELECT count(*) FROM schedules WHERE name = 'alerts.check'") == 1)
            rows.change(engine, "UPDATE processes SET started_at = started_at - interval '1 hour'")
            looked()
            looked()
            once = Counter({("alert.opened", queue): 1 for queue in ("maintenance", "search", "stripe", "warehouse")})
            assert received(server) == once
            members.start("workers.worker", "--threads", "2")
            rows.until(lambda: rows.one(engine, alive) == 4)
            past = "opened_at = opened_at - interval '1 h', last_seen_at = last_seen_at - interval '1 h'"
            rows.change(engine, f"UPDATE alerts SET {past}")
            looked()
            looked()
        finally:
            members.close()
        assert received(server) == once + Counter({("alert.resolved", queue): 1 for _, queue in once})
        texts = Counter(orjson.loads(request.body)["text"].splitlines()[0] for request in chat.seen)
        subjects = Counter(str(message["Subject"]) for message in mail.messages)
    for what in ("Alert", "Resolved"):
        assert texts[f"*{what}: unserved, search*"] == subjects[f"[headrace] {what}: unserved, search"] == 1
