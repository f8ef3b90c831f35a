"""`python -m tests.workers.trial_scheduler`: the real scheduler process, with a schedule that is due every second."""

import runpy

from jobs import Context, every, job


@job(queue="trial", schedule=every(seconds=1))
def tick(context: Context) -> None:
    """Do nothing, often."""
    del context


if __name__ == "__main__":
    runpy.run_module("scheduler", run_name="__main__")
