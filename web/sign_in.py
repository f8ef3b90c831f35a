"""Signing in and out: the page, and what its form does.

    counted ── tried ── begun ──▶ back to where they wanted to go
       │         └─ wrong: the same sentence and the same time, whether the name or the password was
       └─ too often from there: asked to wait, and nothing is tried

Signing in makes a new secret and ends the old one, so nobody can plant a cookie and wait until somebody signs in with
it. Wrong passwords are in the audit, and so is the moment at which a place was told to wait.
"""

from typing import Any

from sqlalchemy import Engine, select
from sqlalchemy.exc import SQLAlchemyError
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from models import Role, User
from web import credentials, forms, throttle
from web.access import local
from web.credentials import Caller
from web.pages import Pages
from web.words import whole
from workers import actions
from workers.actions import Actor
from workers.passwords import Busy, Prover

WRONG = "That name and password do not belong together."
AWAY = "Postgres does not answer, so nobody can sign in: try again; /health says what else is wrong."
BUSY = "Many people sign in at this moment: try again in a second."
#: Characters of a name and of a password that are looked at.
_LONGEST = 300
#: Who the audit says did it when nobody is known.
_UNKNOWN = "unknown"


class SignInPages:
    """The endpoints for signing in and out.

    Args:
        engine: The database.
        pages: Renders.
    """

    def __init__(self, engine: Engine, pages: Pages) -> None:
        self._engine = engine
        self._pages = pages
        self._prover = Prover()

    def form(self, request: Request, next: str = "/") -> Response:  # noqa: A002 - the word in the address
        """Ask for a name and a password."""
        return self._form(request, {"next": next}, "", 200)

    async def enter(self, request: Request) -> Response:
        """Sign a browser in."""
        typed = await forms.read(request)
        try:
            return await run_in_threadpool(self._enter, request, typed)
        except SQLAlchemyError:
            return self._form(request, typed, AWAY, 503, {"Retry-After": "5"})
        except Busy:
            return self._form(request, typed, BUSY, 429, {"Retry-After": "1"})

    def leave(self, request: Request) -> Response:
        """Sign this browser out."""
        with self._engine.begin() as connection:
            credentials.end(connection, request.headers)
        return _gone()

    def leave_everywhere(self, request: Request) -> Response:
        """Sign a user out of every browser."""
        caller: Caller = request.state.caller
        with self._engine.begin() as connection:
            ended = credentials.end_all(connection, caller.id)
            actions.record(connection, by=caller.actor, action="sign-out everywhere", target=caller.name, count=ended)
        return _gone()

    def _enter(self, request: Request, typed: dict[str, str]) -> Response:
        name = forms.in_one_line(typed.get("name", ""), _LONGEST)
        place = throttle.place(request.client.host if request.client else "")
        if wait := self._counted(name, place):
            said = f"Too many wrong passwords came from your address: try again in {whole(wait)}."
            return self._form(request, typed, said, 429, {"Retry-After": f"{wait:.0f}"})
        user = self._found(name)
        if not self._prover.right(user and user.password, typed.get("password", "")) or user is None:
            self._refused(user.name if user else "a name that nobody has", place)
            return self._form(request, typed, WRONG, 403)
        return self._begun(request, user, place, local(typed.get("next", "/")))

    def _counted(self, name: str, place: str) -> float:
        with self._engine.begin() as connection:
            verdict = throttle.count(connection, name, place)
            if verdict.first:
                details = {"from": place, "seconds": round(verdict.wait)}
                actions.record(connection, by=_UNKNOWN, action="sign-in throttle", target=place, details=details)
        return verdict.wait

    def _found(self, name: str) -> Any:
        wanted = select(User.__table__).where(actions.is_called(name), User.disabled_at.is_(None))
        with self._engine.connect() as connection:
            return connection.execute(wanted).one_or_none()

    def _refused(self, name: str, place: str) -> None:
        with self._engine.begin() as connection:
            actions.record(connection, by=_UNKNOWN, action="sign-in refuse", target=name, details={"from": place})

    def _begun(self, request: Request, user: Any, place: str, target: str) -> Response:
        with self._engine.begin() as connection:
            throttle.uncount(connection, user.name, place)
            secret = credentials.begin(connection, user.id, request.headers)
            by = Actor(user.name, Role(user.role))
            actions.record(connection, by=by, action="sign-in", target=user.name, details={"from": place})
        answer = RedirectResponse(target, 303)
        credentials.give(answer, secret, secure=_is_secure(request))
        return answer

    def _form(
        self, request: Request, typed: dict[str, str], said: str, code: int, headers: dict[str, str] | None = None
    ) -> Response:
        name, target = typed.get("name", "")[:_LONGEST], local(typed.get("next", "/"))
        answer = self._pages.page(request, "sign_in.html", code, name=name, target=target, said=said)
        answer.headers.update(headers or {})
        return answer


def _is_secure(request: Request) -> bool:
    """Return whether the browser came over TLS, though a proxy may have ended it."""
    return request.url.scheme == "https" or request.headers.get("origin", "").startswith("https://")


def _gone() -> Response:
    answer = RedirectResponse("/sign-in", 303)
    credentials.take(answer)
    return answer
