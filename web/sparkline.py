"""A small bar chart as SVG: one bar a minute, what failed on top of what went well.

Drawn here, so that it needs no script; the sentence beside it says the same to those who do not see it.
"""

from collections.abc import Sequence

from markupsafe import Markup

from web.recent import MinuteView

_STEP = 4
_WIDTH = 3
_HEIGHT = 36
_SMALLEST = 2


def bars(minutes: Sequence[MinuteView]) -> Markup:
    """Return the chart. The tallest bar fills the height; a minute with anything in it shows at least a stub."""
    most = max((minute.succeeded + minute.failed for minute in minutes), default=0) or 1
    drawn = [bar for at, minute in enumerate(minutes) for bar in _minute(at * _STEP, minute, most)]
    width = max(1, len(minutes) * _STEP)
    return Markup(  # noqa: S704 - numbers only
        f'<svg class="bars" viewBox="0 0 {width} {_HEIGHT}" preserveAspectRatio="none" aria-hidden="true">'
        f"{''.join(drawn)}</svg>"
    )


def _minute(x: int, minute: MinuteView, most: int) -> list[str]:
    failed, succeeded = _tall(minute.failed, most), _tall(minute.succeeded, most)
    return [
        f'<rect class="{kind}" x="{x}" y="{y}" width="{_WIDTH}" height="{height}"/>'
        for kind, y, height in (
            ("well", _HEIGHT - succeeded, succeeded),
            ("ill", max(0, _HEIGHT - succeeded - failed), failed),
        )
        if height
    ]


def _tall(count: int, most: int) -> int:
    return max(_SMALLEST, round(count / most * (_HEIGHT - _SMALLEST))) if count else 0
