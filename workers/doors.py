"""The ways to the upstreams, shared by all processes: who may ask now, and where what becomes of it is told.

What decides is in Redis (`integrations._shared_door`). What people and workers read is in Postgres: open circuits in
`workers.circuits`, upstreams that want to be left in peace in `workers.throttles`.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import redis
from sqlalchemy import Engine

import integrations
from integrations import Integration, IntegrationSettings, Level, Rate, SharedDoor
from workers import circuits, throttles


@dataclass(frozen=True, slots=True)
class BudgetView:
    """How much of an upstream is used, and how much is left; None where Redis could not be asked."""

    #: Units in a time, like `100/s`; fewer if the upstream says so.
    rate: str
    burst: int
    concurrency: int
    tokens: int | None = None
    calls_under_way: int | None = None
    #: Nobody may ask until this many seconds have passed; 0 while one call asks.
    blocked_seconds: float | None = None


def share(made: Integration, client: redis.Redis, engine: Engine) -> None:
    """Let an integration use the door of all processes, and tell operators what becomes of it.

    Args:
        made: The integration.
        client: A Redis client with little patience.
        engine: The database.
    """
    name = made.name
    made.breaker.share(
        SharedDoor(client, name, made.breaker.rate),
        lambda standing, error: circuits.tell(engine, name, standing, error),
        lambda wait, reason: throttles.tell(engine, name, wait, reason),
    )


def rates(configured: Mapping[str, IntegrationSettings]) -> dict[str, Rate]:
    """Return how much of each upstream all processes together use, by name, of those whose clients pass a door."""
    allowed = {name: kind.allowed(configured.get(name)) for name, kind in integrations.load().items()}
    return {name: rate for name, rate in allowed.items() if rate is not None}


def budgets(client: redis.Redis, configured: Mapping[str, IntegrationSettings]) -> dict[str, BudgetView]:
    """Return how much of each upstream is left; never raises."""
    levels: dict[str, Level] = {}
    known = rates(configured)
    try:
        for name, rate in known.items():
            levels[name] = SharedDoor(client, name, rate).level()
    except redis.RedisError:
        levels = {}
    return {name: _view(rate, levels.get(name)) for name, rate in known.items()}


def _view(rate: Rate, level: Level | None) -> BudgetView:
    if level is None:
        return BudgetView(str(rate), rate.burst, rate.concurrency)
    return BudgetView(
        rate=str(rate if level.interval <= rate.interval else rate.slower(level.interval)),
        burst=rate.burst,
        concurrency=rate.concurrency,
        tokens=max(0, int(level.tokens)),
        calls_under_way=level.under_way,
        blocked_seconds=level.blocked,
    )
