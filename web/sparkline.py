"""Small charts as SVG: one bar a minute, what failed on top of what went well; one tick a fire, by what it became.

Drawn here, so that they need no script; the sentence beside each says the same to those who do not see it.
"""

from collections.abc import Sequence

from markupsafe import Markup

from web.recent import MinuteView
from workers.timetable import SlotView

_STEP = 4
_WIDTH = 3
_HEIGHT = 36
_SMALLEST = 2


#: How the tick of a fire looks: what did its work, what did it along, what did nothing.
_LOOKS = {"ran": "well", "caught_up": "late", "fired_by_hand": "well", "coalesced": "along"}


def ticks(slots: Sequence[SlotView], room: int) -> Markup:
    """Return a strip with room for so many fires, the newest at the right; those that did nothing are short.

    Args:
        slots: The newest first.
        room: At least as many.
    """
    drawn = [
        f'<rect class="{look}" x="{(room - 1 - at) * _STEP}" y="{_HEIGHT - tall}" width="{_WIDTH}" height="{tall}"/>'
        for at, (look, tall) in enumerate(map(_tick, slots))
    ]
    return Markup(  # noqa: S704 - numbers and our own words only
        f'<svg class="bars ticks" viewBox="0 0 {room * _STEP} {_HEIGHT}" preserveAspectRatio="none" '
        f'aria-hidden="true">{"".join(drawn)}</svg>'
    )


def _tick(slot: SlotView) -> tuple[str, int]:
    look = _LOOKS.get(slot.outcome, "ill")
    return look, {"well": _HEIGHT, "late": _HEIGHT, "along": _HEIGHT * 2 // 3}.get(look, _HEIGHT // 3)


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
