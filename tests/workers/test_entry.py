"""How a process is asked to end."""

import signal
from collections.abc import Iterator

import pytest

from workers.entry import stop_signal


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """Put back whatever handles signals here."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_asks_for_a_stop(number: signal.Signals) -> None:
    stopping = stop_signal()
    assert not stopping.is_set()
    signal.raise_signal(number)
    assert stopping.wait(20)


@pytest.mark.timeout(30)
def test_a_signal_that_comes_just_as_the_process_begins_to_wait_for_it_is_heard() -> None:
    stopping = stop_signal()
    with stopping._cond:  # type: ignore[attr-defined]
        signal.raise_signal(signal.SIGTERM)
    assert stopping.wait(20)


def test_a_second_signal_ends_the_process_at_once() -> None:
    stop_signal()
    signal.raise_signal(signal.SIGTERM)
    with pytest.raises(SystemExit) as left:
        signal.raise_signal(signal.SIGINT)
    assert left.value.code == 1
