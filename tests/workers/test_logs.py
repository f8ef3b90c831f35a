"""One door for all log lines, and no credential passes it."""

import json
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.conftest import ROOT
from workers import logs

#: Built of parts: a scanner of repositories would take a whole one for real.
KEY = "sk_" + "live_hunter2"


@pytest.mark.parametrize(
    "words",
    [
        f"charged with {KEY} today",
        "rk_" + "test_hunter2",
        "signed with whsec_hunter2/+=",
        "sent with hr_" + "hunter2" * 6 + "-",
        "Authorization: Bearer hunter2",
        "postgresql://headrace:hunter2@db:5432/headrace",
        "redis://:hunter2@cache/0 and https://user:hunter2@example.com/x",
    ],
)
def test_what_has_the_shape_of_a_credential_is_replaced(words: str) -> None:
    shown = logs.redact_text(words)
    assert "hunter2" not in shown
    assert logs.HIDDEN in shown


@pytest.mark.parametrize("words", ["12:30 o'clock", "https://example.com:8080/a", "a@b.example", "12 tokens left", ""])
def test_ordinary_words_pass(words: str) -> None:
    assert logs.redact_text(words) == words


@pytest.mark.parametrize(
    "name", ["token", "API_KEY", "apikey", "X-Signature", "Set-Cookie", "client_secret", "Password"]
)
def test_what_is_named_like_a_credential_is_replaced(name: str) -> None:
    assert logs.redact({name: "hunter2", "kept": 1}) == {name: logs.HIDDEN, "kept": 1}


def test_a_secret_that_this_process_was_given_is_replaced_whatever_its_shape() -> None:
    logs.hide(["correct horse", "correct horse battery", "short"])
    assert logs.redact_text("a correct horse battery, a correct horse, a short one") == (
        f"a {logs.HIDDEN}, a {logs.HIDDEN}, a short one"
    )


nested = st.recursive(
    st.sampled_from([KEY, "Bearer hunter2", 5, None]),
    lambda inner: st.lists(inner) | st.tuples(inner) | st.dictionaries(st.sampled_from(["a", "token", "b"]), inner),
)


@given(nested)
def test_secrets_are_found_at_any_depth(value: Any) -> None:
    assert "hunter2" not in repr(logs.redact(value))


SPEAK = """
import logging
from workers import logs
logs.configure("worker")
logs.get().info("ours", run=7, token="hunter2", deep={"password": "hunter2"})
logging.getLogger("library").warning("asked %s", "Bearer hunter2")
logging.getLogger("httpx").info("too much")
try:
    raise RuntimeError("postgresql://u:hunter2@db/x")
except RuntimeError:
    logs.get().exception("ours again")
    logging.getLogger("library").exception("theirs again")
"""


DIE = """
import threading
from workers import logs
logs.configure("worker")
logs.hide(["hunter2hunter2"])
def fail():
    raise RuntimeError("asked with " + "hunter2" * 2)
thread = threading.Thread(target=fail)
thread.start()
thread.join()
fail()
"""


def test_what_nobody_caught_is_told_without_secrets_too() -> None:
    done = subprocess.run(
        [sys.executable, "-c", DIE], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 1
    assert done.stderr.count(f"RuntimeError: asked with {logs.HIDDEN}") == 2
    assert "hunter2hunter2" not in done.stderr.replace('logs.hide(["hunter2hunter2"])', "")


def test_our_lines_and_the_libraries_leave_by_one_door_as_json_without_secrets() -> None:
    done = subprocess.run(
        [sys.executable, "-c", SPEAK], cwd=ROOT, check=True, capture_output=True, text=True, timeout=60
    )
    assert done.stdout == ""
    assert "hunter2" not in done.stderr
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    assert [line["event"] for line in lines] == ["ours", f"asked {logs.HIDDEN}", "ours again", "theirs again"]
    assert {line["process"] for line in lines} == {"worker"}
    assert {line["level"] for line in lines} == {"info", "warning", "error"}
    assert (lines[0]["run"], lines[0]["deep"]) == (7, {"password": logs.HIDDEN})
    assert all("timestamp" in line for line in lines)
    assert "RuntimeError" in lines[2]["exception"]
    assert "RuntimeError" in lines[3]["exception"]
