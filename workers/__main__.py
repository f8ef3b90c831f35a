"""`python -m workers` is the command line `headrace`."""

from workers.cli import main

main()
