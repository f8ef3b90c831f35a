"""The jobs of this system: what can be run, when it runs by itself, and what it answers."""

import inspect
from typing import Any

import jobs as registry
from jobs import Job
from workers.cli.options import AsJson
from workers.cli.tables import show

COLUMNS = {
    "job": lambda job: job["name"],
    "queue": lambda job: job["queue"],
    "schedule": lambda job: job["schedule"],
    "events": lambda job: len(job["on"]) or None,
    "attempts": lambda job: job["max_attempts"],
    "arguments": lambda job: job["arguments"],
}


def jobs(*, as_json: AsJson = False) -> None:
    """List the jobs, with their queue, schedule, events and arguments."""
    rows = [_row(job) for _, job in sorted(registry.load().items())]
    show(rows, COLUMNS, as_json=as_json, empty="there are no jobs: write one in jobs/")


def _row(job: Job[Any]) -> dict[str, Any]:
    return {
        "name": job.name,
        "queue": job.queue,
        "schedule": f"{job.schedule.text} ({job.schedule.zone})" if job.schedule else None,
        "on": [f"{key.source}:{key.type}" for key in job.on],
        "max_attempts": job.max_attempts,
        "time_limit_seconds": job.time_limit,
        "arguments": [str(parameter) for parameter in _parameters(job)],
        "summary": (inspect.getdoc(job.function) or "").partition("\n")[0],
    }


def _parameters(job: Job[Any]) -> list[inspect.Parameter]:
    return list(inspect.signature(job.function).parameters.values())[1:]
