"""Rules in time: what cron means by its fields, and what clocks do twice a year."""

from datetime import UTC, date, datetime, timedelta
from itertools import islice, pairwise, takewhile
from zoneinfo import ZoneInfo, available_timezones

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from jobs import BadRule, FirePolicy, Rule, at, cron, every, read_rule
from jobs._schedule import EPOCH, fires, newest

ZONES = (
    "UTC",
    "America/New_York",
    "Europe/London",
    "Europe/Berlin",
    "Australia/Lord_Howe",  # moves by half an hour
    "America/Sao_Paulo",
    "Asia/Kathmandu",
    "Pacific/Apia",  # left out a whole day in 2011
    "America/Havana",  # its gap begins at midnight
)
RULES = (
    "* * * * *",
    "*/7 * * * *",
    "0 3 * * *",
    "30 1 * * *",
    "30 2 * * *",
    "0,15,45 1,2 * * *",
    "0 0 * * *",
    "15 */6 * * *",
    "0 12 1 * *",
    "5 4 * * 0",
    "0 0 13 * 5",
    "*/20 * * * * *",
)
moments = st.datetimes(datetime(2005, 1, 1), datetime(2037, 12, 31), timezones=st.just(UTC))  # noqa: DTZ001 - hypothesis adds the zone


def between(rule: Rule, after: datetime, until: datetime) -> list[datetime]:
    """Return the fires of a time."""
    return fires(rule, after, until)[0]


def walls(rule: Rule, zone: str, day: datetime) -> list[str]:
    """Return the fires of one UTC day and the next as local time with its offset."""
    found = between(rule, day, day + timedelta(days=1, hours=12))
    return [moment.astimezone(ZoneInfo(zone)).strftime("%d %H:%M%z") for moment in found]


@given(st.sampled_from(RULES), st.sampled_from(ZONES), moments)
def test_the_next_fire_is_later_than_the_moment_asked_about(expression: str, zone: str, moment: datetime) -> None:
    rule = cron(expression, zone=zone)
    first = rule.next_after(moment)
    assert moment < first
    assert first < rule.next_after(first)
    assert first.tzinfo is UTC


@given(st.sampled_from(RULES[2:]), st.sampled_from(ZONES), moments, st.integers(0, 200_000))
def test_two_schedulers_that_ask_at_different_moments_agree(
    expression: str, zone: str, moment: datetime, later: int
) -> None:
    """Nothing lies between a moment and the fire that was foretold at it."""
    rule = cron(expression, zone=zone)
    foretold = rule.next_after(moment)
    between = min(moment + timedelta(seconds=later), foretold - timedelta(microseconds=1))
    assert rule.next_after(between) == foretold


CHANGES = [
    ("America/New_York", datetime(2027, 11, 7, 5, 30, tzinfo=UTC)),
    ("Europe/London", datetime(2027, 10, 31, 0, 30, tzinfo=UTC)),
    ("Europe/Berlin", datetime(2027, 10, 31, 0, 30, tzinfo=UTC)),
    ("Australia/Lord_Howe", datetime(2027, 4, 3, 14, 45, tzinfo=UTC)),
]


@pytest.mark.parametrize(("zone", "first_pass"), CHANGES)
def test_a_fixed_time_that_happens_twice_fires_once_whenever_one_asks(zone: str, first_pass: datetime) -> None:
    local = first_pass.astimezone(ZoneInfo(zone))
    rule = cron(f"{local.minute} {local.hour} * * *", zone=zone)
    assert rule.next_after(first_pass - timedelta(hours=3)) == first_pass
    for minutes in range(0, 180, 5):
        assert rule.next_after(first_pass + timedelta(minutes=minutes)) > first_pass + timedelta(hours=20)


@settings(max_examples=40)  # each is a year
@given(
    st.sampled_from(ZONES[1:]),
    st.integers(2012, 2036),
    st.sampled_from(["", "0 ", "59 "]),
    st.integers(0, 23),
    st.sampled_from([0, 15, 30, 45]),
)
def test_a_daily_time_fires_exactly_once_on_every_day_of_a_year(
    zone: str, year: int, second: str, hour: int, minute: int
) -> None:
    rule = cron(f"{second}{minute} {hour} * * *", zone=zone)
    begin, end = (datetime(y, 1, 1, tzinfo=ZoneInfo(zone)).astimezone(UTC) for y in (year, year + 1))
    found = [moment.astimezone(ZoneInfo(zone)) for moment in between(rule, begin - timedelta(seconds=1), end)]
    days = [moment.date() for moment in found if moment.year == year]
    assert days == sorted(set(days))
    assert len(days) == (datetime(year + 1, 1, 1, tzinfo=UTC) - datetime(year, 1, 1, tzinfo=UTC)).days


