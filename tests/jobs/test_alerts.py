"""An episode is opened once, told once to each channel, and resolved once, whoever looks and however often."""

import base64
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import orjson
import pytest
from pydantic import SecretStr
from sqlalchemy import Engine, text
from sqlalchemy.orm import Session, sessionmaker
from standardwebhooks.webhooks import Webhook

import jobs
from integrations import Integration, Rejected
from integrations.alert_slack import AlertSlack, AlertSlackSettings
from integrations.alert_webhook import AlertWebhook, AlertWebhookSettings
from jobs import Cancel, Context, _episodes, alerts, maintenance
from jobs._conditions import Finding
from jobs._episodes import Couriers, keep, resolve, tell
from models import Kind
from tests.integrations.scripted import scripted_server
from tests.workers import rows

SECRET = "whsec_" + base64.b64encode(b"s" * 32).decode()
BOTH: Couriers = {name: alerts.COURIERS[name] for name in ("alert_webhook", "alert_slack")}
SEARCH = Finding(Kind.LATE, "search", "it is late:\n add workers")
STRIPE = Finding(Kind.LATE, "stripe", "it is late")


def webhook(url: str = "http://127.0.0.1:1/") -> AlertWebhook:
    return AlertWebhook(AlertWebhookSettings(url=SecretStr(url), secret=SecretStr(SECRET)))


def slack(url: str = "http://127.0.0.1:1/") -> AlertSlack:
    return AlertSlack(AlertSlackSettings(url=SecretStr(url)))


@pytest.fixture
def checking(sessions: sessionmaker[Session], notes: Any) -> Callable[..., Context]:
    """Return a function that makes the context of a run to which only some integrations are there."""

    def make(*configured: Integration) -> Context:
        ready = {type(one): one for one in configured}

        def use(kind: type[Integration]) -> Integration:
            if kind not in ready:
                raise Rejected("it is not configured", upstream=kind.name, status=0)
            return ready[kind]

        return Context(1, 1, "alerts.check", None, sessions, use, notes)

    return make


def look(engine: Engine, *findings: Finding, couriers: Couriers = BOTH) -> list[tuple[str, str, str]]:
    """Look once, and find this; return which notices were written, as subject, what and channel."""
    with Session(engine) as session, session.begin():
        before = session.execute(text("SELECT count(*) FROM runs WHERE job LIKE 'alerts.to_%'")).scalar_one()
        keep(session, findings)
        told = tell(session, couriers, over=resolve(session))
        new = session.execute(
            text("""
            SELECT a.subject, n.what, n.channel FROM runs r JOIN alert_notices n ON n.run_id = r.id
            JOIN alerts a ON a.id = n.alert_id WHERE r.job = replace(n.channel, 'alert_', 'alerts.to_')
              AND r.args = jsonb_build_object('alert', a.id, 'what', n.what) ORDER BY r.id OFFSET :before
            """),
            {"before": before},
        )
        written = [(str(subject), str(what), str(channel)) for subject, what, channel in new]
    assert told == len(written)
    return written


def later(engine: Engine, seconds: int = 120) -> None:
    """Let some time pass."""
    ago = "- make_interval(secs => :seconds)"
    rows.change(
        engine, f"UPDATE alerts SET opened_at = opened_at {ago}, last_seen_at = last_seen_at {ago}", seconds=seconds
    )


def states(engine: Engine) -> list[tuple[str, bool]]:
    """Return every episode, the oldest first, and whether it is over."""
    with engine.connect() as connection:
        found = connection.execute(text("SELECT subject, resolved_at IS NOT NULL FROM alerts ORDER BY id"))
        return [(str(subject), bool(over)) for subject, over in found]


def test_an_episode_is_told_once_when_it_begins_and_once_when_it_is_over(engine: Engine) -> None:
    assert look(engine, SEARCH) == [("search", "opened", "alert_webhook"), ("search", "opened", "alert_slack")]
    later(engine)
    assert look(engine, SEARCH) == []
    assert look(engine) == []  # one look without it proves little
    later(engine)
    assert look(engine) == [("search", "resolved", "alert_webhook"), ("search", "resolved", "alert_slack")]
    later(engine)
    assert look(engine) == []
    assert states(engine) == [("search", True)]
    assert rows.one(engine, "SELECT sentence FROM alerts") == "it is late: add workers"


def test_what_comes_back_within_two_looks_is_the_same_episode_and_later_a_new_one(engine: Engine) -> None:
    look(engine, SEARCH)
    later(engine, 60)
    look(engine)
    assert look(engine, SEARCH) == []
    later(engine)
    look(engine)
    assert len(look(engine, SEARCH)) == 2
    assert states(engine) == [("search", True), ("search", False)]


def test_fifty_looks_at_one_moment_open_one_episode_and_tell_it_once(engine: Engine) -> None:
    engine.dispose()

    def once(_: int) -> None:
        with Session(engine) as session, session.begin():
            keep(session, [STRIPE, SEARCH] if _ % 2 else [SEARCH, STRIPE])
            tell(session, BOTH)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(once, range(50)))
    assert sorted(states(engine)) == [("search", False), ("stripe", False)]
    assert rows.one(engine, "SELECT count(*) FROM runs") == 4
    assert rows.one(engine, "SELECT count(DISTINCT run_id) FROM alert_notices") == 4


def test_one_thing_found_twice_in_a_look_is_one_episode(engine: Engine) -> None:
    assert len(look(engine, SEARCH, SEARCH)) == 2


