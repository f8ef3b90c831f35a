"""One schedule, for people and for programs: its rule, the fires ahead and behind, and why one did not come.

Arguments are shown by the command line alone.
"""

from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from typing import Any

from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import DataError, SQLAlchemyError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from jobs import BadRule
from web.pages import Pages
from web.problems import Problem
from workers import timetable
from workers.actions import Refused
from workers.census import as_json
from workers.timetable import FireView, ScheduleView, SlotView

#: Fires ahead, and fires behind on one page.
AHEAD = 20
BEHIND = 60
#: Digits of an id, fewer than would not fit into one.
DIGITS = 18

NOW = text("SELECT now()")


@dataclass(frozen=True, slots=True)
class Timetable:
    """A schedule with the fires around now."""

    schedule: ScheduleView
    #: What is out of the ordinary about it.
    besides: list[str]
    fires: list[FireView]
    #: The newest first.
    slots: list[SlotView]
    #: By the database's clock.
    now: datetime


class Schedules:
    """The endpoints about single schedules.

    Args:
        engine: The database.
        pages: Renders.
    """

    def __init__(self, engine: Engine, pages: Pages) -> None:
        self._engine = engine
        self._pages = pages

    def show(self, name: str) -> Response:
        """A schedule with its next fires, and what its last ones became and why."""
        try:
            with self._engine.connect() as connection:
                found = _read(connection, name, None)
        except SQLAlchemyError:
            return Problem(503, "Postgres does not answer: ask again", headers={"Retry-After": "5"})
        return JSONResponse(as_json(found)) if found else Problem(404, f"there is no schedule {name}")

    def page(self, request: Request, name: str, at: str = "", before: str = "") -> Response:
        """Show a schedule; with `?at=MOMENT` also the answer why it did or did not fire then."""
        older = int(before) if before.isdecimal() and before.isascii() and len(before) <= DIGITS else None
        try:
            with self._engine.connect() as connection:
                found = _read(connection, name, older)
                answer = _answer(connection, name, at) if found and at else None
        except SQLAlchemyError:
            raise HTTPException(503, headers={"Retry-After": "5"}) from None
        if found is None:
            raise HTTPException(404)
        more = found.slots[-1].id if len(found.slots) == BEHIND else None
        said: dict[str, Any] = {"at": at, "answer": answer, "older": more, "paged": older is not None, "room": BEHIND}
        return self._pages.page(request, "schedule.html", 200, found=found, **said)


def _read(connection: Connection, name: str, older: int | None) -> Timetable | None:
    try:
        found = timetable.schedule(connection, name)
    except DataError:  # a name that Postgres cannot hold
        return None
    if found is None:
        return None
    now: datetime = connection.execute(NOW).scalar_one()
    behind = timetable.slots(connection, name, before=older, most=BEHIND)
    return Timetable(found, list(timetable.besides(found)), _ahead(found, now), behind, now)


def _ahead(found: ScheduleView, now: datetime) -> list[FireView]:
    if found.retired_at is not None:
        return []
    try:
        return list(islice(timetable.ahead(timetable.rule_of(found), now), AHEAD))
    except BadRule:  # it is said by the rule itself, and it does not fire
        return []


def _answer(connection: Connection, name: str, at: str) -> str:
    try:
        return timetable.explain(connection, name, at).sentence
    except (Refused, BadRule) as refused:
        return str(refused)
