"""What the documents point to exists: files, headings, commands, make targets, snippets that can be run."""

import re
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import typer

from tests.docs import documents
from tests.docs.documents import DOCUMENTS, ROOT
from workers.cli.app import app

every_document = pytest.mark.parametrize("document", DOCUMENTS, ids=documents.name)


@every_document
def test_links_and_images_lead_somewhere(document: Path) -> None:
    local = [link for link in documents.links(document) if not link.startswith("https://")]
    missing = [link for link in local if not _exists(document, link)]
    assert missing == []


@every_document
def test_every_command_that_is_mentioned_exists(document: Path) -> None:
    mentioned = [command.line for command in documents.commands(document)] + documents.code_words(document)
    unknown = [line for line in mentioned if re.match(r"headrace [a-z]", line) and not _is_known(line)]
    assert unknown == []


@every_document
def test_every_make_target_that_is_mentioned_exists(document: Path) -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    written = {target for command in documents.commands(document) for target in command.make_targets}
    spoken = {word.removeprefix("make ") for word in documents.code_words(document) if word.startswith("make ")}
    assert written | spoken <= targets


@every_document
def test_every_file_of_ours_that_is_named_exists(document: Path) -> None:
    named = [word for word in documents.code_words(document) if re.fullmatch(r"[a-z_]+/[\w/]+\.py", word)]
    named = [
        word
        for word in named
        if word not in {"jobs/labels.py", "integrations/carrier.py", "integrations/depot.py", "jobs/depot.py"}
    ]
    assert [word for word in named if not (ROOT / word).is_file()] == []


def test_the_examples_in_the_readme_can_be_imported() -> None:
    snippets = documents.blocks(ROOT / "README.md", "python")
    assert len(snippets) == 3
    for snippet in snippets:
        done = subprocess.run([sys.executable, "-c", snippet], cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


def test_every_decision_is_listed_once_and_in_order() -> None:
    folder = ROOT / "docs" / "decisions"
    pages = sorted(page.name for page in folder.glob("[0-9]*.md"))
    assert documents.links(folder / "README.md") == pages
    assert [int(page[:4]) for page in pages] == list(range(1, len(pages) + 1))


def test_every_decision_says_what_was_chosen_and_what_was_refused() -> None:
    for page in (ROOT / "docs" / "decisions").glob("[0-9]*.md"):
        assert documents.headings(page)[1:] == ["Context", "Choice", "Refused", "Consequence"], page.name


def _exists(document: Path, link: str) -> bool:
    path, _, anchor = link.partition("#")
    target = (document.parent / path).resolve() if path else document
    return target.exists() and (not anchor or anchor in documents.anchors(target))


@cache
def _command_line() -> Any:
    return typer.main.get_command(app)


def _is_known(line: str) -> bool:
    command = _command_line()
    for word in line.split()[1:]:
        subcommands = getattr(command, "commands", None)
        if subcommands is None:
            return True
        if word not in subcommands:
            return False
        command = subcommands[word]
    return True