def test_without_a_channel_alerts_are_recorded_and_a_new_channel_hears_what_is_open(engine: Engine) -> None:
    assert look(engine, SEARCH, couriers={}) == []
    assert states(engine) == [("search", False)]
    only = {"alert_slack": BOTH["alert_slack"]}
    assert look(engine, SEARCH, couriers=only) == [("search", "opened", "alert_slack")]
    later(engine)
    # The order within a look: what is over is ended first, so nobody hears of it for the first time.
    # Who never heard that it began does not hear that it is over.
    assert look(engine) == [("search", "resolved", "alert_slack")]


SILENCE = (
    "INSERT INTO silences (kind, subject, until, silenced_by) VALUES (:kind, :subject, now() + interval '1 h', 'kim')"
)


@pytest.mark.parametrize(("kind", "subject"), [("late", "search"), ("late", ""), ("", "search"), ("", "")])
def test_a_silent_alert_is_recorded_and_told_when_the_silence_has_ended(
    engine: Engine, kind: str, subject: str
) -> None:
    rows.change(engine, SILENCE, kind=kind, subject=subject)
    assert look(engine, SEARCH) == []
    assert states(engine) == [("search", False)]
    rows.change(engine, "UPDATE silences SET until = now()")
    assert [what for _, what, _ in look(engine, SEARCH)] == ["opened", "opened"]


def test_a_silence_is_about_what_it_names_and_nothing_else(engine: Engine) -> None:
    rows.change(engine, SILENCE, kind="late", subject="stripe")
    rows.change(engine, SILENCE, kind="stale", subject="")
    assert {subject for subject, _, _ in look(engine, SEARCH, STRIPE)} == {"search"}


def test_what_came_and_went_in_silence_is_never_told_and_what_was_told_before_is_told_to_its_end(
    engine: Engine,
) -> None:
    look(engine, SEARCH)
    rows.change(engine, SILENCE, kind="", subject="")
    look(engine, SEARCH, STRIPE)
    later(engine)
    assert {(subject, what) for subject, what, _ in look(engine)} == {("search", "resolved")}


def test_a_storm_is_told_little_by_little_and_what_is_over_by_then_not_at_all(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_episodes, "LOUDEST", 3)
    storm = [Finding(Kind.MISSED, f"job {number}", "it is missing") for number in range(7)]
    assert [len(look(engine, *storm)) for _ in range(2)] == [6, 6]
    later(engine)
    assert [what for _, what, _ in look(engine)] == ["resolved"] * 12
    assert len(states(engine)) == 7


def test_a_check_opens_tells_and_says_what_it_did(engine: Engine, checking: Callable[..., Context]) -> None:
    jobs.load()
    done = alerts.check(checking(webhook())) or {}
    queues = {job.queue for job in jobs.all_jobs().values()}
    assert done == {"found": len(queues), "resolved": 0, "notices": len(queues)}
    assert rows.one(engine, "SELECT count(*) FROM runs WHERE job = 'alerts.to_webhook'") == len(queues)
    assert alerts.check(checking()) == {"found": len(queues), "resolved": 0, "notices": 0}


def test_a_delivery_that_is_tried_again_is_the_same_message(engine: Engine, checking: Callable[..., Context]) -> None:
    look(engine, SEARCH)
    rows.change(engine, "UPDATE alerts SET resolved_at = now()")
    with scripted_server() as server:
        context = checking(webhook(server.url), slack(server.url))
        for what in ("opened", "opened", "resolved"):
            alerts.to_webhook(context, alert=1, what=what)
        alerts.to_slack(context, alert=1, what="opened")
        posted = server.seen
    ids = [request.headers.get("webhook-id", "") for request in posted]
    key = rows.one(engine, "SELECT key FROM alerts").hex
    assert ids == [f"{key}-{what}-alert_webhook" for what in ("opened", "opened", "resolved")] + [""]
    opened, _, over = (Webhook(SECRET).verify(request.body, request.headers) for request in posted[:3])
    assert (opened["type"], over["type"]) == ("alert.opened", "alert.resolved")
    assert opened["data"]["resolved_at"] is None
    assert over["data"]["thread"] == ids[0]
    assert orjson.loads(posted[3].body) == {"text": "*Alert: late, search*\nit is late: add workers"}


def test_a_delivery_of_an_alert_that_is_no_longer_kept_is_cancelled(checking: Callable[..., Context]) -> None:
    with pytest.raises(Cancel, match="alert 7 is no longer kept"):
        alerts.to_webhook(checking(webhook()), alert=7, what="opened")


def test_what_is_said_of_one_alert_on_one_channel_keeps_its_order_and_a_pause_of_the_channel_holds_it() -> None:
    for kind, courier in alerts.CHANNELS.items():
        assert courier.needs == (kind,)
        assert (courier.key, courier.ordered, courier.queue) == ("alert", True, alerts.QUEUE)


def test_old_episodes_go_with_their_notices_and_open_ones_stay(
    engine: Engine, make_context: Callable[..., Context]
) -> None:
    look(engine, SEARCH, STRIPE)
    rows.change(engine, "UPDATE alerts SET resolved_at = now() - interval '91 days' WHERE subject = 'search'")
    rows.change(engine, SILENCE, kind="late", subject="search")
    rows.change(engine, SILENCE.replace("+ interval '1 h'", "- interval '91 days'"), kind="late", subject="")
    result = maintenance.prune(make_context()) or {}
    assert (result["alerts"], result["silences"]) == (1, 1)
    assert states(engine) == [("stripe", False)]
    assert rows.one(engine, "SELECT count(*) FROM alert_notices") == 2
