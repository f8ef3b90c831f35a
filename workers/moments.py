"""Moments as people write and read them: `2h` ago, `2026-11-23`, "3 min ago", "in 2 h"."""

import re
from datetime import UTC, datetime, timedelta

import typer

_SPAN = re.compile(r"(\d{1,5})([smhdw])")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_WORDS = ((86_400, "d"), (3600, "h"), (60, "min"), (1, "s"))


def moment(typed: str) -> datetime:
    """Read a moment in the past: a span such as `90s`, `10m`, `2h`, `3d`, `1w`, or a date and time, in UTC by default.

    Raises:
        typer.BadParameter: If it is neither.
    """
    return _read(typed, -1)


def later(typed: str) -> datetime:
    """Read a moment in the future: the same spans, counted from now on, or a date and time.

    Raises:
        typer.BadParameter: If it is neither, or lies in the past.
    """
    read = _read(typed, 1)
    if read <= datetime.now(UTC):
        raise typer.BadParameter(f"{typed!r} lies in the past: write 10m, 2h or 3d, or a date and time to come")
    return read


def _read(typed: str, direction: int) -> datetime:
    if span := _SPAN.fullmatch(typed.strip()):
        return datetime.now(UTC) + direction * timedelta(seconds=int(span[1]) * _SECONDS[span[2]])
    try:
        read = datetime.fromisoformat(typed.strip())
        # Near the ends of the calendar a zone's distance leads out of it.
        return (read.replace(tzinfo=UTC) if read.tzinfo is None else read).astimezone(UTC)
    except (ValueError, OverflowError):
        raise typer.BadParameter(f"{typed!r} is no moment: write 10m, 2h or 3d, or 2026-11-23T05:00") from None


def span(seconds: float) -> str:
    """Say a duration in one unit: `40 ms`, `0.4 s`, `12 s`, `3 min`, `2 h`, `5 d`."""
    if 0 < seconds < 9.95:  # noqa: PLR2004 - above it, one decimal says nothing
        return f"{seconds:.1f}".removesuffix(".0") + " s" if seconds >= 0.1 else f"{seconds * 1000:.0f} ms"  # noqa: PLR2004 - see above
    size, unit = next((word for word in _WORDS if seconds >= word[0]), (1, "s"))
    return f"{int(seconds // size)} {unit}"


def when(at: datetime, now: datetime | None = None) -> str:
    """Say a moment by its distance from now: `3 min ago`, `in 2 h`, `now`."""
    seconds = ((now or datetime.now(UTC)) - at).total_seconds()
    if abs(seconds) < 1:
        return "now"
    return f"{span(int(seconds))} ago" if seconds > 0 else f"in {span(int(-seconds))}"


def exactly(at: datetime) -> str:
    """Say a moment to the second, in UTC."""
    return at.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def askew(seconds: float) -> str:
    """Say by how much a clock is wrong: `4.2 s ahead`, `3 d behind`."""
    return f"{span(abs(seconds))} {'ahead' if seconds > 0 else 'behind'}"
