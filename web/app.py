"""The web application: every address on one screen, and what stands behind it."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from fastapi import Depends, FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi.security import HTTPBearer
from prometheus_client import CollectorRegistry
from sqlalchemy import Engine
from starlette.exceptions import HTTPException
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp

import integrations
from integrations.elasticsearch import Elasticsearch
from jobs._documents import ALIAS
from web.credentials import Credentials
from web.doors import Doors
from web.guard import Guard
from web.imports import Imports, Taken
from web.inbox import Inbox
from web.machines import Machines, Overview
from web.metrics import Census
from web.pages import Pages
from web.pulse import Pulse
from web.runs import Runs, Standing
from web.schedules import Schedules, Timetable
from web.secure import SecureHeaders
from web.sign_in import SignInPages
from web.webhooks import Receiver
from workers.runtime import Runtime

STATIC = Path(__file__).parent / "static"
LOOKING, ACTING = ["GET", "HEAD"], ["POST"]
#: For the description of the API alone: the guard has read the token before.
TOKEN = HTTPBearer(auto_error=False, description="A token that `headrace users token NAME --for WHAT` printed.")
TOO_LATE: dict[int | str, dict[str, Any]] = {
    409: {"description": "The run has ended and cannot be cancelled any more."}
}


def build(runtime: Runtime) -> ASGIApp:
    """Return the application.

    Args:
        runtime: Resources of the process.
    """
    registry = CollectorRegistry()
    pulse = _pulse(runtime)
    core = runtime.settings.core
    inbox = Inbox(core.conninfo, connect_args=core.connect_args)
    registry.register(Census(pulse))
    app = FastAPI(
        title="Headrace",
        openapi_url="/api/openapi.json",
        docs_url=None,
        redoc_url=None,
        lifespan=lambda _: _keeping(inbox),
    )
    pages = Pages(pulse, app.openapi)
    app.mount("/static", StaticFiles(directory=STATIC))
    _serve(app, pages, Machines(pulse, registry), runtime.engine)
    app.add_exception_handler(HTTPException, pages.refusal)
    app.add_exception_handler(RequestValidationError, pages.misread)
    app.add_exception_handler(Exception, pages.mistake)
    guarded = Guard(app, Credentials(runtime.engine), pages.refuse)
    return SecureHeaders(Doors(Receiver(_sources(runtime), inbox, registry), guarded))


def _serve(app: FastAPI, pages: Pages, machines: Machines, engine: Engine) -> None:
    """Say what stands behind each address; who may is in `web.access`."""
    runs, schedules, sign_in = Runs(engine, pages), Schedules(engine, pages), SignInPages(engine, pages)
    for method, path, ask, answer, summary in (
        ("GET", "/overview", machines.overview, Overview, "Everything at a glance"),
        ("GET", "/runs/{run_id:int}", runs.show, Standing, "One run and why it stands there"),
        ("POST", "/runs/{run_id:int}/cancel", runs.cancel, Standing, "Cancel a run"),
        ("GET", "/schedules/{name}", schedules.show, Timetable, "One schedule and its fires"),
    ):
        described: dict[str, Any] = {"response_model": answer, "summary": summary, "dependencies": [Depends(TOKEN)]}
        app.add_api_route(f"/api/v1{path}", ask, methods=[method], **described)
    _take_imports(app, Imports(engine))
    pages_and_probes: tuple[tuple[list[str], str, Callable[..., Any]], ...] = (
        (LOOKING, "/", pages.overview),
        (LOOKING, "/runs/{run_id:int}", runs.page),
        (ACTING, "/runs/{run_id:int}/cancel", runs.cancel_from_page),
        (LOOKING, "/schedules/{name}", schedules.page),
        (LOOKING, "/sign-in", sign_in.form),
        (ACTING, "/sign-in", sign_in.enter),
        (ACTING, "/sign-out", sign_in.leave),
        (ACTING, "/sign-out/everywhere", sign_in.leave_everywhere),
        (LOOKING, "/api/docs", pages.operations),
        (LOOKING, "/health", machines.health),
        (LOOKING, "/health/live", machines.live),
        (LOOKING, "/health/ready", machines.ready),
        (LOOKING, "/metrics", machines.metrics),
    )
    for methods, path, endpoint in pages_and_probes:
        app.add_api_route(path, endpoint, methods=methods, include_in_schema=False)


def _take_imports(app: FastAPI, imports: Imports) -> None:
    app.add_api_route(
        "/api/v1/imports/stock",
        imports.stock,
        methods=["POST"],
        response_model=Taken,
        status_code=202,
        summary="Import counted stock",
        dependencies=[Depends(TOKEN)],
        openapi_extra={"requestBody": {"required": True, "content": {"text/csv": {"schema": {"type": "string"}}}}},
    )


def _pulse(runtime: Runtime) -> Pulse:
    broker = runtime.delivery()
    probes: dict[str, Callable[[], object]] = {"redis": runtime.redis.ping}
    if runtime.settings.separate_broker:
        probes["broker"] = broker.probe
    probes["elasticsearch"] = lambda: _documents(runtime)
    return Pulse(runtime.engine, probes, broker=broker.name)


def _documents(runtime: Runtime) -> int | None:
    """Return how many documents searches see, or None when no index is live."""
    elasticsearch = runtime.use(Elasticsearch)
    return elasticsearch.count(ALIAS) if elasticsearch.alias_targets(ALIAS) else None


def _sources(runtime: Runtime) -> dict[str, integrations.Integration]:
    kinds = integrations.load()
    configured = [kinds[name] for name in runtime.settings.integrations if kinds[name].source]
    return {kind.name: runtime.use(kind) for kind in configured}


@asynccontextmanager
async def _keeping(inbox: Inbox) -> AsyncIterator[None]:
    task = asyncio.create_task(inbox.run())
    yield
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
