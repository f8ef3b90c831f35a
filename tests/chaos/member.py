"""`python -m tests.chaos.member workers.relay`: a real process of ours, which also knows the chaos jobs."""

import runpy
import sys

from tests.chaos import work

if __name__ == "__main__":
    assert work.once.queue == work.QUEUE
    runpy.run_module(sys.argv.pop(1), run_name="__main__", alter_sys=True)
