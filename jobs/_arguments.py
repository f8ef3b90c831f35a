"""Arguments are judged when work is enqueued, not at three in the morning when it runs.

The job's own signature is the schema. Values are small JSON: ids, not objects; what a job needs beyond that it reads
when it runs, so that it sees the truth of that moment.
"""

import inspect
import json
import re
from collections.abc import Callable
from functools import cache
from typing import Annotated, Any, get_type_hints

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model

#: Bytes of JSON that one run's arguments may take.
LARGEST = 16_384

#: The id of a row: a whole number that Postgres can hold.
RowId = Annotated[int, Field(ge=1, le=2**63 - 1)]

#: Half of a surrogate pair, or a zero character as JSON escapes it (not a backslash before the letters `u0000`).
_UNKEEPABLE = re.compile(r"[\ud800-\udfff]|(?<!\\)(?:\\\\)*\\u0000")


#: Unknown names are refused. A number that is none is written as it is, so that it is noticed and not kept as null.
_CONFIG = ConfigDict(extra="forbid", allow_inf_nan=False, ser_json_inf_nan="constants")

#: What a value raises that cannot be spelled as JSON.
_NOT_JSON = (ValueError, TypeError, RecursionError)


class BadArguments(ValueError):  # noqa: N818 - reads as what it is in a message
    """An argument was refused at enqueue; the message names the job and the argument."""


@cache
def schema(function: Callable[..., Any]) -> type[BaseModel]:
    """Return the model of a job function's keyword arguments; unknown names are refused."""
    hints = get_type_hints(function, include_extras=True)
    fields: dict[str, Any] = {name: (hints[name], defaults(function).get(name, ...)) for name in parameters(function)}
    return create_model(function.__name__, __config__=_CONFIG, **fields)


@cache
def parameters(function: Callable[..., Any]) -> list[str]:
    """Return the names of a job function's arguments."""
    return list(inspect.signature(function).parameters)[1:]


@cache
def defaults(function: Callable[..., Any]) -> dict[str, Any]:
    """Return the values of a job function's arguments that have one without being given."""
    named = list(inspect.signature(function).parameters.values())[1:]
    return {p.name: p.default for p in named if p.default is not inspect.Parameter.empty}


def required(function: Callable[..., Any]) -> list[str]:
    """Return the names of a job function's arguments that have no default."""
    return [name for name in parameters(function) if name not in defaults(function)]


def accept(name: str, function: Callable[..., Any], arguments: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments as JSON values.

    Args:
        name: The job's name, for the error.
        function: The job's function; its first parameter is the context.
        arguments: Keyword arguments as given.

    Raises:
        BadArguments: If one is missing, unknown, of the wrong type, not JSON, or all together are too large.
    """
    model = _validated(name, function, arguments)
    try:
        accepted, encoded = _as_json(model)
    except _NOT_JSON:
        culprit = _first(model, _is_not_json)
        raise BadArguments(f"job {name}: argument {culprit!r}: is not JSON; pass an id or plain values") from None
    if not is_keepable(encoded):
        culprit = _first(model, _is_not_keepable)
        raise BadArguments(
            f"job {name}: argument {culprit!r}: Postgres keeps no zero character and no half of a surrogate pair"
        )
    if len(encoded.encode()) > LARGEST:
        raise BadArguments(f"job {name}: the arguments take more than {LARGEST} bytes; pass ids, not objects")
    return accepted


def restore(name: str, function: Callable[..., Any], arguments: dict[str, Any]) -> dict[str, Any]:
    """Return stored arguments as the typed values the function expects.

    Raises:
        BadArguments: If they were stored for another version of the function.
    """
    model = _validated(name, function, arguments)
    return {argument: getattr(model, argument) for argument in type(model).model_fields}


def is_keepable(encoded: str) -> bool:
    """Whether Postgres can keep this JSON."""
    return not _UNKEEPABLE.search(encoded)


def _validated(name: str, function: Callable[..., Any], arguments: dict[str, Any]) -> BaseModel:
    try:
        return schema(function)(**arguments)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise BadArguments(f"job {name}: argument {where!r}: {_sentence(first['type'], first['msg'])}") from None


def _as_json(model: BaseModel, only: set[str] | None = None) -> tuple[dict[str, Any], str]:
    accepted = model.model_dump(mode="json", exclude_unset=True, include=only)
    return accepted, json.dumps(accepted, ensure_ascii=False, allow_nan=False)


def _first(model: BaseModel, at_fault: Callable[[BaseModel, str], bool]) -> str:
    return next(argument for argument in type(model).model_fields if at_fault(model, argument))


def _is_not_json(model: BaseModel, argument: str) -> bool:
    try:
        _as_json(model, {argument})
    except _NOT_JSON:
        return True
    return False


def _is_not_keepable(model: BaseModel, argument: str) -> bool:
    return not is_keepable(_as_json(model, {argument})[1])


def _sentence(kind: str, message: str) -> str:
    known = {"missing": "is required", "extra_forbidden": "is not one of this job's arguments"}
    return known.get(kind, message[:1].lower() + message[1:])
