"""Numbers, ages and charts as people read them."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from web.recent import MinuteView
from web.sparkline import bars
from web.words import ago, counted, number, span, whole

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (None, "\N{EN DASH}"),
        (0.0402, "40 ms"),
        (1.24, "1.2 s"),
        (12.9, "12 s"),
        (95, "95 s"),
        (180, "3 min"),
        (7500, "2 h 5 min"),
        (90_000, "1 d 1 h"),
    ],
)
def test_a_length_of_time_is_as_short_as_it_stays_useful(seconds: float | None, words: str) -> None:
    assert span(seconds) == words


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.2, "just now"), (-0.2, "just now"), (12, "12 s ago"), (-200, "in 3 min")]
)
def test_an_age_says_before_or_after(seconds: float, words: str) -> None:
    assert ago(NOW - timedelta(seconds=seconds), NOW) == words


def test_what_never_happened_is_never() -> None:
    assert ago(None, NOW) == "never"


def test_a_noun_is_plural_unless_there_is_one() -> None:
    assert [counted(n, "run") for n in (0, 1, 1200)] == ["0 runs", "1 run", "1,200 runs"]
    assert number(92_331) == "92,331"


@given(st.floats(min_value=0, max_value=1e9))
def test_every_length_has_words(seconds: float) -> None:
    assert whole(seconds)
    assert span(seconds)


@given(st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 10**6)), max_size=60))
def test_every_minute_with_anything_in_it_has_a_bar_and_none_leaves_the_chart(minutes: list[tuple[int, int]]) -> None:
    drawn = str(bars([MinuteView(NOW, succeeded, failed) for succeeded, failed in minutes]))
    assert drawn.count("<rect") == sum(bool(count) for minute in minutes for count in minute)
    assert 'y="-' not in drawn
    assert 'height="0"' not in drawn
