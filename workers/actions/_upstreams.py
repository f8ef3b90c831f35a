"""Resetting an upstream by hand: somebody knows better than the breaker that it is back, or may be asked again."""

import redis
from sqlalchemy import Connection

from integrations import Hindrance, Rate, SharedDoor
from workers import circuits, throttles
from workers.actions._audit import record


def reset_upstream(
    connection: Connection, client: redis.Redis, upstream: str, rate: Rate, *, by: str
) -> set[Hindrance]:
    """Close the circuit of an upstream, end its block, and forget what was counted and spent; what was in the way.

    Args:
        connection: The caller's transaction.
        client: The Redis that processes share.
        upstream: A known upstream.
        rate: How much of it is used.
        by: Who.

    Raises:
        redis.RedisError: Redis is away: each process has a door of its own, which nobody can reach.
    """
    found = SharedDoor(client, upstream, rate).reset()
    since, until = circuits.clear(connection, upstream), throttles.clear(connection, upstream)
    found |= {what for what, moment in ((Hindrance.CIRCUIT, since), (Hindrance.BLOCKED, until)) if moment}
    if not found:
        return found
    moments = {"circuit_opened_at": since, "throttled_until": until}
    details = {name: moment.isoformat() for name, moment in moments.items() if moment}
    record(connection, by=by, action="upstreams reset", target=upstream, details=details or None)
    return found
