"""One run, for people and for programs: where it stands and why, what it did, and asking it to stop.

Programs learn where it stands; people also see what it was given and what it said, with secrets replaced. To cancel is
the same action as on the command line. Asked twice it is done once, and both times the answer is where the run stands.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import SQLAlchemyError
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response

from models import FINAL, Role, State
from web import forms
from web.credentials import Caller
from web.pages import Pages
from web.problems import Problem
from workers import actions, calls, story
from workers.actions import CANCEL, Refused, Selection
from workers.blockers import Blocker
from workers.calls import CallView
from workers.census import as_json
from workers.life import look, why, word

#: The largest id that Postgres can hold.
LARGEST_ID = 2**63 - 1
#: Characters of a reason at most.
LONGEST_REASON = 500
#: A run that is over, and not because somebody wanted it to be.
_TOO_LATE = FINAL - {State.CANCELLED}
_AWAY = "Postgres does not answer: ask again"
_RETRY = {"Retry-After": "5"}


@dataclass(frozen=True, slots=True)
class Standing:
    """A run and the sentence that says why it stands where it stands."""

    id: int
    job: str
    queue: str
    state: str
    attempt: int
    created_at: datetime
    due_at: datetime
    #: When somebody asked it to stop; it ends at its next check.
    cancel_requested_at: datetime | None
    #: To be read after "the run".
    why: str
    #: What it waits for; empty once it runs or has ended.
    waits_for: Blocker | None
    #: What it asked of the outside, by attempt.
    calls: list[CallView]
    #: How many more an attempt made, by its number.
    calls_left_out: dict[int, int]


class Cancelling(BaseModel):
    """What may be said with a cancel."""

    model_config = ConfigDict(extra="forbid")

    reason: Annotated[str | None, Field(max_length=LONGEST_REASON, description="Why, for the audit.")] = None


class TooLate(Exception):  # noqa: N818 - reads as what it is
    """The run has ended; the message says how."""


class Runs:
    """The endpoints about single runs.

    Args:
        engine: The database.
        pages: Renders.
    """

    def __init__(self, engine: Engine, pages: Pages) -> None:
        self._engine = engine
        self._pages = pages

    def show(self, run_id: int) -> Response:
        """Where a run stands and, if it waits, what is in its way, since when and until when."""
        return _told(lambda: self._look(run_id))

    def cancel(self, request: Request, run_id: int, said: Cancelling | None = None) -> Response:
        """Cancel a run that waits, or ask one that runs to stop at its next check; 409 if it ended by itself before."""
        reason = said.reason if said else None
        return _told(lambda: self._cancel(run_id, request.state.caller, reason or ""))

    def page(self, request: Request, run_id: int) -> Response:
        """Show a run."""
        return self._page(request, run_id, "", 200)

    async def cancel_from_page(self, request: Request, run_id: int) -> Response:
        """Cancel a run and show it again."""
        typed = await forms.read(request)
        return await run_in_threadpool(self._cancel_and_show, request, run_id, typed.get("reason", ""))

    def _cancel_and_show(self, request: Request, run_id: int, reason: str) -> Response:
        try:
            self._cancel(run_id, request.state.caller, reason)
        except TooLate as late:
            return self._page(request, run_id, f"Nothing was changed: {late}.", 409)
        except Refused:
            raise HTTPException(404) from None
        except SQLAlchemyError:
            raise HTTPException(503, headers=_RETRY) from None
        return RedirectResponse(f"/runs/{run_id}", 303)

    def _look(self, run_id: int) -> Standing:
        with self._engine.connect() as connection:
            return _standing(connection, _possible(run_id))

    def _cancel(self, run_id: int, caller: Caller, reason: str) -> Standing:
        which = Selection(ids=(_possible(run_id),))
        why_so = forms.in_one_line(reason, LONGEST_REASON) or None
        with self._engine.begin() as connection:
            moved = actions.move(connection, CANCEL, which, by=caller.actor, reason=why_so)
            standing = _standing(connection, run_id)
        if run_id in moved.left and standing.state in _TOO_LATE:
            raise TooLate(f"run {run_id} has ended already, as {standing.state}")
        return standing

    def _page(self, request: Request, run_id: int, said: str, code: int) -> Response:
        try:
            with self._engine.connect() as connection:
                told = story.read(connection, _possible(run_id))
        except Refused:
            raise HTTPException(404) from None
        except SQLAlchemyError:
            raise HTTPException(503, headers=_RETRY) from None
        run, caller = told.life.run, request.state.caller
        return self._pages.page(
            request,
            "run.html",
            code,
            run=run,
            now=told.life.now,
            word=word(run, told.life.now),
            why=why(told.life),
            facts=story.facts(told),
            attempts=told.attempts[::-1],
            log=told.log,
            calls=told.calls,
            said=said,
            stoppable=run["state"] not in FINAL and run["cancel_requested_at"] is None,
            may_stop=caller.role.covers(Role.OPERATOR),
        )


def _standing(connection: Connection, run_id: int) -> Standing:
    life, made = look(connection, run_id), calls.look(connection, run_id)
    names = ("id", "job", "queue", "state", "attempt", "created_at", "due_at", "cancel_requested_at")
    shown = {name: life.run[name] for name in names}
    return Standing(**shown, why=why(life), waits_for=life.blocker, calls=made.listed, calls_left_out=made.left_out)


def _told(ask: Callable[[], Standing]) -> Response:
    """Answer a program with where a run stands."""
    try:
        return JSONResponse(as_json(ask()))
    except Refused as refused:
        return Problem(404, str(refused))
    except TooLate as late:
        return Problem(409, str(late))
    except SQLAlchemyError:
        return Problem(503, _AWAY, headers=_RETRY)


def _possible(run_id: int) -> int:
    """Return an id that Postgres can hold.

    Raises:
        Refused: If it cannot.
    """
    if not 1 <= run_id <= LARGEST_ID:
        raise Refused(f"there is no run {run_id}")
    return run_id
