"""The others have a bad day: the warehouse fails, lies, stalls or refuses us, the search server is away.

Work waits, is told about in a sentence, and is done once it can be; what cannot be done is set aside, never lost.
"""

import secrets
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import pytest
from sqlalchemy import text

from sandbox.fleet import Fleet
from sandbox.stage import Stage
from tests.acceptance import proof
from tests.workers.asking import asked, told

FAILING = {
    "error_rate": 0.2,
    "throttle_rate": 0.1,
    "retry_after_s": 1,
    "duplicate_items": 7,
    "moving_items": 7,
    "expire_cursors_rate": 0.3,
    "drop_connections_rate": 0.1,
    "malformed_rate": 0.02,
    "malformed_nameless": False,
}
#: Syncs made against a failing warehouse until each kind of failure was met at least once.
TRIES = 4
CIRCUIT = "SELECT count(*) FROM upstreams WHERE circuit_opened_at IS NOT NULL"
TOLD = "SELECT extract(epoch FROM circuit_told_at)::bigint FROM upstreams WHERE name = 'warehouse'"
FAILURES = "SELECT coalesce(sum(failures), 0) FROM runs WHERE state <> 'succeeded'"
HELD_BY_CIRCUIT = """SELECT count(DISTINCT run_id) FROM attempts
    WHERE outcome = 'snoozed' AND error LIKE '%circuit of warehouse is open since%'"""
APPLIED = "SELECT count(*) FROM runs WHERE job = 'warehouse.apply_event' AND state <> 'succeeded'"


def test_a_warehouse_that_fails_in_every_way_is_synced_all_the_same(stage: Stage) -> None:
    with proof.unannounced(stage):
        stage.upstreams.admin.sell(300)
        stage.upstreams.admin.faults(**FAILING)
        for _ in range(TRIES):
            proof.succeeded(stage, proof.run(stage, "warehouse.sync", "--arg", "full=true"))
            met = stage.upstreams.admin.stats()["answers"]
            if {"429", "410"} <= met.keys() and met.keys() & {"500", "502", "503"}:
                break
        else:
            pytest.fail(f"not every failure was met: {met}")
        stage.upstreams.admin.reset_faults()
    proof.succeeded(stage, proof.run(stage, "warehouse.sync"))
    proof.adds_up(stage)


def test_a_sync_outwaits_a_warehouse_that_does_not_answer_and_other_work_goes_on(stage: Stage) -> None:
    stage.upstreams.pause()
    try:
        waiting = proof.run(stage, "warehouse.sync")
        proof.succeeded(stage, proof.run(stage, "search.verify"))
        stage.wait_for("a failed attempt", lambda: "failed" in proof.attempts(stage, waiting), seconds=60)
        assert "warehouse did not answer in time" in proof.error(stage, waiting)
    finally:
        stage.upstreams.resume()
    proof.succeeded(stage, waiting)
    proof.adds_up(stage)


def test_work_waits_for_a_warehouse_that_is_down_burns_no_attempt_and_is_all_done_once_it_is_back(stage: Stage) -> None:
    stage.upstreams.admin.faults(error_rate=1)
    try:
        waiting = [proof.run(stage, f"warehouse.{job}") for job in ("sync", "walk")]
        stage.wait_for("the circuit to open", lambda: stage.number(CIRCUIT) == 1, seconds=proof.HEALING)
        stage.upstreams.admin.sell(20, wait_s=proof.HEALING)
        stage.wait_for("held runs", lambda: stage.number(HELD_BY_CIRCUIT) >= 20, seconds=proof.HEALING)
        before, opened = stage.number(FAILURES), stage.number(TOLD)
        stage.wait_for("a failed probe", lambda: stage.number(TOLD) > opened, seconds=proof.HEALING)
        # The run may be the one that has just probed: then it says so once it is put back.
        show = ("runs", "show", str(waiting[0]))
        reason = "the circuit of warehouse is open since"
        stage.wait_for("the reason", lambda: reason in told(stage.environment, *show), seconds=proof.HEALING)
        assert "open since" in told(stage.environment, "upstreams", "list")
        assert stage.number(FAILURES) == before
    finally:
        stage.upstreams.admin.reset_faults()
    for run in waiting:
        proof.succeeded(stage, run)
    proof.adds_up(stage)
    assert stage.number(CIRCUIT) == 0


