"""RQ with the worker that does not fork for every job; one job at a time, so it is given more processes."""

import logging
import os
from typing import Any

from redis import Redis
from rq import Queue, SimpleWorker

from tests.benchmarks.peers import contract
from tests.benchmarks.peers.contract import JOBS, Peer, Work


class Rq(Peer):
    """One queue, results dropped at once."""

    def __init__(self) -> None:
        self._redis = Redis.from_url(os.environ["REDIS_URL"])
        self._queue: Any = Queue("bench", connection=self._redis)

    def send(self, work: Work, number: int) -> None:
        self._queue.enqueue(JOBS[work], args=self._arguments(work, number), result_ttl=0)

    def fill(self, work: Work, count: int) -> None:
        for start in range(0, count, 1_000):
            numbers = range(start, min(start + 1_000, count))
            self._queue.enqueue_many(
                [Queue.prepare_data(JOBS[work], args=self._arguments(work, number), result_ttl=0) for number in numbers]
            )

    def work(self, concurrency: int) -> None:
        assert concurrency == 1
        logging.getLogger("rq.worker").setLevel(logging.ERROR)
        worker: Any = SimpleWorker([self._queue], connection=self._redis)
        worker.work(logging_level="ERROR")

    def _arguments(self, work: Work, number: int) -> tuple[int, ...]:
        return (number,) if work == "stamp" else ()


if __name__ == "__main__":
    contract.main(Rq())
