"""One process, all stand-ins: puts the parts together, serves them on a loopback port, and says where.

The only line on standard output is `URL=http://127.0.0.1:PORT`, printed once requests are answered. The warehouse is at
the root of that address, Stripe below `/stripe`, the back door below `/admin`.
"""

import argparse
import asyncio
import gc
import os
import socket
import sys
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import UTC, datetime
from uuid import uuid4

import orjson
import uvicorn
from starlette.applications import Starlette
from starlette.routing import Mount

from sandbox.upstreams import catalogue, signatures
from sandbox.upstreams.admin import Admin
from sandbox.upstreams.deliveries import Deliveries
from sandbox.upstreams.faults import Faults, Switchboard
from sandbox.upstreams.gate import Gate
from sandbox.upstreams.live import Live
from sandbox.upstreams.stripe_account import StripeAccount
from sandbox.upstreams.stripe_api import StripeApi
from sandbox.upstreams.stripe_checkout import Checkouts
from sandbox.upstreams.stripe_life import StripeLife
from sandbox.upstreams.warehouse import Clock, Item, Listener, Warehouse, iso
from sandbox.upstreams.warehouse_api import WarehouseApi


def options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser("python -m sandbox.upstreams", description="Stand-in warehouse and Stripe.")
    parser.add_argument("--port", type=int, default=0, help="port on 127.0.0.1; 0 takes a free one")
    parser.add_argument("--products", type=int, default=1_250, help="best-selling products to serve, up to 92,331")
    parser.add_argument("--stores", type=int, default=20, help="busiest stores to serve, up to 20")
    parser.add_argument("--seed", type=int, default=2017, help="of the opening stock and of all faults")
    parser.add_argument("--token", required=True, help="the warehouse's bearer token")
    parser.add_argument("--webhook-secret", required=True, help="whsec_ and base64, for the warehouse's webhooks")
    parser.add_argument(
        "--stripe-secret", required=True, help="whsec_..., for Stripe's webhooks; comma-separated while rolled"
    )
    parser.add_argument("--webhook-target", help="base URL of the receiver of webhooks")
    parser.add_argument("--live", type=float, default=0, help="sale lines per second to replay from the start")
    parser.add_argument("--rate-limit", type=int, default=60_000, help="the warehouse's requests a minute")
    parser.add_argument("--tethered", action="store_true", help="end when standard input does")
    return parser.parse_args(arguments)


def application(chosen: argparse.Namespace) -> Starlette:
    """Put the stand-ins together."""
    clock = Clock()
    switchboard = Switchboard(chosen.seed, Faults(rate_limit=chosen.rate_limit))
    senders = _senders(chosen, switchboard)
    warehouse = Warehouse(catalogue.read(chosen.products, chosen.stores), chosen.seed, clock)
    warehouse.listener = _announcer(senders["warehouse"], clock)
    account = StripeAccount()
    account.listener = _teller(senders["stripe"], switchboard)
    checkouts = Checkouts(account)
    live = Live(warehouse, chosen.seed, chosen.live)
    gate = Gate(chosen.token, switchboard, clock)
    admin = Admin(
        warehouse=warehouse,
        live=live,
        stripe_life=StripeLife(account, chosen.seed),
        checkouts=checkouts,
        switchboard=switchboard,
        gate=gate,
        senders=senders,
    )
    stripe = StripeApi(account, checkouts, switchboard, senders["stripe"].accepted_ids)
    routes = [*WarehouseApi(warehouse, gate, switchboard).routes, Mount("/stripe", routes=stripe.routes), *admin.routes]
    return Starlette(routes=routes, lifespan=_running(live, *senders.values()))


def _senders(chosen: argparse.Namespace, switchboard: Switchboard) -> dict[str, Deliveries]:
    schemes = {
        "warehouse": signatures.standard_webhooks(chosen.webhook_secret),
        "stripe": signatures.stripe(chosen.stripe_secret),
    }
    return {
        name: Deliveries(f"/webhooks/{name}", sign, switchboard, chosen.webhook_target)
        for name, sign in schemes.items()
    }


def _running(*parts: Live | Deliveries) -> Callable[[Starlette], AbstractAsyncContextManager[None]]:
    @asynccontextmanager
    async def running(_app: Starlette) -> AsyncIterator[None]:
        tasks = [asyncio.create_task(part.run()) for part in parts]
        yield
        for task in tasks:
            task.cancel()

    return running


def _announcer(sender: Deliveries, clock: Clock) -> Listener:
    def announce(kind: str, item: Item) -> None:
        body = orjson.dumps({"type": kind, "timestamp": iso(clock.now_us()), "data": item})
        sender.post(f"msg_{uuid4().hex}", body)

    return announce


def _teller(sender: Deliveries, switchboard: Switchboard) -> Callable[[Item], None]:
    def tell(event: Item) -> None:
        thin = switchboard.strikes(switchboard.faults.stripe_thin_rate)
        sender.post(event["id"], orjson.dumps(_thin(event) if thin else event))

    return tell


def _thin(event: Item) -> Item:
    """Say what an event is about, and nothing of what it was like."""
    about = event["data"]["object"]
    return {
        "id": event["id"],
        "object": "v2.core.event",
        "type": f"v1.{event['type']}",
        "created": datetime.fromtimestamp(event["created"], UTC).isoformat().replace("+00:00", "Z"),
        "livemode": event["livemode"],
        "related_object": {"id": about["id"], "type": about["object"], "url": f"/v1/{about['object']}s/{about['id']}"},
    }


class _Server(uvicorn.Server):
    """Says where it is as soon as it answers."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        if sockets and self.started:
            print(f"URL=http://127.0.0.1:{sockets[0].getsockname()[1]}", flush=True)


def main(arguments: Sequence[str] | None = None) -> None:
    """Serve until told to stop."""
    chosen = options(arguments)
    if chosen.tethered:
        threading.Thread(target=_end_with_standard_input, daemon=True).start()
    listener = socket.create_server(("127.0.0.1", chosen.port), backlog=2_048)
    config = uvicorn.Config(
        application(chosen),
        log_config=None,
        log_level="critical",  # cut connections are made on purpose here and would be logged as errors
        access_log=False,
        server_header=False,
        date_header=False,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=1,
    )
    gc.freeze()  # the catalogue is no garbage
    _Server(config).run(sockets=[listener])


def _end_with_standard_input() -> None:
    # The parent holds the other end: however it dies, the pipe closes and nobody is left behind. Read past Python's
    # buffer, whose lock an orderly end would otherwise find taken.
    os.read(sys.stdin.fileno(), 1)
    os._exit(0)