@pytest.mark.parametrize(
    ("zone", "expression", "day", "expected"),
    [
        ("America/New_York", "30 2 * * *", datetime(2027, 3, 14, tzinfo=UTC), ["14 03:00-0400"]),
        ("Europe/London", "30 1 * * *", datetime(2027, 3, 28, tzinfo=UTC), ["28 02:00+0100"]),
        ("America/New_York", "30 1 * * *", datetime(2027, 11, 7, tzinfo=UTC), ["07 01:30-0400"]),
        ("Europe/Berlin", "30 2 * * *", datetime(2027, 3, 28, tzinfo=UTC), ["28 03:00+0200"]),
        ("Europe/Berlin", "30 2 * * *", datetime(2027, 10, 31, tzinfo=UTC), ["31 02:30+0200"]),
        ("Australia/Lord_Howe", "15 2 * * *", datetime(2027, 10, 2, 12, tzinfo=UTC), ["03 02:30+1100"]),
        ("Australia/Lord_Howe", "45 1 * * *", datetime(2027, 4, 3, 12, tzinfo=UTC), ["04 01:45+1100"]),
        ("Africa/Casablanca", "30 2 * * *", datetime(2027, 3, 14, tzinfo=UTC), ["14 03:00+0100"]),
        ("Africa/Casablanca", "30 2 * * *", datetime(2027, 2, 7, tzinfo=UTC), ["07 02:30+0100"]),
        ("Asia/Kathmandu", "30 2 * * *", datetime(2027, 3, 28, tzinfo=UTC), ["29 02:30+0545"]),
    ],
)
def test_a_fixed_time_in_the_gap_fires_right_after_it_and_a_doubled_one_the_first_time(
    zone: str, expression: str, day: datetime, expected: list[str]
) -> None:
    assert walls(cron(expression, zone=zone), zone, day)[:1] == expected


def test_every_real_hour_has_its_fire_on_the_days_the_clock_moves() -> None:
    rule = cron("0 * * * *", zone="America/New_York")
    for day in (datetime(2027, 3, 14, tzinfo=UTC), datetime(2027, 11, 7, tzinfo=UTC)):
        found = list(between(rule, day, day + timedelta(days=1)))
        assert [b - a for a, b in pairwise(found)] == [timedelta(hours=1)] * 23


@pytest.mark.parametrize(
    ("zone", "day"),
    [
        ("Europe/Berlin", datetime(2027, 3, 28, tzinfo=UTC)),
        ("Europe/Berlin", datetime(2027, 10, 31, tzinfo=UTC)),
        ("Australia/Lord_Howe", datetime(2027, 4, 3, tzinfo=UTC)),
        ("Australia/Lord_Howe", datetime(2027, 10, 2, tzinfo=UTC)),
        ("Africa/Casablanca", datetime(2027, 2, 7, tzinfo=UTC)),
        ("Africa/Casablanca", datetime(2027, 3, 14, tzinfo=UTC)),
    ],
)
def test_every_so_many_minutes_means_elapsed_ones_on_the_days_the_clock_moves(zone: str, day: datetime) -> None:
    found = between(cron("*/30 * * * *", zone=zone), day, day + timedelta(days=1))
    assert {after - before for before, after in pairwise(found)} == {timedelta(minutes=30)}


def test_sunday_is_nought_and_seven_and_monday_is_one() -> None:
    start = datetime(2026, 11, 23, tzinfo=UTC)  # a Monday
    assert cron("0 9 * * 0").next_after(start) == cron("0 9 * * 7").next_after(start)
    assert cron("0 9 * * 0").next_after(start).strftime("%A") == "Sunday"
    assert cron("0 9 * * 1").next_after(start).strftime("%A") == "Monday"
    weekdays = list(between(cron("0 9 * * 1-5"), start, start + timedelta(days=7)))
    assert [moment.strftime("%a") for moment in weekdays] == ["Mon", "Tue", "Wed", "Thu", "Fri"]


def test_a_day_of_the_month_and_a_day_of_the_week_are_alternatives() -> None:
    found = between(cron("0 0 13 * 5"), datetime(2026, 11, 1, tzinfo=UTC), datetime(2026, 11, 30, tzinfo=UTC))
    assert [moment.day for moment in found] == [6, 13, 20, 27]


