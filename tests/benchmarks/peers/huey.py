"""Huey with threads. It never acknowledges: what a killed worker held is gone."""

import os
from typing import Any

from huey import RedisHuey

from tests.benchmarks.peers import contract
from tests.benchmarks.peers.contract import JOBS, Peer, Work


class Huey(Peer):
    """Its Redis storage with the blocking pop, results left out."""

    def __init__(self) -> None:
        self._huey: Any = RedisHuey("bench", url=os.environ["REDIS_URL"], blocking=True, results=False)
        self._tasks = {name: self._huey.task(name=name)(job) for name, job in JOBS.items()}

    def send(self, work: Work, number: int) -> None:
        self._tasks[work](*([number] if work == "stamp" else []))

    def work(self, concurrency: int) -> None:
        consumer = self._huey.create_consumer(workers=concurrency, worker_type="thread", periodic=False)
        consumer.run()


if __name__ == "__main__":
    contract.main(Huey())
