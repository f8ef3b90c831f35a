"""What the command line says and understands, without a server."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from itertools import islice
from types import SimpleNamespace
from typing import Any

import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st
from redis.exceptions import ConnectionError as RedisAway
from sqlalchemy.exc import OperationalError

from integrations import Unavailable
from jobs import cron
from models import State
from workers.actions import Refused
from workers.blockers import Blocker
from workers.cli.failures import explain
from workers.cli.options import pairs
from workers.cli.processes import COLUMNS
from workers.cli.tables import printable
from workers.delivery import BrokerAway
from workers.life import Life, why, word
from workers.moments import moment, span, when
from workers.settings import BadSettings
from workers.timetable import ahead

NOW = datetime(2026, 11, 23, 5, 0, tzinfo=UTC)
RUN: dict[str, Any] = {
    "id": 7,
    "queue": "warehouse",
    "state": State.WAITING,
    "attempt": 0,
    "failures": 0,
    "max_attempts": 10,
    "due_at": NOW,
    "started_at": None,
    "finished_at": None,
    "error": None,
    "cancel_requested_at": None,
}


def life(blocker: Blocker | None = None, **run: Any) -> Life:
    return Life(run=RUN | run, now=NOW, host="mill", pid=12, blocker=blocker)


@pytest.mark.parametrize(
    ("told", "words"),
    [
        (life(Blocker("line", "waits for its turn")), "waits for its turn"),
        (
            life(Blocker("held", "waits because kim said so", NOW, NOW + timedelta(minutes=3))),
            "since 2026-11-23 05:00:00 UTC, until 2026-11-23 05:03:00 UTC, in 3 min",
        ),
        (life(state=State.RUNNING, started_at=NOW, attempt=2), "in attempt 2 on mill, process 12"),
        (life(state=State.RUNNING, started_at=NOW, cancel_requested_at=NOW), "was asked to stop"),
        (
            life(state=State.RUNNING, started_at=NOW, cancel_requested_at=NOW - timedelta(minutes=3)),
            "asked to stop 3 min ago it does not listen: its job makes no check, or a call blocks it",
        ),
        (life(state=State.SUCCEEDED, finished_at=NOW - timedelta(hours=2), attempt=1), "succeeded 2 h ago"),
        (life(state=State.DEAD, failures=10, error="no"), "is dead after 10 of 10 failures: no"),
        (life(state=State.CANCELLED, error="cancelled by kim"), "was cancelled: cancelled by kim"),
    ],
)
def test_a_run_says_why_it_stands_where_it_stands(told: Life, words: str) -> None:
    assert words in why(told)


def test_a_waiting_run_is_called_what_people_call_it() -> None:
    later = NOW + timedelta(minutes=1)
    assert word(RUN, NOW) == "waiting"
    assert word(RUN | {"due_at": later}, NOW) == "scheduled"
    assert word(RUN | {"due_at": later, "failures": 1}, NOW) == "retrying"
    assert word(RUN | {"state": "dead"}, NOW) == "dead"


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (BadSettings("REDIS_URL is missing"), 2, "REDIS_URL is missing"),
        (Refused("there is no queue"), 2, "there is no queue"),
        (Unavailable("warehouse is away", upstream="warehouse"), 1, "warehouse is away"),
        (BrokerAway("RabbitMQ", "refused\nmore"), 1, "RabbitMQ does not answer (refused): start it, or correct BROKER"),
        (RedisAway("Error 111 connecting to mill:6379."), 1, "Redis does not answer"),
        (OperationalError("SELECT 1", {}, Exception("refused\nmore")), 1, "Postgres does not answer (refused)"),
        (KeyboardInterrupt(), 130, "stopped"),
    ],
)
def test_what_went_wrong_is_one_line_with_an_exit_code(error: BaseException, code: int, words: str) -> None:
    failure = explain(error)
    assert failure is not None
    assert failure.code == code
    assert words in failure.sentence
    assert "\n" not in failure.sentence


def test_a_password_in_an_error_is_not_repeated() -> None:
    failure = explain(OperationalError("x", {}, Exception("no postgresql://kim:hush@mill/shop")))
    assert failure is not None
    assert "hush" not in failure.sentence


def test_a_mistake_of_ours_keeps_its_traceback() -> None:
    assert explain(ZeroDivisionError()) is None


@given(st.text() | st.from_regex(r"\d{1,7}[smhdwy]", fullmatch=True) | st.datetimes().map(str))
def test_a_moment_is_read_or_refused_and_never_anything_else(typed: str) -> None:
    try:
        read = moment(typed)
    except typer.BadParameter:
        return
    assert read.utcoffset() == timedelta(0)


@given(st.datetimes(), st.timezones())
def test_a_date_and_time_is_read_as_it_was_written(naive: datetime, zone: Any) -> None:
    written = naive.replace(tzinfo=zone)
    try:
        expected = written.astimezone(UTC)
        read = moment(written.isoformat())
    except (OverflowError, typer.BadParameter):
        return
    assert read == expected


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0, "0 s"), (0.04, "40 ms"), (0.4, "0.4 s"), (3, "3 s"), (59, "59 s"), (61, "1 min"), (7200, "2 h"), (2e5, "2 d")],
)
def test_a_duration_is_said_in_one_unit(seconds: float, said: str) -> None:
    assert span(seconds) == said


def test_a_moment_is_said_by_its_distance() -> None:
    assert when(NOW - timedelta(minutes=3), NOW) == "3 min ago"
    assert when(NOW + timedelta(hours=2), NOW) == "in 2 h"
    assert when(NOW, NOW) == "now"


@given(st.dictionaries(st.text(min_size=1).filter(lambda name: "=" not in name), st.text()))
def test_pairs_come_back_as_they_were_typed(given_pairs: dict[str, str]) -> None:
    assert pairs([f"{name}={value}" for name, value in given_pairs.items()]) == given_pairs


@pytest.mark.parametrize("typed", [["name"], ["=value"], ["a=1", "a=2"]])
def test_a_pair_that_is_none_is_refused(typed: list[str]) -> None:
    with pytest.raises(typer.BadParameter, match="--arg"):
        pairs(typed)


@given(st.text())
def test_what_came_from_outside_cannot_steer_a_terminal(text: str) -> None:
    assert printable(text).isprintable()
    assert len(printable(text)) == len(text)


def test_a_preview_marks_where_the_clock_moves_and_which_days_are_left_out() -> None:
    now = datetime(2026, 11, 25, tzinfo=UTC)
    year = list(islice(ahead(cron("0 12 * * *", zone="Europe/Berlin"), now), 365))
    moved = [fire.local[:14] for fire in year if fire.note == "the clock has moved"]
    assert moved == ["Sun 2027-03-28", "Sun 2027-10-31"]
    third = year[2].fire_at
    few = list(islice(ahead(cron("0 12 * * *", zone="Europe/Berlin", excluding={third.date()}), now), 4))
    assert [fire.fire_at for fire in few if fire.note == "left out"] == [third]


@pytest.mark.parametrize(
    ("skew", "words"),
    [
        (4.24, "4.2 s ahead"),
        (-0.5, "0.5 s behind"),
        (-259_200.0, "3 d behind"),
        (0.49, ""),
        (-0.49, ""),
        (0.0, ""),
        (None, ""),
    ],
)
def test_a_clock_is_shown_only_where_it_is_wrong(skew: float | None, words: str) -> None:
    clock: Callable[[Any], str] = COLUMNS["clock"]
    assert clock(SimpleNamespace(clock_skew=skew)) == words
