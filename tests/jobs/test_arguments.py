"""Arguments are judged when work is enqueued: each refusal names the job and the argument."""

from datetime import date
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import Engine, text

import jobs
from jobs import BadArguments, Context
from jobs._arguments import LARGEST, accept, restore
from tests.workers.trial_jobs import effect


def sync(
    context: Context,
    *,
    store: int,
    since: date | None = None,
    mode: Literal["full", "changed"] = "changed",
    share: float = 1.0,
    names: list[str] | None = None,
    more: Any = None,
) -> None:
    """A job's function."""
    del context, store, since, mode, share, names, more


#: Values that no JSON can spell: one that holds itself, and one with more levels than anybody reads.
CIRCLE: list[Any] = []
CIRCLE.append(CIRCLE)
DEEP: list[Any] = []
for _ in range(100_000):
    DEEP = [DEEP]


@pytest.mark.parametrize(
    ("arguments", "argument", "why"),
    [
        ({}, "store", "is required"),
        ({"store": "many"}, "store", "valid integer"),
        ({"store": None}, "store", "valid integer"),
        ({"store": 1, "stroe": 2}, "stroe", "is not one of this job's arguments"),
        ({"store": 1, "context": 2}, "context", "is not one of this job's arguments"),
        ({"store": 1, "since": "yesterday"}, "since", "valid date"),
        ({"store": 1, "mode": "quick"}, "mode", "'full' or 'changed'"),
        ({"store": 1, "share": float("nan")}, "share", "finite"),
        ({"store": 1, "share": float("inf")}, "share", "finite"),
        ({"store": 1, "names": ["a", 5]}, "names.1", "valid string"),
        ({"store": 1, "names": ["half a pair \ud800"]}, "names", "half of a surrogate pair"),
        ({"store": 1, "names": ["a", "zero \x00"]}, "names", "zero character"),
        ({"store": 1, "more": object()}, "more", "is not JSON; pass an id or plain values"),
        ({"store": 1, "more": {"deep": [open]}}, "more", "is not JSON"),
        ({"store": 1, "more": [float("nan")]}, "more", "is not JSON"),
        ({"store": 1, "more": b"\xff\xfe"}, "more", "is not JSON"),
        ({"store": 1, "more": CIRCLE}, "more", "is not JSON"),
        ({"store": 1, "more": DEEP}, "more", "is not JSON"),
        ({"store": 1, "names": "abc"}, "names", "valid list"),
    ],
)
def test_what_is_wrong_is_said_with_the_job_and_the_argument(
    arguments: dict[str, Any], argument: str, why: str
) -> None:
    with pytest.raises(BadArguments) as caught:
        accept("topic.sync", sync, arguments)
    message = str(caught.value)
    assert message.startswith(f"job topic.sync: argument {argument!r}: ")
    assert why in message
    assert "\n" not in message


@pytest.mark.parametrize("letter", ["x", "ü", "🐟"])
def test_arguments_that_are_too_large_are_refused_by_their_bytes(letter: str) -> None:
    room = (LARGEST - 200) // len(letter.encode())
    accept("topic.sync", sync, {"store": 1, "names": [letter * room]})
    with pytest.raises(BadArguments, match=r"job topic\.sync: the arguments take more than 16384 bytes; pass ids"):
        accept("topic.sync", sync, {"store": 1, "names": [letter * (room + 200)]})


def test_arguments_are_kept_as_json_and_come_back_typed() -> None:
    kept = accept("topic.sync", sync, {"store": "7", "since": date(2026, 11, 23)})
    assert kept == {"store": 7, "since": "2026-11-23"}
    typed = restore("topic.sync", sync, kept)
    assert typed == {
        "store": 7,
        "since": date(2026, 11, 23),
        "mode": "changed",
        "share": 1.0,
        "names": None,
        "more": None,
    }


def test_a_default_that_changes_with_a_deploy_reaches_runs_that_did_not_name_it() -> None:
    assert accept("topic.sync", sync, {"store": 1}) == {"store": 1}


def test_the_letters_of_an_escape_are_no_zero_character(engine: Engine) -> None:
    with engine.begin() as connection:
        effect.enqueue(connection, key="\\u0000")
        assert connection.execute(text("SELECT args ->> 'key' FROM runs")).scalar_one() == "\\u0000"


@given(st.text(st.characters(exclude_categories=()), max_size=200))
def test_any_text_is_accepted_unchanged_or_refused_in_one_sentence(words: str) -> None:
    arguments = {"store": 1, "names": [words]}
    if "\x00" in words or any("\ud800" <= letter <= "\udfff" for letter in words):
        with pytest.raises(BadArguments, match="argument 'names'"):
            accept("topic.sync", sync, arguments)
    else:
        assert restore("topic.sync", sync, accept("topic.sync", sync, arguments))["names"] == [words]


def test_arguments_go_by_name(engine: Engine) -> None:
    enqueue: Any = effect.enqueue
    with engine.begin() as connection, pytest.raises(BadArguments, match="give its arguments by name"):
        enqueue(connection, "a")


@pytest.mark.parametrize("job", ["warehouse.apply_event", "stripe.refresh_payment"])
def test_an_id_that_no_row_can_have_is_refused_with_its_name(job: str) -> None:
    recorded = jobs.load()[job]
    with pytest.raises(BadArguments, match=f"job {job}: argument 'event_id': input should be less than or equal to"):
        accept(job, recorded.function, {"event_id": 10**22})


def test_arguments_of_another_version_of_the_function_are_refused_in_one_sentence() -> None:
    for stored, words in (({"store": 1, "gone": 2}, "'gone': is not one of"), ({}, "'store': is required")):
        with pytest.raises(BadArguments, match=f"^job topic.sync: argument {words}"):
            restore("topic.sync", sync, stored)
