"""`python -m tests.workers.trial_freezing_scheduler`: a scheduler that freezes in the middle of its first transaction.

Its rows are locked and its runs are written, but not committed; only who thaws it lets it go on.
"""

import os
import runpy
import signal
from typing import Any

from workers import slots

if __name__ == "__main__":
    record = slots._record

    def freeze_and_record(*arguments: Any) -> None:
        """Stop where it hurts most, once."""
        vars(slots)["_record"] = record
        os.kill(os.getpid(), signal.SIGSTOP)
        record(*arguments)

    vars(slots)["_record"] = freeze_and_record
    runpy.run_module("tests.workers.trial_scheduler", run_name="__main__")
