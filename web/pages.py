"""The pages that people see: rendered here as plain HTML, working without a script, refreshed in place with one.

The live part of the overview is a fragment of the same address, so the page and its refresh can never disagree.
"""

import re
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from http import HTTPStatus
from importlib.metadata import version
from pathlib import Path
from typing import Any

from fastapi.exceptions import RequestValidationError
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from web import access, health, words
from web.health import Status
from web.problems import Problem
from web.pulse import Pulse, Snapshot
from web.recent import MinuteView
from web.sparkline import bars, ticks
from workers import logs
from workers.census import CAP
from workers.timetable import SlotView

TEMPLATES = Path(__file__).parent / "templates"


class Pages:
    """The pages.

    Args:
        pulse: Looks at everything.
        schema: Returns the OpenAPI description of the JSON addresses.
    """

    def __init__(self, pulse: Pulse, schema: Callable[[], dict[str, Any]]) -> None:
        self._pulse = pulse
        self._schema = schema
        self._templates = _environment()

    def overview(self, request: Request, fragment: str = "") -> Response:
        """Show how everything is; with `?fragment=live` only the part that changes."""
        sight = self._pulse.look()
        verdict = health.judge(sight)
        status = 200 if sight.snapshot is not None else 503
        return self.page(
            request,
            "live.html" if fragment == "live" else "overview.html",
            status,
            verdict=verdict,
            headline=_headline(verdict, sight.snapshot),
            seen=sight.snapshot,
            documents=sight.documents,
            now=sight.snapshot.taken_at if sight.snapshot else datetime.now(UTC),
        )

    def operations(self, request: Request) -> Response:
        """List the operations of the JSON interface."""
        listed = [
            (method.upper(), path, operation["summary"], operation.get("description", ""))
            for path, methods in self._schema()["paths"].items()
            for method, operation in methods.items()
        ]
        return self.page(request, "operations.html", 200, operations=listed)

    async def refusal(self, request: Request, error: Exception) -> Response:
        """Answer a request that cannot be served, in the language of whoever asked."""
        status = error.status_code if isinstance(error, HTTPException) else 500
        headers = dict(getattr(error, "headers", None) or {})
        return self.refuse(request, status, "", headers)

    async def misread(self, request: Request, error: Exception) -> Response:
        """Answer a program whose request is not what the description of the address says."""
        wrong = error.errors()[0] if isinstance(error, RequestValidationError) else {"loc": (), "msg": ""}
        where = ".".join(str(part) for part in wrong["loc"])
        return self.refuse(request, 422, f"{where}: {wrong['msg']}", {})

    async def mistake(self, request: Request, error: Exception) -> Response:
        """Answer 500 after a mistake of ours; the log has the details, the answer has none."""
        logs.get().error("a request failed", path=request.url.path, exc_info=error)
        return self.refuse(request, 500, "", {})

    def refuse(self, request: Request, status: int, said: str, headers: dict[str, str]) -> Response:
        """Answer with a status and, where there is more to say than it does, a sentence."""
        if access.for_programs(request.scope["path"]):
            return Problem(status, said or None, headers=headers)
        phrase = HTTPStatus(status).phrase
        response = self.page(request, "failure.html", status, status=status, phrase=phrase, said=said)
        response.headers.update(headers)
        return response

    def page(self, request: Request, template: str, code: int, **context: Any) -> Response:
        """Render a template."""
        caller = getattr(request.state, "caller", None)
        context |= {"host": request.headers.get("host", ""), "version": version("headrace"), "caller": caller}
        return HTMLResponse(self._templates.get_template(template).render(**context), code)


def _headline(verdict: health.Verdict, seen: Snapshot | None) -> str:
    if verdict.status is not Status.GREEN or seen is None:
        red = sum(check.status is Status.RED for check in verdict.troubles)
        amber = len(verdict.troubles) - red
        parts = [f"{words.counted(red, 'thing')} broken" if red else "", f"{amber} to look at" if amber else ""]
        return ", ".join(part for part in parts if part)
    workers = sum(process.alive and process.kind == "worker" for process in seen.processes)
    ages = [stream.freshness_seconds for stream in seen.streams if stream.freshness_seconds is not None]
    fresh = f", and every stream was read within {words.whole(max(ages))}" if ages else ""
    return f"Everything flows: {words.counted(workers, 'worker')} at work, nothing is late{fresh}."


def _environment() -> Environment:
    made = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {
        "number": words.number,
        "span": words.span,
        "signed": "{:+,}".format,
        "capped": _capped,
        "code": _code,
        "breakable": _breakable,
        "pace": _pace,
        "outcomes": _outcomes,
    }
    made.globals |= {"ago": words.ago, "bars": bars, "ticks": ticks}
    return made


def _capped(value: int) -> str:
    return f"{value:,}+" if value >= CAP else f"{value:,}"


def _code(sentence: str) -> Markup:
    """Set what stands between backticks as code."""
    parts = [escape(part) for part in sentence.split("`")]
    return Markup("").join(Markup("<code>{}</code>").format(part) if at % 2 else part for at, part in enumerate(parts))


def _breakable(name: str) -> Markup:
    """Let a dotted name wrap after its dots, slashes and underscores."""
    return Markup(re.sub(r"([./_])", r"\1<wbr>", str(escape(name))))  # noqa: S704 - escaped on this line


def _outcomes(slots: Sequence[SlotView]) -> str:
    """Say what the newest fires became."""
    counts = Counter(slot.outcome.replace("_", " ") for slot in slots)
    became = ", ".join(f"{count} {outcome}" for outcome, count in counts.most_common())
    return f"Of the last {words.counted(len(slots), 'fire')}: {became}."


def _pace(minutes: Sequence[MinuteView]) -> str:
    succeeded = sum(minute.succeeded for minute in minutes)
    failed = sum(minute.failed for minute in minutes)
    if not succeeded + failed:
        return "No attempt ended in the last hour."
    busiest = max(minute.succeeded + minute.failed for minute in minutes)
    return f"{words.counted(succeeded, 'attempt')} succeeded, {failed:,} failed; {busiest:,} in the busiest minute."
