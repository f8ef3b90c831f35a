"""What becomes of missed fires is decided by their age alone, and every fire has its outcome."""

from datetime import UTC, date, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

import jobs
from jobs import ONCE, SKIP, BadRule, Context, Missed, Overlap, each, every, read_missed
from jobs._fire_policy import LATE, MOST_EACH, MOST_JITTER, FirePolicy, outcomes

NOW = datetime(2026, 11, 25, 4, 0, tzinfo=UTC)
POLICIES = st.one_of(
    st.just(ONCE),
    st.just(SKIP),
    st.builds(lambda most, within: each(most=most, within=within), st.integers(1, 30), st.floats(1, 10_000)),
)


def planned(ages: list[float]) -> list[datetime]:
    return [NOW - timedelta(seconds=age) for age in sorted(ages, reverse=True)]


@given(st.lists(st.floats(0, 20_000), min_size=1, max_size=60), POLICIES)
def test_every_fire_has_one_outcome_and_none_is_made_up_for_beyond_what_the_policy_allows(
    ages: list[float], missed: Missed
) -> None:
    moments = planned(ages)
    became = outcomes(moments, NOW, missed)
    assert len(became) == len(moments)
    caught_up = [moment for moment, outcome in zip(moments, became, strict=True) if outcome == "caught_up"]
    assert len(caught_up) <= missed.most
    assert all(LATE < (NOW - moment).total_seconds() <= missed.within for moment in caught_up)


@given(st.one_of(POLICIES, st.builds(lambda within: each(most=1, within=within), st.floats(1, 10**11))))
def test_what_is_made_up_for_is_read_back_from_its_text(missed: Missed) -> None:
    assert read_missed(missed.text) == missed


@given(st.lists(st.floats(0, LATE), min_size=1, max_size=10), st.sampled_from([SKIP, each(most=1)]))
def test_what_comes_in_time_runs_whatever_is_missed(ages: list[float], missed: Missed) -> None:
    assert outcomes(planned(ages), NOW, missed) == ["ran"] * len(ages)


def test_the_documented_table_of_a_downtime_of_three_hours() -> None:
    hourly = planned([2.5 * 3600, 1.5 * 3600, 0.5 * 3600])
    assert outcomes(hourly, NOW, ONCE) == ["coalesced", "coalesced", "caught_up"]
    assert outcomes(hourly, NOW, SKIP) == ["missed"] * 3
    assert outcomes(hourly, NOW, each(most=2)) == ["missed", "caught_up", "caught_up"]
    assert outcomes(hourly, NOW, each(most=24, within=3600)) == ["missed", "missed", "caught_up"]


@pytest.mark.parametrize(("most", "within"), [(0, 60.0), (MOST_EACH + 1, 60.0), (3, 0.0), (3, float("nan"))])
def test_a_policy_that_makes_no_sense_says_so(most: int, within: float) -> None:
    with pytest.raises(BadRule, match="missed fires"):
        each(most=most, within=within)


@given(st.text(min_size=1), st.floats(0, MOST_JITTER))
def test_a_jitter_is_the_same_for_every_fire_of_a_schedule_and_within_its_bound(schedule: str, jitter: float) -> None:
    policy = FirePolicy(jitter=jitter)
    distance = policy.starts(schedule, NOW) - NOW
    assert timedelta() <= distance <= timedelta(seconds=jitter)
    tomorrow = NOW + timedelta(days=1)
    assert policy.starts(schedule, tomorrow) - tomorrow == distance


def test_a_day_is_left_out_by_the_clock_of_the_zone() -> None:
    policy = FirePolicy(excluding={date(2026, 12, 25)})
    assert policy.excludes(datetime(2026, 12, 24, 23, 30, tzinfo=UTC), "Europe/Berlin")
    assert not policy.excludes(datetime(2026, 12, 25, 23, 30, tzinfo=UTC), "Europe/Berlin")


@pytest.mark.parametrize("jitter", [-1, MOST_JITTER + 1, float("nan")])
def test_a_jitter_that_makes_no_sense_says_so(jitter: float) -> None:
    with pytest.raises(BadRule, match="jitter"):
        every(hours=1, jitter=jitter)


def test_fires_that_queue_need_a_job_that_runs_once_at_a_time() -> None:
    def beside(context: Context) -> None:
        del context

    with pytest.raises(ValueError, match="give limit=1"):
        jobs.job(schedule=every(hours=1, overlap=Overlap.QUEUE))(beside)
