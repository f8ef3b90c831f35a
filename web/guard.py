"""The guard: every request is judged before anything of ours sees it, by `web.access` and nothing else.

    begun ── on a page of ours? ── who asks? ── may they? ──▶ the application, which finds `request.state.caller`

What is judged is the path that the application will go by, never an address put together from the `Host` that came.

Whoever is not known is shown the way: a person to the sign-in page and from there to where they wanted to go, a program
to the token that it lacks.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import quote

from sqlalchemy.exc import SQLAlchemyError
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from web import access, credentials
from web.credentials import Caller, Credentials

#: Seconds that Postgres has to say who asks, and questions that it is asked at once. They have threads of their own:
#: with a database that hangs, health still answers.
PATIENCE, AT_ONCE = 2.5, 8
_AWAY = "Postgres does not answer, so nobody can be recognised: try again; /health says what else is wrong."
_FORGED = "This request did not begin on a page of ours, so nothing was done: go back, reload and try again."
#: Refuses with a status, a sentence and headers, in the language of whoever asked.
Refuse = Callable[[Request, int, str, dict[str, str]], Response]


class Away(Exception):  # noqa: N818 - says what is the case
    """Nobody can say who asks."""


class Guard:
    """Lets through who may.

    Args:
        app: The application.
        known: Tells who asks.
        refuse: Answers who may not.
    """

    def __init__(self, app: ASGIApp, known: Credentials, refuse: Refuse) -> None:
        self._app = app
        self._known = known
        self._refuse = refuse
        self._askers = ThreadPoolExecutor(AT_ONCE, "who")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        answer = await self._judge(Request(scope)) if scope["type"] == "http" else None
        await (answer or self._app)(scope, receive, send)

    async def _judge(self, request: Request) -> Response | None:
        """Return why a request goes no further, or None."""
        request.state.caller = None
        if self._is_forged(request):
            return self._refuse(request, 403, _FORGED, {})
        role = access.needed(request.method, request.scope["path"])
        if role is None:
            return None
        try:
            caller = await self._who(request)
        except Away:
            return self._refuse(request, 503, _AWAY, {"Retry-After": "5"})
        if caller is None:
            return self._ask_who(request)
        request.state.caller = caller
        return None if caller.role.covers(role) else self._refuse(request, 403, _may_not(caller, role), {})

    async def _who(self, request: Request) -> Caller | None:
        """Return who asks.

        Raises:
            Away: If Postgres does not say it, and nobody is believed.
        """
        asked = self._askers.submit(self._known.of, request.headers)
        try:
            return await asyncio.wait_for(asyncio.wrap_future(asked), PATIENCE)
        except (SQLAlchemyError, TimeoutError):
            believed = self._known.believed(request.headers) if request.method in access.SAFE else None
        if believed is None:
            raise Away
        return believed

    @staticmethod
    def _is_forged(request: Request) -> bool:
        method, path, headers = request.method, request.scope["path"], request.headers
        if access.may_come_from_anywhere(method, path) or credentials.has_token(headers) or access.is_ours(headers):
            return False
        # A program that lacks its token is told so: without a cookie nothing can be done in anybody's name.
        return credentials.has_cookie(headers) or access.needed(method, path) is None

    def _ask_who(self, request: Request) -> Response:
        headers = request.headers
        if access.for_programs(request.scope["path"]) or credentials.has_token(headers):
            wrong = ', error="invalid_token"' if credentials.has_token(headers) else ""
            said = "Send a token as `Authorization: Bearer hr_...`; `headrace users token` makes one."
            return self._refuse(request, 401, said, {"WWW-Authenticate": f'Bearer realm="headrace"{wrong}'})
        way = _way_in(request)
        if "hx-request" in headers:  # a part of a page asks: the whole page shall go
            return Response(status_code=401, headers={"HX-Redirect": way})
        return RedirectResponse(way, 303)


def _way_in(request: Request) -> str:
    """Return the address of the sign-in page, and from there back here; what acts is not done by coming back."""
    path, query = request.scope["path"], request.scope["query_string"].decode("latin-1")
    if request.method not in access.SAFE:
        path, query = path.rpartition("/")[0] or "/", ""
    back = "/" if "hx-request" in request.headers else quote(path) + (f"?{query}" if query else "")
    return "/sign-in" if back == "/" else f"/sign-in?next={quote(back, safe='/')}"


def _may_not(caller: Caller, role: str) -> str:
    return f"{caller.name} is {caller.role}, and this needs the role {role}: ask an admin."
