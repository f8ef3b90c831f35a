"""Every command that the documents show is typed into a running whole, in the order in which it is read.

What the README shows goes through a shell. A plain call of `headrace` in the longer documents is answered by a process
that has read our code already, without the time that takes.
"""

import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from sandbox.stage import Stage
from sandbox.up import written
from tests.docs import documents
from tests.docs.documents import DOCUMENTS, Command
from tests.workers.asking import asked, told

WITH_COMMANDS = [document for document in DOCUMENTS if documents.commands(document)]
#: Words of commands that only look: such a line is typed once, however many documents show it.
LOOKING = {"doctor", "jobs", "processes", "audit", "list", "show", "status", "slots", "preview"}
#: What only a shell understands.
PUNCTUATION = set("|&;<>$()`*?[]{}~")
#: Seconds one command may take on a busy machine.
PATIENCE = 120


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    """Everything running, synced and settled, with some events received."""
    with Stage.start("documents", products=120, stores=2, durable=False) as running:
        running.start_all()
        told(running.environment, "run", "warehouse.sync", "--wait")
        running.upstreams.admin.sell(20, wait_s=PATIENCE)
        running.settle()
        yield running


@pytest.fixture
def checkout(stage: Stage, tmp_path: Path) -> Iterator[Path]:
    """A folder that looks as the documents say while `make up` runs, beside any real one."""
    (tmp_path / ".sandbox").mkdir()
    (tmp_path / ".venv").symlink_to(Path(sys.executable).parent.parent)
    with written(stage.environment, tmp_path / ".sandbox" / "up.env"):
        yield tmp_path


@pytest.fixture(scope="module")
def seen() -> set[str]:
    """Lines that only look and were typed already."""
    return set()


@pytest.mark.timeout(600)
@pytest.mark.parametrize("document", WITH_COMMANDS, ids=documents.name)
def test_every_command_of_the_document_does_what_it_says(
    document: Path, stage: Stage, checkout: Path, seen: set[str]
) -> None:
    lines = [command for command in documents.commands(document) if not command.make_targets]
    ask = _type if document.name == "README.md" else _ask
    failures = [failure for command in lines if command.line not in seen and (failure := ask(command, stage, checkout))]
    seen |= {command.line for command in lines if LOOKING & set(command.line.split()[1:3])}
    assert failures == []


def _ask(command: Command, stage: Stage, folder: Path) -> str | None:
    program, *arguments = shlex.split(_with_ids(command.line, stage))
    named = any((folder / word).is_file() for word in arguments)  # what a line above has written
    if program != "headrace" or named or PUNCTUATION & set(command.line):
        return _type(command, stage, folder)
    return _failure(command, asked(stage.environment, *arguments))


def _type(command: Command, stage: Stage, folder: Path) -> str | None:
    done = subprocess.run(
        ["bash", "-c", _with_ids(command.line, stage)],
        cwd=folder,
        env={"PATH": f"{Path(sys.executable).parent}{os.pathsep}/usr/bin:/bin", "LC_ALL": "C.UTF-8"}
        | dict(stage.environment),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    return _failure(command, done)


def _failure(command: Command, done: "subprocess.CompletedProcess[str]") -> str | None:
    if done.returncode == command.code:
        return None
    return f"{command.line}: exit code {done.returncode}, {(done.stderr or done.stdout).strip()}"


def _with_ids(line: str, stage: Stage) -> str:
    ids = {
        "RUN_ID": stage.number("SELECT max(id) FROM runs WHERE event_id IS NOT NULL"),
        "EVENT_ID": stage.number("SELECT max(id) FROM events"),
    }
    for placeholder, value in ids.items():
        line = line.replace(placeholder, str(value))
    return line
