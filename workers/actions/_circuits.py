"""Closing a circuit by hand: somebody knows better than the breaker that an upstream is back."""

import redis
from sqlalchemy import Connection

from integrations import SharedCircuit
from workers import circuits
from workers.actions._audit import record


def close_circuit(connection: Connection, client: redis.Redis, upstream: str, *, by: str) -> bool:
    """Close the circuit of an upstream and forget what it had counted; whether it was open.

    Args:
        connection: The caller's transaction.
        client: The Redis that processes share.
        upstream: A known upstream.
        by: Who.

    Raises:
        redis.RedisError: Redis is away: each process has a circuit of its own, which nobody can reach.
    """
    was_open = SharedCircuit(client, upstream).reset()
    since = circuits.clear(connection, upstream)
    if not was_open and since is None:
        return False
    details = {"circuit_opened_at": since.isoformat()} if since else None
    record(connection, by=by, action="upstreams reset", target=upstream, details=details)
    return True
