"""How long to stay away: seconds or a date, by the upstream's own clock, never more than an hour."""

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from integrations._retry_after import http_date, retry_after

DATE = "Mon, 23 Nov 2026 05:00:00 GMT"


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("0", 0.0),
        ("120", 120.0),
        (" 7 ", 7.0),
        ("3600", 3600.0),
        ("3601", 3600.0),
        ("99999999999999", 3600.0),
        ("9" * 5000, 3600.0),
        ("Mon, 23 Nov 2026 05:01:30 GMT", 90.0),
        ("Monday, 23-Nov-26 05:01:30 GMT", 90.0),
        ("Mon Nov 23 05:01:30 2026", 90.0),
        ("Mon, 23 Nov 2026 04:00:00 GMT", 0.0),
        ("Fri, 31 Dec 9999 23:59:59 GMT", 3600.0),
        ("", None),
        ("-1", None),
        ("1.5", None),
        ("soon", None),
        ("٣", None),
        ("²", None),
        ("Mon, 99 Nov 2026 05:00:00 GMT", None),
    ],
)
def test_the_header_is_read_by_the_clock_of_the_answer(value: str, seconds: float | None) -> None:
    assert retry_after({"retry-after": value, "date": DATE}) == seconds


def test_no_header_means_no_answer() -> None:
    assert retry_after({}) is None


def test_without_a_date_header_our_own_clock_is_used() -> None:
    wait = retry_after({"retry-after": format_datetime(datetime.now(UTC) + timedelta(seconds=600), usegmt=True)})
    assert wait == pytest.approx(600, abs=30)


@given(st.text(), st.text())
def test_nothing_an_upstream_writes_breaks_us_or_keeps_us_away_for_more_than_an_hour(value: str, date: str) -> None:
    wait = retry_after({"retry-after": value, "date": date})
    assert wait is None or 0 <= wait <= 3600


@given(st.datetimes(datetime(1970, 1, 2), datetime(9999, 12, 30), timezones=st.just(UTC)))  # noqa: DTZ001 - bounds are naive by contract
def test_a_written_date_is_read_back_to_the_second(moment: datetime) -> None:
    assert http_date(format_datetime(moment, usegmt=True)) == moment.replace(microsecond=0)