@given(st.integers(1, 100_000), moments)
def test_an_interval_lies_on_a_grid_that_starts_with_the_epoch(seconds: int, moment: datetime) -> None:
    rule = every(seconds=seconds)
    found = rule.next_after(moment)
    assert timedelta() < found - moment <= timedelta(seconds=seconds)
    assert (found - EPOCH) % timedelta(seconds=seconds) == timedelta()
    assert rule.next_after(found) - found == timedelta(seconds=seconds)


def test_intervals_add_up_and_read_as_seconds() -> None:
    assert every(hours=1, minutes=1, seconds=1).text == "every 3661 s"
    assert (cron("0 3 * * *", zone="Europe/Berlin").text, cron("0 3 * * *", zone="Europe/Berlin").zone) == (
        "cron 0 3 * * *",
        "Europe/Berlin",
    )


def test_fires_end_with_the_last_moment_and_begin_after_the_first() -> None:
    begin = datetime(2027, 1, 1, tzinfo=UTC)
    found = list(between(every(hours=1), begin, begin + timedelta(hours=3)))
    assert found == [begin + timedelta(hours=hour) for hour in (1, 2, 3)]
    assert list(takewhile(lambda _: True, between(every(hours=1), begin, begin))) == []


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (lambda: cron("0 25 * * *"), "hour"),
        (lambda: cron("0 3 * *"), "number of fields"),
        (lambda: cron(""), "number of fields"),
        (lambda: cron("0 3 31 2 *"), "day-of-month"),
        (lambda: cron("0 3 * * *", zone="Mars/Base"), "Mars/Base"),
        (lambda: cron("0 3 * * *", zone="../etc/passwd"), "IANA"),
        (lambda: cron("0 3 * * *", zone=""), "IANA"),
        (every, "too short"),
        (lambda: every(seconds=0.5), "0.5 s"),
        (lambda: every(hours=-1), "too short"),
        (lambda: every(seconds=float("nan")), "interval"),
        (lambda: every(seconds=float("inf")), "interval"),
        (lambda: at("2027-02-30T08:00"), "day is out of range for month"),
        (lambda: at("tomorrow"), "tomorrow"),
        (lambda: at("2027-02-03T08:00", zone="Mars/Base"), "Mars/Base"),
        (lambda: at("0001-01-01T00:00", zone="Asia/Tokyo"), "0001"),
        (lambda: read_rule("sometimes", "UTC"), "no rule"),
        (lambda: read_rule("every 3 moons", "UTC"), "3 moons"),
        (lambda: read_rule("every 0.5 s", "UTC"), "too short"),
        (lambda: read_rule("every 1 h", "Mars/Base"), "Mars/Base"),
        (lambda: cron("0 0 30 2 *"), "its months have no such day"),
        (lambda: read_rule("every 999999999999 d", "UTC"), "too long"),
        (lambda: every(hours=10**7), "too long"),
        (lambda: at("9999-12-31T23:59"), "too far away"),
        (lambda: read_rule("cron 0 25 * * *", "UTC"), "hour"),
    ],
)
def test_a_rule_that_cannot_be_read_says_so_in_one_line(make: object, word: str) -> None:
    assert callable(make)
    with pytest.raises(BadRule) as caught:
        make()
    assert word.lower() in str(caught.value).lower()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("typed", "zone", "moment"),
    [
        ("2026-12-01T08:00", "Europe/Berlin", datetime(2026, 12, 1, 7, tzinfo=UTC)),
        ("2026-12-01 08:00:30", "Asia/Kathmandu", datetime(2026, 12, 1, 2, 15, 30, tzinfo=UTC)),
        ("2026-12-01T08:00+05:00", "Europe/Berlin", datetime(2026, 12, 1, 3, tzinfo=UTC)),
        ("2027-03-28T02:30", "Europe/Berlin", datetime(2027, 3, 28, 1, tzinfo=UTC)),  # in the gap: right after it
        ("2027-10-31T02:30", "Europe/Berlin", datetime(2027, 10, 31, 0, 30, tzinfo=UTC)),  # twice: the first time
    ],
)
def test_a_moment_on_the_wall_of_a_zone_fires_once(typed: str, zone: str, moment: datetime) -> None:
    rule = at(typed, zone=zone)
    assert rule.next_after(moment - timedelta(days=1)) == moment
    assert rule.next_after(moment) is None
    assert list(between(rule, EPOCH, moment)) == [moment]


RULES_OF_ANY_KIND = st.one_of(
    st.integers(1_000_000, 10**14).map(lambda micros: every(seconds=micros / 1_000_000)),
    st.builds(lambda rule, zone: cron(rule, zone=zone), st.sampled_from(RULES), st.sampled_from(ZONES)),
    st.builds(lambda moment, zone: at(moment.isoformat(), zone=zone), moments, st.sampled_from(ZONES)),
)


