"""The receiver that one would write first: Starlette and a pool of psycopg's, one plain insert for each request.

It checks the same signature and writes the same row of `events`, and no run.
"""

import os
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import uvicorn
from psycopg_pool import AsyncConnectionPool
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from integrations.warehouse import Warehouse, WarehouseSettings

#: As in the measured reference: more connections than this make it slower.
POOL = 16
INSERT = """
    INSERT INTO events (source, external_id, type, verdict, headers, body)
    VALUES ('plain', %s, %s, 'accepted', '{}', %b)
    ON CONFLICT (source, external_id) DO NOTHING
"""


def application() -> Starlette:
    """Return the application."""
    pool = AsyncConnectionPool(
        os.environ["DATABASE_URL"], min_size=POOL, max_size=POOL, kwargs={"autocommit": True}, open=False
    )
    secrets = os.environ["WAREHOUSE_WEBHOOK_SECRETS"]
    warehouse = Warehouse(
        WarehouseSettings.model_validate({"url": "http://127.0.0.1:9", "token": "x", "webhook_secrets": secrets})
    )

    @asynccontextmanager
    async def opened(_: Starlette) -> AsyncIterator[None]:
        async with pool:
            await pool.wait()
            yield

    async def receive(request: Request) -> JSONResponse:
        body = await request.body()
        told = warehouse.verify(request.headers.items(), body, time.time())
        async with pool.connection() as connection:
            await connection.execute(INSERT, (told.external_id, told.type, body), prepare=True)
        return JSONResponse({"status": "accepted"})

    return Starlette(routes=[Route("/webhooks/warehouse", receive, methods=["POST"])], lifespan=opened)


if __name__ == "__main__":
    listening = socket.create_server(("127.0.0.1", 0), backlog=2048)
    print(f"http://localhost:{listening.getsockname()[1]}", flush=True)  # noqa: T201
    uvicorn.Server(uvicorn.Config(application(), log_config=None, access_log=False)).run(sockets=[listening])
