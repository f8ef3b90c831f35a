"""What is done about each line of a bulk request."""

import pytest

from integrations._bulk import BulkOutcome, Verdict, judge_line, read_outcome


@pytest.mark.parametrize(
    ("action", "status", "error_type", "verdict"),
    [
        ("index", 200, None, "ok"),
        ("index", 201, None, "ok"),
        ("index", 409, "version_conflict_engine_exception", "ok"),
        ("delete", 200, None, "ok"),
        ("delete", 404, None, "ok"),
        ("delete", 409, "version_conflict_engine_exception", "ok"),
        ("index", 429, "es_rejected_execution_exception", "retry"),
        ("index", 403, "cluster_block_exception", "retry"),
        ("index", 500, "x", "retry"),
        ("delete", 503, "unavailable_shards_exception", "retry"),
        ("index", 404, "index_not_found_exception", "no_index"),
        ("delete", 404, "index_not_found_exception", "no_index"),
        ("index", 400, "index_closed_exception", "no_index"),
        ("index", 400, "document_parsing_exception", "poison"),
        ("index", 413, None, "poison"),
        ("update", 404, "document_missing_exception", "poison"),
    ],
)
def test_each_status_has_one_verdict(action: str, status: int, error_type: str | None, verdict: Verdict) -> None:
    assert judge_line(action, status, error_type) == verdict


def test_without_errors_every_line_is_fine() -> None:
    items = [{"index": {"status": 201}}, {"delete": {"status": 404}}]
    assert read_outcome({"errors": False, "items": items}) == BulkOutcome([201, 404], ok=[0, 1])


def test_each_line_is_sorted_by_its_position_with_the_reason_of_the_poisoned() -> None:
    error = {"type": "document_parsing_exception", "reason": "no", "caused_by": {"reason": "NaN"}}
    items = [
        {"index": {"status": 201}},
        {"index": {"status": 400, "error": error}},
        {"index": {"status": 429, "error": {"type": "busy"}}},
        {"delete": {"status": 404}},
        {"index": {"status": 404, "error": {"type": "index_not_found_exception"}}},
        {"index": {"status": 400}},
    ]
    assert read_outcome({"errors": True, "items": items}) == BulkOutcome(
        statuses=[201, 400, 429, 404, 404, 400],
        ok=[0, 3],
        retry=[2],
        no_index=[4],
        poison={1: "document_parsing_exception: no: NaN", 5: "refused with status 400"},
    )
