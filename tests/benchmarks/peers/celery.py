"""Celery with its pool of threads, which is its quicker one for short work."""

import os
from typing import Any

from celery import Celery as App

from tests.benchmarks.peers import contract
from tests.benchmarks.peers.contract import JOBS, Peer, Work


class Celery(Peer):
    """Its Redis transport, results ignored."""

    def __init__(self) -> None:
        self._app: Any = App("bench", broker=os.environ["REDIS_URL"])
        self._app.conf.update(task_ignore_result=True, broker_connection_retry_on_startup=True)
        self._tasks = {name: self._app.task(job, name=name) for name, job in JOBS.items()}

    def send(self, work: Work, number: int) -> None:
        self._tasks[work].delay(*([number] if work == "stamp" else []))

    def work(self, concurrency: int) -> None:
        quiet = ["--without-gossip", "--without-mingle", "--without-heartbeat", "--loglevel", "ERROR"]
        name = f"{os.getpid()}@bench"
        self._app.worker_main(["worker", "-P", "threads", "-c", str(concurrency), "-n", name, *quiet])


if __name__ == "__main__":
    contract.main(Celery())
