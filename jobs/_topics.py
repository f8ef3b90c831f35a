"""All that we do: the topics of this folder, read once, and a canary for each queue that they use."""

import importlib
import pkgutil
from typing import Any

import jobs
from jobs._canary import hatch
from jobs._fire_policy import BadRule
from jobs._job import Job, all_jobs


def load() -> dict[str, Job[Any]]:
    """Import every topic of this folder once and return all jobs by name.

    Raises:
        BadRule: If a schedule cannot be read; the message names the file.
    """
    topics = [module.name for module in pkgutil.iter_modules(jobs.__path__) if not module.name.startswith("_")]
    for topic in topics:
        try:
            importlib.import_module(f"jobs.{topic}")
        except BadRule as error:
            raise BadRule(f"jobs/{topic}.py: {error}") from None
    ours = {f"jobs.{topic}" for topic in topics}
    hatch(sorted({job.queue for job in all_jobs().values() if job.function.__module__ in ours}))
    return all_jobs()
