"""The web application: every address on one screen, and what stands behind it."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from fastapi import FastAPI
from prometheus_client import CollectorRegistry
from starlette.exceptions import HTTPException
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp

import integrations
from integrations.elasticsearch import Elasticsearch
from jobs._documents import ALIAS
from web.inbox import Inbox
from web.machines import Machines, Overview
from web.metrics import Census
from web.pages import Pages
from web.pulse import Pulse
from web.runs import Runs, Standing
from web.schedules import Schedules, Timetable
from web.secure import SecureHeaders
from web.webhooks import Receiver
from workers.runtime import Runtime

STATIC = Path(__file__).parent / "static"


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
    machines = Machines(pulse, registry)

    app = FastAPI(
        title="Headrace",
        openapi_url="/api/openapi.json",
        docs_url=None,
        redoc_url=None,
        lifespan=lambda _: _keeping(inbox),
    )
    pages = Pages(pulse, app.openapi)
    app.mount("/webhooks", Receiver(_sources(runtime), inbox, registry))
    app.mount("/static", StaticFiles(directory=STATIC))
    app.get("/api/v1/overview", response_model=Overview, summary="Everything at a glance")(machines.overview)
    app.get("/api/v1/runs/{run_id:int}", response_model=Standing, summary="One run and why it stands there")(
        Runs(runtime.engine).show
    )
    schedules = Schedules(runtime.engine, pages)
    app.get("/api/v1/schedules/{name}", response_model=Timetable, summary="One schedule and its fires")(schedules.show)
    for path, endpoint in (
        ("/", pages.overview),
        ("/schedules/{name}", schedules.page),
        ("/api/docs", pages.operations),
        ("/health", machines.health),
        ("/health/live", machines.live),
        ("/health/ready", machines.ready),
        ("/metrics", machines.metrics),
    ):
        app.add_api_route(path, endpoint, methods=["GET", "HEAD"], include_in_schema=False)
    app.add_exception_handler(HTTPException, pages.refusal)
    app.add_exception_handler(Exception, pages.mistake)
    return SecureHeaders(app)


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
    configured = [kinds[name] for name in runtime.settings.integrations if kinds[name].webhook]
    return {kind.name: runtime.use(kind) for kind in configured}


@asynccontextmanager
async def _keeping(inbox: Inbox) -> AsyncIterator[None]:
    task = asyncio.create_task(inbox.run())
    yield
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
