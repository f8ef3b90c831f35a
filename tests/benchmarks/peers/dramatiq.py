"""Dramatiq as it comes: the yardstick of every table.

`--best` is the same at its best setting: a prefetch of 256 (in the environment), hiredis and orjson.
"""

import os
import signal
import sys
from typing import Any

BEST = os.environ.get("BENCH_VARIANT") == "best"
if not BEST:
    sys.modules["hiredis"] = None  # type: ignore[assignment] # it is installed here, but Dramatiq does not bring it

import dramatiq  # noqa: E402
import orjson  # noqa: E402
from dramatiq.brokers.redis import RedisBroker  # noqa: E402

from tests.benchmarks.peers import contract  # noqa: E402
from tests.benchmarks.peers.contract import JOBS, Peer, Work  # noqa: E402


class Orjson(dramatiq.Encoder):
    """JSON by orjson."""

    def encode(self, data: dict[str, Any]) -> bytes:
        return orjson.dumps(data)

    def decode(self, data: bytes) -> dict[str, Any]:
        decoded: dict[str, Any] = orjson.loads(data)
        return decoded


class Dramatiq(Peer):
    """A Redis broker with Dramatiq's own middleware."""

    def __init__(self) -> None:
        if BEST:
            dramatiq.set_encoder(Orjson())
        self._broker = RedisBroker(url=os.environ["REDIS_URL"])  # type: ignore[no-untyped-call]
        self._actors: dict[str, Any] = {
            name: dramatiq.Actor(job, broker=self._broker, actor_name=name, queue_name="bench", priority=0, options={})
            for name, job in JOBS.items()
        }

    def send(self, work: Work, number: int) -> None:
        self._actors[work].send(*([number] if work == "stamp" else []))

    def work(self, concurrency: int) -> None:
        dramatiq.Worker(self._broker, worker_threads=concurrency).start()
        signal.pause()


if __name__ == "__main__":
    contract.main(Dramatiq())
