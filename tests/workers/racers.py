"""`python -m tests.workers.racers ADDRESS MANY`: so many processes enqueue under one unique key at one moment.

Prints the id that each of them got. The processes are forked from one that has imported everything, so that they are
quick to make; each opens its own connection.
"""

import os
import sys

from tests.conftest import engine_of
from tests.workers.trial_jobs import effect


def race(address: str, start: int, said: int) -> int:
    """Connect, wait for the start, enqueue; return the run's id."""
    with engine_of(address).begin() as connection:
        os.write(said, b"ready\n")
        os.read(start, 1)  # ends when the last writer closes it
        return effect.options(unique_key="one").enqueue(connection, key=str(os.getpid()))


def main() -> None:
    """Start the racers and print what each one says."""
    address, many = sys.argv[1], int(sys.argv[2])
    start, starter = os.pipe()
    ready, said = os.pipe()
    for _ in range(many):
        if os.fork() == 0:
            os.close(starter)
            os.write(said, f"{race(address, start, said)}\n".encode())
            os._exit(0)
    os.close(said)
    with os.fdopen(ready) as lines:
        assert all(lines.readline() == "ready\n" for _ in range(many))
        os.close(starter)
        print(*[line.strip() for line in lines])  # noqa: T201 - the answer
    for _ in range(many):
        os.wait()


if __name__ == "__main__":
    main()
