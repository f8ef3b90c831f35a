"""taskiq on a Redis list, its quickest broker. It never acknowledges there: what a killed worker held is gone."""

import asyncio
import logging
import os
from typing import Any

from taskiq.api import run_receiver_task
from taskiq_redis import ListQueueBroker

from tests.benchmarks.peers import contract
from tests.benchmarks.peers.contract import WAIT, Peer, Work, tally


async def nothing() -> None:
    """Do nothing."""
    tally.done()


async def wait() -> None:
    """Wait as for an answer from elsewhere."""
    await asyncio.sleep(WAIT)
    tally.done()


async def stamp(number: int) -> None:
    """Say when it started."""
    tally.stamp(number)


class Taskiq(Peer):
    """Asynchronous jobs; results are not kept."""

    def __init__(self) -> None:
        self._broker: Any = ListQueueBroker(os.environ["REDIS_URL"], queue_name="bench")
        tasks = {"nothing": nothing, "wait": wait, "stamp": stamp}
        self._tasks = {name: self._broker.register_task(job, task_name=name) for name, job in tasks.items()}
        self._loop = asyncio.new_event_loop()

    def send(self, work: Work, number: int) -> None:
        self._loop.run_until_complete(self._kiq(work, number))

    def fill(self, work: Work, count: int) -> None:
        async def all_of_them() -> None:
            for number in range(count):
                await self._kiq(work, number)

        self._loop.run_until_complete(all_of_them())

    def work(self, concurrency: int) -> None:
        logging.getLogger("taskiq").setLevel(logging.ERROR)
        self._broker.is_worker_process = True
        self._loop.run_until_complete(self._receive(concurrency))

    async def _receive(self, concurrency: int) -> None:
        await run_receiver_task(self._broker, run_startup=True, max_async_tasks=concurrency)

    async def _kiq(self, work: Work, number: int) -> None:
        await self._tasks[work].kiq(*([number] if work == "stamp" else []))


if __name__ == "__main__":
    contract.main(Taskiq())
