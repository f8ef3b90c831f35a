"""Users on the command line: made, changed and shut out, each with its line in the audit and no secret kept."""

import json
import os
import pty
import subprocess
import sys
from typing import Any

import pytest
from sqlalchemy import Engine, text

from models import Role
from tests.conftest import ROOT
from tests.workers import rows
from tests.workers.asking import asked, told
from workers import actions, tickets
from workers.actions import CANCEL, Actor, Refused, Selection
from workers.passwords import Prover

BROWSER = """
    INSERT INTO sign_ins (digest, user_id, expires_at) SELECT 'x', id, now() + interval '1 day' FROM users
"""


def audit(engine: Engine) -> list[Any]:
    with engine.connect() as connection:
        return list(connection.execute(text("SELECT * FROM audit ORDER BY id")))


@pytest.fixture
def kim(engine: Engine) -> str:
    """A user who is signed in with one browser."""
    with engine.begin() as connection:
        actions.add_user(connection, "Kim", Role.OPERATOR, "kept", by="ada")
        connection.execute(text(BROWSER))
    return "kim"


def seen(terminal: int, words: str) -> str:
    """Read what a terminal shows until some words come."""
    shown = ""
    while words not in shown:
        shown += os.read(terminal, 4096).decode()
    return shown


def test_a_password_that_nobody_chose_is_printed_once_and_never_kept(variables: dict[str, str], engine: Engine) -> None:
    made = json.loads(told(variables, "users", "add", "kim@example.com", "--role", "admin", "--by", "ada", "--json"))
    assert (made["name"], made["role"], len(made["password"])) == ("kim@example.com", "admin", 43)
    kept = rows.one(engine, "SELECT password FROM users")
    assert kept.startswith("$argon2id$v=19$m=19456,t=2,p=1$")
    assert Prover().right(kept, made["password"])
    other = told(variables, "users", "password", "KIM@example.com")
    assert not Prover().right(rows.one(engine, "SELECT password FROM users"), made["password"])
    assert made["password"] not in other + told(variables, "users", "list", "--json") + str(audit(engine))
    first = audit(engine)[0]
    assert (first.actor, first.action, first.role) == ("ada", "users add", None)


def test_on_a_terminal_a_person_chooses_the_password_and_it_is_not_shown(
    variables: dict[str, str], engine: Engine
) -> None:
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "workers", "users", "add", "kim", "--role", "viewer"]
    with subprocess.Popen(
        command, env=variables, cwd=ROOT, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True
    ) as process:
        os.close(theirs)
        shown = seen(ours, "Password: ")
        os.write(ours, b"a mill and its race\n")
        shown += seen(ours, "confirmation: ")
        os.write(ours, b"a mill and its race\n")
        shown += seen(ours, "may sign in as viewer")
    os.close(ours)
    assert "mill" not in shown
    assert process.returncode == 0, shown
    assert Prover().right(rows.one(engine, "SELECT password FROM users"), "a mill and its race")


def test_a_token_is_printed_once_listed_without_it_and_revoked(
    variables: dict[str, str], engine: Engine, kim: str
) -> None:
    token = told(variables, "users", "token", kim, "--for", "the label printer").strip()
    assert token.startswith(tickets.TOKEN)
    assert rows.one(engine, "SELECT digest FROM api_tokens") == tickets.digest(token)
    (listed,) = json.loads(told(variables, "users", "tokens", "--json"))
    assert (listed["user"], listed["purpose"], listed["used_at"]) == ("Kim", "the label printer", None)
    assert "is revoked" in told(variables, "users", "revoke", str(listed["number"]))
    assert "already" in told(variables, "users", "revoke", str(listed["number"]))
    assert token not in str(audit(engine))


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("users add Kim --role operator", "there is a user Kim already"),
        ("users add KIM --role operator", "there is a user KIM already"),
        ("users add two\twords --role viewer", "without a space"),
        ("users add ada --role boss", "boss"),
        ("users disable kin", "there is no user called 'kin': there is Kim"),
        ("users revoke 7", "there is no token 7"),
    ],
)
def test_what_cannot_be_done_is_one_line_that_says_why(
    variables: dict[str, str], kim: str, line: str, words: str
) -> None:
    assert kim
    done = asked(variables, *line.split(" "))
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert words in done.stderr


def test_whoever_becomes_less_trusted_is_signed_out(engine: Engine, kim: str) -> None:
    open_browsers = "SELECT count(*) FROM sign_ins"
    with engine.begin() as connection:
        assert actions.disable_user(connection, kim, by="ada")
    assert rows.one(engine, open_browsers) == 0
    rows.change(engine, BROWSER)
    with engine.begin() as connection:
        assert not actions.disable_user(connection, kim, by="ada")
        assert actions.enable_user(connection, kim, by="ada")
        assert not actions.enable_user(connection, kim, by="ada")
        assert actions.give_role(connection, kim, Role.ADMIN, by="ada")
        assert not actions.give_role(connection, kim, Role.ADMIN, by="ada")
        connection.execute(text(BROWSER))
        actions.give_password(connection, kim, "other", by="ada")
    assert rows.one(engine, open_browsers) == 0
    told_of = [(line.action, line.target, line.details) for line in audit(engine)][1:]
    assert told_of == [
        ("users disable", "Kim", {"sign_ins": 1}),
        ("users enable", "Kim", None),
        ("users role", "Kim", {"before": "operator", "after": "admin"}),
        ("users password", "Kim", {"sign_ins": 1}),
    ]


@pytest.mark.parametrize("name", ["", "a b", "x" * 101, "a\x00b", "a\u200bb", "\n"])
def test_a_name_is_one_that_people_can_see_and_type(engine: Engine, name: str) -> None:
    with engine.begin() as connection, pytest.raises(Refused, match="cannot be a name"):
        actions.add_user(connection, name, Role.VIEWER, "kept", by="ada")


def test_every_role_may_what_the_ones_before_it_may() -> None:
    assert [[role.covers(needed) for needed in Role] for role in Role] == [
        [True, False, False],
        [True, True, False],
        [True, True, True],
    ]


def test_an_action_of_a_user_is_kept_with_their_role_and_one_of_the_command_line_with_none(engine: Engine) -> None:
    insert = "INSERT INTO runs (job, queue, args, max_attempts) VALUES ('a.b', 'q', '{}', 1) RETURNING id"
    first, second = rows.one(engine, insert), rows.one(engine, insert)
    with engine.begin() as connection:
        actions.move(connection, CANCEL, Selection(ids=(first,)), by=Actor("kim", Role.OPERATOR), reason="why not")
        actions.move(connection, CANCEL, Selection(ids=(second,)), by="root")
    kept = [(line.actor, line.role, line.details) for line in audit(engine)]
    assert kept == [("kim", "operator", {"ids": [first], "reason": "why not"}), ("root", None, {"ids": [second]})]
    assert rows.run_row(engine, first).error == "cancelled by kim before it ran"
