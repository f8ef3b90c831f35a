"""The errors tree is what callers act on, so its drawing must be true."""

import inspect
import re

from integrations import (
    BadDelivery,
    BadSignature,
    CircuitOpen,
    CursorExpired,
    IntegrationError,
    NotFound,
    OutOfBudget,
    Rejected,
    Throttled,
    Unauthorized,
    Unavailable,
    _errors,
)


def _classes() -> dict[str, type[IntegrationError]]:
    members = vars(_errors).items()
    return {name: c for name, c in members if inspect.isclass(c) and issubclass(c, IntegrationError)}


def _drawn() -> dict[str, str | None]:
    """Read the drawing: each class and the one it hangs under."""
    parents: dict[str, str | None] = {}
    path: list[tuple[int, str]] = []
    for indent, name in re.findall(r"^( *)[*x+-] (\w+)$", inspect.getdoc(_errors) or "", re.MULTILINE):
        path = [(depth, above) for depth, above in path if depth < len(indent)]
        parents[name] = path[-1][1] if path else None
        path.append((len(indent), name))
    return parents


def test_every_error_is_in_the_drawn_tree_under_its_real_base() -> None:
    real = {
        name: c.__base__.__name__ if c is not IntegrationError and c.__base__ else None
        for name, c in _classes().items()
    }
    assert _drawn() == real


def test_every_error_explains_what_the_caller_does_about_it() -> None:
    assert [name for name, c in _classes().items() if not c.__doc__ or len(c.__doc__) < 40] == []


def test_every_error_names_its_upstream_and_reads_as_its_message() -> None:
    errors: list[IntegrationError] = [
        Unavailable("gone", upstream="w"),
        Throttled("gone", upstream="w", retry_after=3.0),
        CircuitOpen("gone", upstream="w", retry_after=3.0),
        OutOfBudget("gone", upstream="w", retry_after=3.0),
        Rejected("gone", upstream="w", status=422, code="c"),
        Unauthorized("gone", upstream="w", status=401),
        NotFound("gone", upstream="w", status=404),
        CursorExpired("gone", upstream="w", status=410),
        BadSignature("gone", upstream="w", reason="stale"),
        BadDelivery("gone", upstream="w"),
    ]
    assert {type(error) for error in errors} == set(_classes().values()) - {IntegrationError}
    assert {(str(error), error.upstream) for error in errors} == {("gone", "w")}
