"""What went wrong, in one line: every error that a person can do something about becomes a sentence and an exit code.

    0    it went well
    1    the thing failed: a server is away, an upstream refused, a run died
    2    the question or the environment was wrong
    130  stopped by Ctrl-C

What is not listed here is a mistake of ours and keeps its traceback.
"""

import os
import sys
from dataclasses import dataclass

import typer
from redis.exceptions import RedisError
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from integrations import IntegrationError
from jobs import BadArguments, BadRule, UnknownJob
from workers.actions import Refused
from workers.delivery import BrokerAway
from workers.logs import redact_text
from workers.runtime import NotConfigured
from workers.settings import BadSettings

#: Classes of SQLSTATE that mean the server, not the statement: connection, resources, operator, system.
_AWAY = ("08", "53", "57", "58")
#: A table or a column that is not there.
_OLD_TABLES = ("42P01", "42703")


@dataclass(frozen=True)
class Failure:
    """One line for standard error, and the exit code."""

    sentence: str
    code: int


def explain(error: BaseException) -> Failure | None:
    """Return what to say about an error, or None when it is a mistake of ours."""
    match error:
        case KeyboardInterrupt() | typer.Abort():
            return Failure("stopped", 130)
        case BrokenPipeError():
            # Whoever read our output has enough; nothing more may be written to it when Python exits.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return Failure("the output was not read to its end", 1)
        case typer.TyperException():
            return Failure(" ".join(error.format_message().replace("Value error, ", "").split()), error.exit_code)
        case BadSettings() | BadArguments() | BadRule() | UnknownJob() | Refused() | NotConfigured():
            return Failure(str(error.args[0]), 2)
        case IntegrationError() | RedisError() | SQLAlchemyError() | BrokerAway():
            return Failure(trouble(error), 1)
    return None


def trouble(error: IntegrationError | RedisError | SQLAlchemyError | BrokerAway) -> str:
    """Return one line about a server that does not do what it should: which one, and what to do."""
    match error:
        case DBAPIError():
            return _postgres(error)
        case SQLAlchemyError():
            return f"Postgres gave no connection ({_first_line(error)}): try again"
        case RedisError():
            return f"Redis does not answer ({_first_line(error)}): start it, or correct REDIS_URL"
        case BrokerAway():
            return f"{error.broker} does not answer ({_first_line(error)}): start it, or correct BROKER_URL"
        case _:
            return redact_text(str(error))


def _postgres(error: DBAPIError) -> str:
    state = getattr(error.orig, "sqlstate", None)
    said = _first_line(error.orig or error)
    if said.endswith("does not exist") and "database" in said:
        return f"Postgres answers and has no such database ({said}): create it, or correct DATABASE_URL"
    if state is None or error.connection_invalidated or state.startswith(_AWAY):
        return f"Postgres does not answer ({said}): start it, or correct DATABASE_URL"
    if state in _OLD_TABLES:
        return f"the tables are missing or too old ({said}): run `headrace migrate`"
    return f"Postgres refused ({said}): nothing was changed"


def _first_line(error: BaseException) -> str:
    lines = redact_text(str(error)).strip().splitlines() or [type(error).__name__]
    return lines[0].strip().rstrip(".:")
