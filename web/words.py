"""Numbers, ages and lengths as people say them."""

from datetime import datetime

#: Seconds below which a tenth of one still matters, and below which nobody thinks in minutes.
_TENTHS_BELOW = 10
_SECONDS_BELOW = 120
_UNITS = (("d", 86_400), ("h", 3_600), ("min", 60))


def number(value: int | None) -> str:
    """Return a whole number with separators: `92,331`; a dash when there is none."""
    return "–" if value is None else f"{value:,}"  # noqa: RUF001 - the dash that stands for no value


def counted(value: int, noun: str) -> str:
    """Return a number with its noun, in the singular or the plural: `1 run`, `2 runs`."""
    return f"{value:,} {noun}" if value == 1 else f"{value:,} {noun}s"


def span(seconds: float | None) -> str:
    """Return a length of time as short as it stays useful: `40 ms`, `1.2 s`, `95 s`, `3 min`, `2 h 5 min`."""
    if seconds is None:
        return "–"  # noqa: RUF001 - the dash that stands for no value
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    return f"{seconds:.1f} s" if seconds < _TENTHS_BELOW else whole(seconds)


def whole(seconds: float) -> str:
    """Return a length of time without fractions of a second: `0 s`, `95 s`, `3 min`."""
    return f"{int(seconds)} s" if seconds < _SECONDS_BELOW else _long(seconds)


def _long(seconds: float) -> str:
    at = next(i for i, (_, size) in enumerate(_UNITS) if seconds >= size)
    unit, size = _UNITS[at]
    whole, rest = divmod(int(seconds), size)
    if at + 1 < len(_UNITS):
        below, smaller = _UNITS[at + 1]
        if part := rest // smaller:
            return f"{whole} {unit} {part} {below}"
    return f"{whole} {unit}"


def ago(moment: datetime | None, now: datetime) -> str:
    """Return how far a moment is from now: `just now`, `12 s ago`, `in 3 min`; `never` when there is none."""
    if moment is None:
        return "never"
    seconds = (now - moment).total_seconds()
    if abs(seconds) < 1:
        return "just now"
    return f"{whole(seconds)} ago" if seconds > 0 else f"in {whole(-seconds)}"


def first_line(words: str | None, longest: int = 160) -> str:
    """Return the first line of what was said, cut where it gets long; a word for nothing."""
    line = (words or "").strip().partition("\n")[0]
    return (line if len(line) <= longest else line[: longest - 1] + "…") or "nothing was said"
