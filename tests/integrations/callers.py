"""A process of its own whose threads call one upstream at the same moment: `callers.py URL REDIS_URL THREADS`.

It says `ready`, waits for a line, and says of each call how it ended, as soon as it has: `answered`, `open`, `failed`.
"""

import sys
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import redis
from pydantic import SecretStr

from integrations import CircuitOpen, IntegrationError, Rate, SharedDoor
from integrations._breaker import Breaker
from integrations._http import HttpUpstream


def main(url: str, redis_url: str, threads: int) -> None:
    """Make one call in each thread."""
    breaker = Breaker("warehouse")
    breaker.share(
        SharedDoor(redis.Redis.from_url(redis_url), "warehouse", Rate(10_000, 1.0, 10_000, 100)), lambda *_: None
    )
    client = HttpUpstream("warehouse", url, SecretStr("hunter2"), breaker=breaker)
    together = Barrier(threads)

    def call(_: int) -> None:
        together.wait()
        try:
            client.get("/")
        except CircuitOpen:
            said = "open"
        except IntegrationError:
            said = "failed"
        else:
            said = "answered"
        sys.stdout.write(f"{said}\n")
        sys.stdout.flush()

    sys.stdout.write("ready\n")
    sys.stdout.flush()
    sys.stdin.readline()
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(call, range(threads)))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
