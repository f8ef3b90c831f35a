"""`/metrics`: the census as Prometheus reads it.

The numbers come from the same look at everything as the pages, so scraping costs no more than a viewer. A part that is
away is `headrace_up 0`, and the numbers it would have told are left out instead of being zero.
"""

from collections.abc import Iterable, Iterator
from typing import Any

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from web.pulse import Pulse, Sight, Snapshot


class Census(Collector):
    """Collects from one look at everything.

    Args:
        pulse: Looks.
    """

    def __init__(self, pulse: Pulse) -> None:
        self._pulse = pulse

    def describe(self) -> Iterable[Any]:
        """Name nothing in advance: registering must not ask the database."""
        return ()

    def collect(self) -> Iterator[GaugeMetricFamily]:
        sight = self._pulse.look()
        yield _up(sight)
        if sight.snapshot is not None:
            yield from _flow(sight.snapshot)
            yield from _index(sight.snapshot)
            yield from _canaries(sight.snapshot)


def _up(sight: Sight) -> GaugeMetricFamily:
    answers = {"postgres": sight.snapshot is not None}
    answers |= {name: silence is None for name, silence in sight.parts.items()}
    return _gauge("headrace_up", "Whether a part answers.", "part", answers.items())


def _flow(seen: Snapshot) -> Iterator[GaugeMetricFamily]:
    yield _gauge("headrace_runs", "Runs by state; counts stop at a cap.", "state", seen.runs.items())
    late = [(queue.name, queue.oldest_due_seconds or 0.0) for queue in seen.queues]
    yield _gauge("headrace_queue_oldest_due_seconds", "Age of the oldest due run; 0 when none is due.", "queue", late)
    waiting = [(queue.name, queue.waiting) for queue in seen.queues]
    yield _gauge("headrace_queue_waiting", "Runs that wait, due or not.", "queue", waiting)
    fresh = [(f"{s.upstream}/{s.name}", s.freshness_seconds) for s in seen.streams if s.freshness_seconds is not None]
    yield _gauge("headrace_stream_freshness_seconds", "Age of the last complete walk.", "stream", fresh)
    kinds = dict.fromkeys(("relay", "scheduler", "web", "worker"), 0)
    for process in seen.processes:
        kinds[process.kind] = kinds.get(process.kind, 0) + process.alive
    yield _gauge("headrace_processes", "Live processes by kind.", "kind", kinds.items())


def _index(seen: Snapshot) -> Iterator[GaugeMetricFamily]:
    yield GaugeMetricFamily(
        "headrace_search_pending_changes", "Changes that the index has still to learn.", value=seen.index.pending
    )
    yield GaugeMetricFamily(
        "headrace_search_oldest_change_seconds",
        "Age of the oldest of them; 0 when there is none.",
        value=seen.index.oldest_seconds or 0.0,
    )


def _canaries(seen: Snapshot) -> Iterator[GaugeMetricFamily]:
    back = [view for view in seen.canaries if view.returned_at is not None]
    took = [(view.queue, view.seconds or 0.0) for view in back]
    yield _gauge("headrace_canary_round_trip_seconds", "From its slot to its end, of the last one back.", "queue", took)
    ages = [(view.queue, (seen.taken_at - view.returned_at).total_seconds()) for view in back if view.returned_at]
    yield _gauge("headrace_canary_age_seconds", "Since the last canary came back.", "queue", ages)
    parts = GaugeMetricFamily(
        "headrace_canary_part_seconds", "What each part of that way took.", labels=["queue", "part"]
    )
    for view in back:
        for part, seconds in view.parts.items():
            parts.add_metric([view.queue, part], seconds)
    yield parts


def _gauge(name: str, meaning: str, label: str, values: Iterable[tuple[str, float]]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, meaning, labels=[label])
    for key, value in values:
        family.add_metric([key], value)
    return family
