"""What answers an event: one run for many events of an entity, in order, and none of them overlooked."""

from typing import Any

import orjson
import pytest
from sqlalchemy import Engine, select, text
from sqlalchemy.orm import Session

import jobs
from integrations import EventKey
from jobs import Context, RowId, Unique, _job, answer, answered, entity_of, job
from models import Event, Verdict

ON = [EventKey("mill", "wheel.turned")]


def turn(context: Context, *, event_id: RowId) -> None:
    """Do nothing."""
    del context, event_id


def count(context: Context, *, number: int = 1) -> None:
    """Do nothing."""
    del context, number


@pytest.fixture(autouse=True)
def forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """The jobs of a test are gone after it."""
    monkeypatch.setattr(_job, "_registry", {})


def keep(session: Session, number: int, data: Any) -> Event:
    event = Event(
        source="mill", external_id=str(number), type="wheel.turned", verdict=Verdict.IGNORED, headers={},
        body=orjson.dumps({"data": data}) if not isinstance(data, bytes) else data,
    )  # fmt: skip
    session.add(event)
    session.flush()
    return event


def told(session: Session, recorded: jobs.Job[Any], *wheels: Any) -> list[int]:
    """Let events about these wheels be answered; return the run of each."""
    events = [keep(session, number, {"wheel": wheel}) for number, wheel in enumerate(wheels)]
    return [answer(session, recorded, event.id, event.body) for event in events]


@pytest.mark.parametrize(
    ("paths", "payload", "about"),
    [
        (("data.id",), {"data": {"id": "x"}}, "x"),
        (("data.id",), {"data": {"id": 42}}, "42"),
        (("data.ids.1",), {"data": {"ids": ["a", "b"]}}, "b"),
        (("data.ids.2",), {"data": {"ids": ["a", "b"]}}, None),
        (("a", "b.c"), {"b": {"c": "x"}}, "x"),
        (("a", "b.c"), {"a": "y", "b": {"c": "x"}}, "y"),
        (("a",), {"a": True}, None),
        (("a",), {"a": ""}, None),
        (("a",), {"a": "x" * 256}, None),
        (("a.b",), {"a": "text"}, None),
        ((), {"a": "x"}, None),
    ],
)
def test_the_first_place_that_names_something_usable_says_what_an_event_is_about(
    paths: tuple[str, ...], payload: Any, about: str | None
) -> None:
    assert entity_of(paths, payload) == about


def test_events_of_one_entity_share_a_run_that_nobody_has_taken_and_the_next_one_gets_another(engine: Engine) -> None:
    recorded = job(on=ON, entity="data.wheel", unique=Unique())(turn)
    with Session(engine) as session:
        first, other, again, nameless, odd = told(session, recorded, "a", "b", "a", None, {"not": "usable"})
        assert first == again
        assert len({first, other, nameless, odd}) == 4
        assert [event.external_id for event in answered(session, first, 1)] == ["0", "2"]
        assert [event.external_id for event in answered(session, other, 2)] == ["1"]
        # When a worker takes it, then what comes now causes a run of its own
        session.execute(text("UPDATE runs SET unique_key = NULL WHERE id = :id"), {"id": first})
        late = keep(session, 9, {"wheel": "a"})
        following = answer(session, recorded, late.id, late.body)
        assert following != first
        assert [event.external_id for event in answered(session, following, late.id)] == ["9"]


def test_what_waits_for_more_is_due_once_by_the_first(engine: Engine) -> None:
    recorded = job(on=ON, entity="data.wheel", unique=Unique(wait=60))(turn)
    with Session(engine) as session:
        first, again = told(session, recorded, "a", "a")
        assert first == again
        due = "SELECT extract(epoch FROM due_at - created_at)::int FROM runs"
        assert session.execute(text(due)).scalars().all() == [60]


def test_ordered_runs_of_an_entity_share_a_key_and_those_of_none_wait_for_nobody(engine: Engine) -> None:
    recorded = job(on=ON, entity="data.wheel", ordered=True)(turn)
    with Session(engine) as session:
        runs = told(session, recorded, "a", "b", "a", None)
        assert len(set(runs)) == 4
        keys = session.execute(text("SELECT key FROM runs ORDER BY id")).scalars().all()
    assert keys == ["a", "b", "a", "event 4"]


def test_a_replayed_event_joins_a_waiting_run_of_its_entity_and_a_body_that_is_no_json_none(engine: Engine) -> None:
    recorded = job(on=ON, entity="data.wheel", unique=Unique())(turn)
    with Session(engine) as session:
        told(session, recorded, "a", "a")
        again = session.scalars(select(Event).order_by(Event.id)).first()
        assert again is not None
        run_id = answer(session, recorded, again.id, again.body)
        assert [event.id for event in answered(session, run_id, again.id)] == [1, 2]
        odd = keep(session, 7, b"\xff[")
        assert answer(session, recorded, odd.id, odd.body) != run_id


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "answers no event that could name it"),
        ({"on": ON, "key": "event_id"}, "its entity is its key"),
        ({"on": ON, "unique": Unique(by=("event_id",))}, "its entity is its key"),
        ({"on": ON, "unique": Unique(during="unfinished")}, "Unique\\(wait=...\\)"),
        ({"on": ON, "unique": Unique(on_conflict="postpone", wait=5)}, "Unique\\(wait=...\\)"),
    ],
)
def test_an_entity_that_makes_no_sense_is_refused_where_it_is_declared(options: dict[str, Any], words: str) -> None:
    function: Any = turn if "on" in options else count
    with pytest.raises(ValueError, match=words):
        job(entity="data.wheel", **options)(function)
