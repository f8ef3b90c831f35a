"""What a command holds while it works: the environment, and one connection to the database.

Reading never takes part in a transaction that could block somebody; acting is one transaction that is kept when the
command's block ends well. A dry run reads.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import Connection

from workers import settings
from workers.runtime import Runtime


@contextmanager
def runtime() -> Iterator[Runtime]:
    """Read the environment and hold the resources of this process."""
    with Runtime(settings.load(), connections=2, name="headrace command line") as held:
        yield held


@contextmanager
def reading() -> Iterator[Connection]:
    """Open a connection for reading."""
    with runtime() as held, held.engine.connect() as connection:
        yield connection


@contextmanager
def acting() -> Iterator[Connection]:
    """Open a transaction that is committed when the block ends well."""
    with runtime() as held, held.engine.begin() as connection:
        yield connection
