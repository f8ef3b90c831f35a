"""Ours, by the same requests: the production worker, and sessions as every process of ours has them."""

import os
import signal
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import jobs
from jobs import Context, Job
from models import migrations
from tests.benchmarks.peers import contract
from tests.benchmarks.peers.contract import Peer, Work, tally
from workers import relay, settings, worker
from workers.runtime import Runtime

QUEUE = "bench"


@jobs.job(queue=QUEUE)
def nothing(context: Context) -> None:
    """Do nothing."""
    del context
    tally.done()


@jobs.job(queue=QUEUE)
def wait(context: Context) -> None:
    """Wait as for an answer from elsewhere."""
    del context
    contract.wait()


@jobs.job(queue=QUEUE)
def stamp(context: Context, *, number: int) -> None:
    """Say when it started."""
    del context
    tally.stamp(number)


JOBS: Mapping[Work, Job[Any]] = {"nothing": nothing, "wait": wait, "stamp": stamp}


class Headrace(Peer):
    """The engine of this repository."""

    @cached_property
    def _runtime(self) -> Runtime:
        return Runtime(settings.load(), connections=20)

    def prepare(self) -> None:
        with self._runtime.engine.begin() as connection:
            migrations.upgrade(connection)
        relay.know_queues(self._runtime.engine, [QUEUE])

    def send(self, work: Work, number: int) -> None:
        with self._runtime.sessions.begin() as session:
            JOBS[work].enqueue(session, **_arguments(work, number))

    def fill(self, work: Work, count: int) -> None:
        enqueue_many(self._runtime, JOBS[work], [_arguments(work, number) for number in range(count)])

    def work(self, concurrency: int) -> None:
        worker.main(threads=concurrency, queues=QUEUE)

    def leave(self) -> None:
        os.kill(os.getpid(), signal.SIGTERM)


def enqueue_many(runtime: Runtime, job: Job[Any], arguments: Sequence[dict[str, Any]]) -> None:
    """Enqueue in one transaction, with the engine's own way of many where it has one."""
    with runtime.sessions.begin() as session:
        if hasattr(job, "enqueue_many"):
            job.enqueue_many(session, arguments)
        else:
            for given in arguments:
                job.enqueue(session, **given)


def _arguments(work: Work, number: int) -> dict[str, Any]:
    return {"number": number} if work == "stamp" else {}


if __name__ == "__main__":
    # Imported under its own name, so that the job's name is not `__main__`.
    from tests.benchmarks.peers import headrace

    contract.main(headrace.Headrace())
