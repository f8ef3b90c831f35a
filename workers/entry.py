"""How every process of ours begins and is asked to end: signals, logs, environment, resources.

A missing or unusable variable, or a schedule that cannot be read, is one line on standard error and exit code 2, never
a traceback.
"""

import gc
import signal
import sys
from _thread import start_new_thread
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event
from types import FrameType

from jobs import BadRule
from workers import logs, settings
from workers.runtime import Runtime


@contextmanager
def enter(kind: str, *, connections: int = 1) -> Iterator[Runtime]:
    """Yield the resources of a process and close them at its end.

    Args:
        kind: Kind of the process, for its log lines and for Postgres.
        connections: Database connections that its jobs or pages may hold at once; its machinery has its own.
    """
    logs.configure(kind)
    try:
        with Runtime(settings.load(), connections=connections, name=f"headrace {kind}") as runtime:
            # All that was read so far stays to the end: to look through it for garbage, at the end once more, takes a
            # fifth of the processor time of a start.
            gc.freeze()
            yield runtime
    except (settings.BadSettings, BadRule) as error:
        print(f"headrace: {error}", file=sys.stderr)  # noqa: T201 - before anything runs, a person reads this
        raise SystemExit(2) from None


def stop_signal() -> Event:
    """Return an event that SIGTERM or SIGINT sets; a second signal ends the process at once."""
    asked = Event()
    signals: list[int] = []

    def stop(number: int, frame: FrameType | None) -> None:
        del frame
        signals.append(number)
        if len(signals) > 1:
            raise SystemExit(1)
        # Not here: the main thread may be inside a wait for this event, and hold the lock that setting it needs.
        start_new_thread(asked.set, ())

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    return asked
