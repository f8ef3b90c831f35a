"""The Headrace command line: everything an operator sees and does.

    headrace runs list --state dead          headrace runs retry --job warehouse.sync --dry-run
    headrace run warehouse.sync --wait       headrace queues pause warehouse --reason "they move house"

One file for each noun. Listings are tables for people and, with `--json`, JSON for programs and nothing else. What goes
wrong is one line on standard error; the exit code is 0 when it went well, 1 when the thing failed, 2 when the question
or the environment was wrong. Every action is audited under the name of the person at the keyboard, or `--by`.
"""

from workers.cli.app import main

__all__ = ["main"]
