"""The processes: they read the environment, bind jobs to the broker, and keep the ledger true.

    worker       `python -m workers.worker` claims runs and executes them; heartbeat on a thread of its own
    relay        `python -m workers.relay`  pushes what is due onto the broker; takes back what was lost
    scheduler    `python -m scheduler`      one slot row and one run for each planned fire
    web          `python -m web`            receives webhooks, shows the state
    command line `headrace`                 everything an operator does

Any number of each may run side by side; none of them leads.
"""

import gc

# A start makes a hundred thousand objects that all stay, and runs leave few cycles behind. Looking for garbage after
# every 700 new objects, as Python does by itself, takes a seventh of a start.
gc.set_threshold(50_000, 20, 100)
