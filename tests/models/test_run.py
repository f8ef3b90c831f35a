"""The table of legal moves, the picture above it, and what the database itself refuses."""

import re
from itertools import pairwise

import pytest
from sqlalchemy import Engine, text
from sqlalchemy.exc import DBAPIError

from models import FINAL, MOVES, State, run


def picture() -> set[tuple[str, str]]:
    """Read the moves out of the drawing in the module's docstring."""
    drawing = [line for line in (run.__doc__ or "").splitlines() if re.search("[─▶┤└├]", line)]
    (middle,) = (line for line in drawing if "waiting" in line)
    onward = re.findall(r"waiting|queued|running", middle)
    ends = [match[1] for line in drawing if (match := re.search(r"[├└]─▶ +(\w+)", line))]
    moves = set(pairwise(onward)) | {("running", end) for end in ends}
    for line in drawing:
        if "retry, snooze, shutdown, rescue" in line:
            moves.add(("running", "waiting"))
        if "broker lost it" in line:
            moves.add(("queued", "waiting"))
        if match := re.search(r"run again \((.*)\)", line):
            moves |= {(state, "waiting") for state in match[1].split(", ")}
    return moves


def test_the_moves_cover_every_state_and_lead_to_states() -> None:
    assert set(MOVES) == set(State)
    assert set().union(*MOVES.values()) == set(State)
    assert all(state not in targets for state, targets in MOVES.items())


def test_every_move_of_the_picture_is_legal_and_only_those_by_hand_and_by_the_clock_are_missing_from_it() -> None:
    legal = {(str(state), str(target)) for state, targets in MOVES.items() for target in targets}
    by_an_operator = {("waiting", "cancelled"), ("queued", "cancelled"), ("dead", "cancelled"), ("cancelled", "dead")}
    put_back_or_out_of_time = {("waiting", "dead"), ("queued", "dead")}
    claimed_before_the_relay_committed = {("waiting", "running")}
    assert picture() == legal - by_an_operator - put_back_or_out_of_time - claimed_before_the_relay_committed


def test_a_final_state_is_left_by_hand_only() -> None:
    assert {State.SUCCEEDED, State.DEAD, State.CANCELLED} == FINAL
    assert all(MOVES[state] <= {State.WAITING, State.CANCELLED, State.DEAD} for state in FINAL)
    assert State.DEAD not in MOVES[State.SUCCEEDED]


@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO runs (job, queue, args, max_attempts, state) VALUES ('a.b', 'q', '{}', 1, 'asleep')",
        "INSERT INTO runs (job, queue, args, max_attempts, unique_key) SELECT 'a', 'q', '{}', 1, 'k' FROM pg_class",
    ],
)
def test_postgres_refuses_an_unknown_state_and_a_second_holder_of_a_key(engine: Engine, statement: str) -> None:
    with pytest.raises(DBAPIError), engine.begin() as connection:
        connection.execute(text(statement))


ATTEMPTS = """
    INSERT INTO attempts (run_id, number, started_at, outcome)
    SELECT id, 1, now(), unnest(CAST(:outcomes AS text[])) FROM runs
"""


@pytest.mark.parametrize("outcomes", [["strange"], ["failed", "failed"]])
def test_postgres_refuses_an_unknown_outcome_and_a_second_row_for_an_attempt(
    engine: Engine, outcomes: list[str]
) -> None:
    with engine.begin() as connection:
        connection.execute(text("INSERT INTO runs (job, queue, args, max_attempts) VALUES ('a.b', 'q', '{}', 1)"))
        with pytest.raises(DBAPIError), connection.begin_nested():
            connection.execute(text(ATTEMPTS), {"outcomes": outcomes})
        connection.execute(text(ATTEMPTS), {"outcomes": ["failed"]})
