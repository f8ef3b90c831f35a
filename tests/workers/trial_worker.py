"""`python -m tests.workers.trial_worker`: the real worker process, which also knows the trial jobs."""

import typer

from tests.workers import trial_jobs
from workers import worker

if __name__ == "__main__":
    assert trial_jobs.effect.queue == "trial"
    typer.run(worker.main)
