"""One door for all log lines: ours and the libraries', readable on a terminal, JSON everywhere else.

One rich line per unit of work beats ten thin ones. Whatever looks like a credential is replaced before it is written,
by name of the field and by its shape.
"""

import logging
import re
import sys
from collections.abc import MutableMapping
from typing import Any

import structlog

#: Field names whose values are never written.
SECRET_NAMES = re.compile(r"authorization|secret|token|signature|password|api[-_]?key|cookie", re.IGNORECASE)
#: Values that are credentials wherever they stand.
SECRET_SHAPES = re.compile(r"(sk|rk)_(live|test)_\w+|whsec_[\w+/=-]+|Bearer \S+|(?<=://)[^/\s:@]*:[^/\s@]+(?=@)")
HIDDEN = "<secret>"

#: Libraries that say too much at INFO: whole addresses, whole bodies.
QUIET = ("httpx", "httpcore", "stripe", "elastic_transport", "apscheduler", "alembic", "uvicorn.access", "urllib3")
#: A library that reports each step of a connection that fails; the one error that comes out of it is ours to log.
SILENT = "pika"


def redact_text(value: str) -> str:
    """Return the text with everything that has the shape of a credential replaced."""
    return SECRET_SHAPES.sub(HIDDEN, value)


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


def get() -> structlog.stdlib.BoundLogger:
    """Return the logger."""
    logger: structlog.stdlib.BoundLogger = structlog.get_logger()
    return logger
