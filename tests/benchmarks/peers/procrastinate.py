"""Procrastinate: jobs as rows of Postgres, fetched one by one."""

import asyncio
import logging
import os
from typing import Any

from procrastinate import App, PsycopgConnector

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


class Procrastinate(Peer):
    """Asynchronous jobs, its own schema."""

    def __init__(self) -> None:
        self._app: Any = App(connector=PsycopgConnector(conninfo=os.environ["DATABASE_URL"], max_size=20))
        tasks = {"nothing": nothing, "wait": wait, "stamp": stamp}
        self._tasks = {name: self._app.task(name=name, queue="bench")(job) for name, job in tasks.items()}
        self._loop = asyncio.new_event_loop()
        self._open = False

    def prepare(self) -> None:
        self._run(self._app.schema_manager.apply_schema_async())

    def send(self, work: Work, number: int) -> None:
        self._run(self._tasks[work].defer_async(**self._arguments(work, number)))

    def fill(self, work: Work, count: int) -> None:
        for start in range(0, count, 1_000):
            numbers = range(start, min(start + 1_000, count))
            jobs = [self._arguments(work, number) for number in numbers]
            self._run(self._tasks[work].batch_defer_async(*jobs))

    def work(self, concurrency: int) -> None:
        logging.getLogger("procrastinate").setLevel(logging.ERROR)
        self._run(self._app.run_worker_async(queues=["bench"], concurrency=concurrency, install_signal_handlers=False))

    def _run(self, doing: Any) -> None:
        if not self._open:
            self._loop.run_until_complete(self._app.open_async())
            self._open = True
        self._loop.run_until_complete(doing)

    def _arguments(self, work: Work, number: int) -> dict[str, int]:
        return {"number": number} if work == "stamp" else {}


if __name__ == "__main__":
    contract.main(Procrastinate())
