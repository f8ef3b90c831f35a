"""What a command holds while it works: the environment, and one connection to the database.

Reading never takes part in a transaction that could block somebody; acting is one transaction that is kept when the
command's block ends well. A dry run reads.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

from sqlalchemy import Connection

from integrations import Integration
from workers import settings
from workers.runtime import Runtime

I = TypeVar("I", bound=Integration)  # noqa: E741 - an integration


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


def using(held: Runtime, kind: type[I]) -> I:
    """Return the configured integration of this class.

    Raises:
        NotConfigured: If its variables are not set.
    """
    found = held.use(kind)
    if not isinstance(found, kind):
        raise TypeError(f"asked for {kind.__name__}, got {type(found).__name__}")
    return found
