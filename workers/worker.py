"""`python -m workers.worker`: one worker process, Dramatiq's worker over our broker.

One process per supervised unit, so that whoever supervises it restarts exactly what died. SIGTERM or SIGINT asks for a
graceful stop: nothing new is claimed, running jobs are told at their next check, what is not finished within the grace
goes back uncounted. A second signal ends the process at once; its runs are then rescued like those of a killed one.

A job that nothing can interrupt never keeps the process: after the grace, or well after the job's time limit (see
`workers.watchdog`), it leaves without it.
"""

import os
import threading
from threading import Timer
from typing import Annotated

import dramatiq
import typer

import jobs
from workers import broker, logs, settings
from workers.entry import enter, stop_signal
from workers.runtime import Runtime
from workers.watchdog import GOODBYE, OVERTIME, RECYCLED, Watchdog

#: Milliseconds an idle thread of Dramatiq waits before it looks whether it should stop.
IDLE_CHECK = 200


def main(
    threads: Annotated[int, typer.Option(min=1, max=256, help="Runs executed at the same time.")] = 8,
    queues: Annotated[str, typer.Option(help="Queues to serve, comma-separated; all when empty.")] = "",
    grace: Annotated[float, typer.Option(min=0, help="Seconds that running jobs get to finish on a stop.")] = 25.0,
    overtime: Annotated[
        float,
        typer.Option(
            min=0, help="Seconds that a job may go on after its time limit, before this process recycles itself."
        ),
    ] = OVERTIME,
) -> None:
    """Claim due runs and execute them until stopped."""
    with enter("worker", connections=2 * threads + 2) as runtime:
        serve(runtime, threads=threads, queues=chosen(queues), grace=grace, overtime=overtime)
    if lingering():
        os._exit(0)  # Python would wait for these threads; their runs were put back


def chosen(queues: str) -> list[str]:
    """Return the queues named, or all that jobs use.

    Raises:
        BadSettings: If a queue is named that no job uses.
    """
    known = sorted({job.queue for job in jobs.all_jobs().values()})
    named = [name.strip() for name in queues.split(",") if name.strip()] or known
    for name in named:
        if name not in known:
            raise settings.BadSettings(f"no job uses the queue {name!r}: choose from {', '.join(known)}")
    return named


def lingering() -> bool:
    """Whether a job left a thread behind that would keep the process."""
    return any(not thread.daemon for thread in threading.enumerate() if thread is not threading.main_thread())


def serve(runtime: Runtime, *, threads: int, queues: list[str], grace: float, overtime: float) -> None:
    """Work until a signal asks to stop."""
    stopping = stop_signal()
    bound = broker.make(runtime, threads=threads, queues=queues)
    if not bound.holding.presence.start(stopping).id:
        return  # asked to stop before Postgres ever answered: nothing is held
    worker = dramatiq.Worker(bound, worker_threads=threads, worker_timeout=IDLE_CHECK)
    worker.start()
    watchdog = Watchdog(bound.holding, overtime=overtime)
    watchdog.start()
    logs.get().info("worker ready", threads=threads, queues=queues)
    stopping.wait()
    watchdog.stop()
    _leave_by_then(2 * grace + broker.LAST_WORDS + GOODBYE)
    worker.stop(timeout=int(grace * 1000))


def _leave_by_then(seconds: float) -> None:
    """Bound the stop as a whole: Dramatiq measures its grace by the host's clock, which may jump."""
    end = Timer(seconds, os._exit, [RECYCLED])
    end.daemon = True
    end.start()


if __name__ == "__main__":
    typer.run(main)