@given(RULES_OF_ANY_KIND, moments)
def test_going_on_with_a_rule_or_asking_it_anew_gives_the_same_fires(rule: Rule, begin: datetime) -> None:
    going_on = list(islice(rule.after(begin), 12))
    asked: list[datetime] = []
    moment = rule.next_after(begin)
    while moment is not None and len(asked) < len(going_on):
        asked.append(moment)
        moment = rule.next_after(moment)
    assert going_on == asked


@given(RULES_OF_ANY_KIND)
def test_a_rule_is_read_back_from_its_text_and_its_zone(rule: Rule) -> None:
    assert read_rule(rule.text, rule.zone) == rule


def test_a_rule_is_read_back_with_a_policy_that_leaves_out_a_plain_set_of_days() -> None:
    policy = FirePolicy(excluding={date(2026, 12, 25)})
    assert read_rule("every 1 h", "UTC", policy) == every(hours=1, excluding={date(2026, 12, 25)})


@given(RULES_OF_ANY_KIND, moments, st.integers(0, 10**6), st.integers(1, 40))
def test_the_newest_fires_are_the_last_ones_of_all(rule: Rule, begin: datetime, seconds: int, most: int) -> None:
    first = rule.next_after(begin)
    assume(first is not None)
    assert first is not None
    until = first + timedelta(seconds=min(seconds, 40_000))
    found, then = fires(rule, first, until)
    assert newest(rule, first, until, most) == ([first, *found][-most:], then)


@pytest.mark.parametrize(
    ("expression", "first"),
    [
        ("0 3 L * *", datetime(2026, 11, 30, 3, tzinfo=UTC)),  # the last day of the month
        ("0 3 LW * *", datetime(2026, 11, 30, 3, tzinfo=UTC)),  # its last weekday
        ("0 3 * * 5L", datetime(2026, 11, 27, 3, tzinfo=UTC)),  # its last Friday
        ("0 3 * * mon#2", datetime(2026, 12, 14, 3, tzinfo=UTC)),  # the second Monday
        ("0 9 * jan-mar mon-fri", datetime(2027, 1, 1, 9, tzinfo=UTC)),
        ("*/10 * * * * *", datetime(2026, 11, 25, 0, 0, 10, tzinfo=UTC)),
    ],
)
def test_last_days_ordinals_names_and_seconds_mean_what_they_say(expression: str, first: datetime) -> None:
    assert cron(expression).next_after(datetime(2026, 11, 25, tzinfo=UTC)) == first


@st.composite
def weeks_with_a_move(draw: st.DrawFn) -> tuple[str, datetime]:
    """Return any zone, and the begin of a week of twenty years in which its clocks move, if there is one."""
    zone = draw(st.sampled_from(sorted(available_timezones())))
    weeks = [datetime(2010, 1, 1, tzinfo=UTC) + timedelta(weeks=week) for week in range(20 * 52)]
    moves = [a for a, b in pairwise(weeks) if ZoneInfo(zone).utcoffset(a) != ZoneInfo(zone).utcoffset(b)]
    return zone, draw(st.sampled_from(moves or weeks))


@settings(max_examples=150)
@given(weeks_with_a_move(), st.integers(0, 23), st.sampled_from([0, 15, 30, 45]))
def test_in_every_zone_a_daily_time_fires_when_the_wall_first_shows_it_or_more(
    week: tuple[str, datetime], hour: int, minute: int
) -> None:
    """The whole rule in one: a doubled time counts the first time, one that is left out right after the gap."""
    zone, begin = week
    walls = [(m, m.astimezone(ZoneInfo(zone)).replace(tzinfo=None)) for m in quarters(begin, days=9)]
    at_noon = walls[4 * 12][1]
    daily = [at_noon.replace(hour=hour, minute=minute) + timedelta(days=day) for day in range(1, 8)]
    expected = [next(moment for moment, wall in walls if wall >= time) for time in daily]
    rule = cron(f"{minute} {hour} * * *", zone=zone)
    found = list(between(rule, expected[0] - timedelta(minutes=1), expected[-1]))
    assert found == sorted(set(expected))


def quarters(begin: datetime, *, days: int) -> list[datetime]:
    """Return each quarter of an hour; since 2010 all clocks moved by quarters, at quarters."""
    return [begin + timedelta(minutes=15 * step) for step in range(days * 96)]