def test_a_wrong_token_ends_the_run_with_a_sentence_and_the_right_one_lets_it_run_again(stage: Stage) -> None:
    wrong = secrets.token_hex(8)
    stage.fleet.stop("worker-1")
    with workers(stage, WAREHOUSE_TOKEN=wrong) as fleet:
        refused = asked(stage.environment, "run", "warehouse.sync", "--wait")
        assert wrong not in fleet.members["worker-1"].said()
    assert refused.returncode == 1
    assert "401" in refused.stderr
    assert "check that our credential is current" in refused.stderr
    assert wrong not in refused.stderr
    (dead,) = proof.dead(stage)
    assert dead.job == "warehouse.sync"

    assert stage.fleet.start("worker") == ["worker-1"]
    told(stage.environment, "runs", "retry", "--job", "warehouse.sync")
    proof.adds_up(stage)


def test_a_page_that_is_no_json_is_asked_for_again_later(stage: Stage) -> None:
    stage.upstreams.admin.faults(page_not_json_rate=1)
    waiting = proof.run(stage, "warehouse.sync")
    stage.wait_for("a failed attempt", lambda: "failed" in proof.attempts(stage, waiting), seconds=60)
    assert "not JSON" in proof.error(stage, waiting)
    assert stage.number(proof.STATE, run=waiting, state="dead") == 0
    stage.upstreams.admin.reset_faults()
    proof.succeeded(stage, waiting)
    proof.adds_up(stage)


def test_items_that_make_no_sense_are_quarantined_alone_until_they_are_good(stage: Stage) -> None:
    stage.upstreams.admin.faults(malformed_rate=0.04, malformed_sticky=True, malformed_nameless=False)
    proof.succeeded(stage, proof.run(stage, "warehouse.sync", "--arg", "full=true"))
    reasons = quarantined(stage)
    for wrong in ("sku: Field required", "reserved: Input should be greater than or equal to 0", "not a fraction"):
        assert any(wrong in reason for reason in reasons), (wrong, reasons)

    stage.upstreams.admin.reset_faults()
    proof.succeeded(stage, proof.run(stage, "warehouse.sync"))
    assert quarantined(stage) == []
    proof.adds_up(stage)


def test_index_work_waits_for_a_search_server_that_is_away_and_everything_else_goes_on(stage: Stage) -> None:
    stage.services.search.stop()
    try:
        stage.upstreams.admin.sell(60, wait_s=proof.HEALING)
        stage.wait_for("the webhooks' work", lambda: stage.number(APPLIED) == 0, seconds=proof.HEALING)
        assert stage.number("SELECT count(*) FROM search_changes") > 0
        failed = "SELECT count(*) FROM runs WHERE job = 'search.index_changes' AND error LIKE '%elasticsearch%'"
        stage.wait_for("index work to say why it waits", lambda: stage.number(failed) > 0, seconds=proof.HEALING)
    finally:
        stage.services.search.start()
    proof.adds_up(stage)


def test_a_webhook_that_is_too_large_is_refused_and_leaves_no_trace(stage: Stage) -> None:
    before = stage.number("SELECT count(*) FROM events")
    answer = httpx.post(f"{stage.web_url}/webhooks/warehouse", content=b"x" * 1_000_000)
    assert answer.status_code == 413
    assert "at most" in answer.json()["detail"]
    assert stage.number("SELECT count(*) FROM events") == before


@contextmanager
def workers(stage: Stage, **variables: str) -> Iterator[Fleet]:
    """Run one worker whose environment differs."""
    fleet = Fleet(stage.services.folder / "others", {**stage.environment, **variables})
    fleet.start("worker")
    try:
        yield fleet
    finally:
        fleet.close()


def quarantined(stage: Stage) -> list[str]:
    """Return why items are in quarantine now."""
    with stage.engine.begin() as connection:
        return list(connection.execute(text("SELECT reason FROM quarantine WHERE resolved_at IS NULL")).scalars())
