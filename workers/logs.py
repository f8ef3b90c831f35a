"""One door for all log lines: ours and the libraries', readable on a terminal, JSON everywhere else.

One rich line per unit of work beats ten thin ones. Whatever looks like a credential is replaced before it is written,
by name of the field and by its shape.
"""

import logging
import re
import sys
import threading
import traceback
from collections.abc import Iterable, MutableMapping
from types import TracebackType
from typing import Any

import structlog

#: Field names whose values are never written.
SECRET_NAMES = re.compile(r"authorization|secret|token|signature|password|api[-_]?key|cookie", re.IGNORECASE)
#: Values that are credentials wherever they stand.
SECRET_SHAPES = re.compile(
    r"(sk|rk)_(live|test)_\w+|\bhr_[\w-]{43}|whsec_[\w+/=-]+|Bearer \S+|(?<=://)[^/\s:@]*:[^/\s@]+(?=@)"
)
HIDDEN = "<secret>"
#: Characters below which a secret is too short to be told from a word.
SHORTEST = 8
#: Characters of a line that is kept of an error.
LONGEST_LINE = 500

#: Libraries that say too much at INFO: whole addresses, whole bodies.
QUIET = ("httpx", "httpcore", "stripe", "elastic_transport", "apscheduler", "alembic", "uvicorn.access", "urllib3")
#: A library that reports each step of a connection that fails; the one error that comes out of it is ours to log.
SILENT = "pika"


class _Known:
    """The secrets that this process was given: whatever their shape, they are replaced wherever they stand."""

    def __init__(self) -> None:
        self._values: set[str] = set()
        self._pattern: re.Pattern[str] | None = None

    def add(self, values: Iterable[str]) -> None:
        self._values |= {value for value in values if len(value) >= SHORTEST}
        ordered = sorted(self._values, key=len, reverse=True)  # the whole of what is also a part of another one
        self._pattern = re.compile("|".join(map(re.escape, ordered))) if ordered else None

    def replace(self, text: str) -> str:
        return self._pattern.sub(HIDDEN, text) if self._pattern is not None else text


_known = _Known()


def hide(secrets: Iterable[str]) -> None:
    """Replace these values too from now on, in all that is logged or kept by this process."""
    _known.add(secrets)


def redact_text(value: str) -> str:
    """Return the text with every known secret, and everything that has the shape of a credential, replaced."""
    return SECRET_SHAPES.sub(HIDDEN, _known.replace(value))


def first_line(value: str) -> str:
    """Return the first line of what an upstream's error says, as it may be kept and shown."""
    return (redact_text(value).splitlines() or [""])[0][:LONGEST_LINE]


def redact(value: Any) -> Any:
    """Return a JSON value with secrets replaced, by field name and by shape, at any depth."""
    if isinstance(value, dict):
        return {k: HIDDEN if SECRET_NAMES.search(str(k)) else redact(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [redact(item) for item in value]
    return redact_text(value) if isinstance(value, str) else value


def _redacted(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    return dict(redact(dict(event)))


def configure(process: str) -> None:
    """Send all logging of this process to standard error.

    Args:
        process: Kind of the process, on every line.
    """

    def named(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        return {"process": process, **event}  # in every thread, unlike a context variable

    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        named,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
        _redacted,
    ]
    terminal = sys.stderr.isatty()
    renderer = structlog.dev.ConsoleRenderer() if terminal else structlog.processors.JSONRenderer()
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(logging.INFO)
    for name in QUIET:
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger(SILENT).setLevel(logging.CRITICAL)
    sys.excepthook, threading.excepthook = _last_words, _last_words_of_thread


def _last_words(kind: type[BaseException], error: BaseException | None, trace: TracebackType | None) -> None:
    """Print what nobody caught, by the same door: a library's message may repeat what it was sent."""
    sys.stderr.write(redact_text("".join(traceback.format_exception(kind, error, trace))))


def _last_words_of_thread(caught: threading.ExceptHookArgs) -> None:
    if caught.exc_type is not SystemExit:
        _last_words(caught.exc_type, caught.exc_value, caught.exc_traceback)


def get() -> structlog.stdlib.BoundLogger:
    """Return the logger."""
    logger: structlog.stdlib.BoundLogger = structlog.get_logger()
    return logger
