"""`python -m tests.benchmarks.bare_worker REDIS_URL`: Dramatiq as it comes, with one actor that does nothing."""

import signal
import sys

import dramatiq
from dramatiq.brokers.redis import RedisBroker


def nothing() -> None:
    """Do nothing."""


if __name__ == "__main__":
    broker = RedisBroker(url=sys.argv[1])  # type: ignore[no-untyped-call]
    dramatiq.Actor(nothing, broker=broker, actor_name="nothing", queue_name="bare", priority=0, options={})
    worker = dramatiq.Worker(broker, worker_threads=8)
    worker.start()
    signal.sigwait([signal.SIGTERM, signal.SIGINT])
    worker.stop()
