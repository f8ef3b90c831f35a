"""Clients of Redis in its three shapes: one server, one that Sentinels watch, a cluster.

    redis://host:6379/0
    redis+sentinel://one:26379,two:26379,three:26379/mymaster/0
    redis+cluster://one:6379,two:6379

`rediss` instead of `redis` speaks TLS. An account in the address is the one at Redis; the Sentinels' own is given as
`?sentinel_username=...&sentinel_password=...`. No client retries by itself, because a command that is sent twice may
act twice; a client of a cluster connects when it is made.
"""

from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.cluster import ClusterNode
from redis.retry import Retry
from redis.sentinel import Sentinel

from workers.address import Address

SINGLE = ("redis", "rediss")
SENTINEL = ("redis+sentinel", "rediss+sentinel")
CLUSTER = ("redis+cluster", "rediss+cluster")

#: Everything that the library may raise; a cluster's errors are a family of their own.
ERRORS = (redis.RedisError, redis.RedisClusterException)

#: Seconds a connection may take to open, and an answer may take to come, unless somebody has less patience.
PATIENCE = 5.0
#: Connections of one client at most; each is held for one command.
CONNECTIONS = 500
SENTINEL_PORT = 26379
REDIS_PORT = 6379


def name(url: str) -> str:
    """Return what people call this kind of server."""
    scheme = url.partition("://")[0]
    return "Redis Sentinel" if scheme in SENTINEL else "Redis Cluster" if scheme in CLUSTER else "Redis"


def connect(url: str, patience: float = PATIENCE) -> "redis.Redis | redis.RedisCluster":
    """Return a client of any of the three shapes."""
    return _cluster(Address.parse(url), patience) if url.startswith(CLUSTER) else connect_one(url, patience)


def connect_one(url: str, patience: float = PATIENCE) -> redis.Redis:
    """Return a client of one server, which Sentinels may have to be asked for."""
    if url.startswith(SENTINEL):
        return _watched(Address.parse(url), patience)
    pool = redis.ConnectionPool.from_url(url, max_connections=CONNECTIONS, retry=_once(), **_timeouts(patience))
    return redis.Redis(connection_pool=pool)


def _watched(address: Address, patience: float) -> redis.Redis:
    own = {key.removeprefix("sentinel_"): value for key, value in address.options.items()}
    shared = {"retry": _once(), "ssl": address.scheme.startswith("rediss"), **_timeouts(patience)}
    # Each Sentinel is asked in turn, so one that is silent shall not cost the whole patience.
    patient = {**shared, **own, "socket_timeout": min(1.0, patience)}
    sentinels = Sentinel(address.hosts_or(SENTINEL_PORT), sentinel_kwargs=patient)  # type: ignore[no-untyped-call]
    master, database = (*address.path, "0")[:2]
    client: redis.Redis = sentinels.master_for(  # type: ignore[no-untyped-call]
        master, db=int(database), max_connections=CONNECTIONS, **_account(address), **shared
    )
    return client


def _cluster(address: Address, patience: float) -> redis.RedisCluster:
    nodes = [ClusterNode(*host) for host in address.hosts_or(REDIS_PORT)]  # type: ignore[no-untyped-call]
    tls = address.scheme.startswith("rediss")
    return redis.RedisCluster(startup_nodes=nodes, ssl=tls, retry=_once(), **_account(address), **_timeouts(patience))


def _account(address: Address) -> dict[str, Any]:
    return {"username": address.user, "password": address.password}


def _timeouts(patience: float) -> dict[str, Any]:
    return {"socket_timeout": patience, "socket_connect_timeout": patience}


def _once() -> Retry:
    return Retry(NoBackoff(), 0)
