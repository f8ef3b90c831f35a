"""The documents as data: their commands, snippets, links, headings and tables.

In a fenced block marked `sh` a line that begins with `$ ` is a command that a test runs. It must end with exit code 0,
or with another one that a trailing comment names: `# exits 1`. A line without `$ ` is for other machines and is not
run. `RUN_ID` and `EVENT_ID` in a command stand for an ended run and a received event.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
DOCUMENTS = sorted([ROOT / "README.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").rglob("*.md")])

_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
_EXITS = re.compile(r"# exits (\d+)$")
_CODE = re.compile(r"`([^`]+)`")


@dataclass(frozen=True)
class Command:
    """A line to type, and the exit code it promises."""

    line: str
    code: int = 0

    @property
    def make_targets(self) -> list[str]:
        """Targets, if it is a call of make."""
        words = self.line.split()
        return words[1:] if words[0] == "make" else []


def name(document: Path) -> str:
    """Return a document's path as readers know it."""
    return str(document.relative_to(ROOT))


def blocks(document: Path, language: str) -> list[str]:
    """Return the fenced blocks marked with a language."""
    return [body for marked, body in _BLOCK.findall(document.read_text()) if marked == language]


def commands(document: Path) -> list[Command]:
    """Return the lines that begin with `$ `, in order."""
    lines = [line for block in blocks(document, "sh") for line in block.splitlines() if line.startswith("$ ")]
    return [_command(line.removeprefix("$ ")) for line in lines]


def prose(document: Path) -> str:
    """Return a document without its fenced blocks."""
    return _BLOCK.sub("", document.read_text())


def code_words(document: Path) -> list[str]:
    """Return what stands between backticks in running text."""
    return [" ".join(word.split()) for word in _CODE.findall(prose(document))]


def links(document: Path) -> list[str]:
    """Return the targets of links and images."""
    return _LINK.findall(prose(document))


def headings(document: Path) -> list[str]:
    """Return the headings as written."""
    return _HEADING.findall(prose(document))


def anchors(document: Path) -> set[str]:
    """Return the anchors that headings get when the document is shown."""
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings(document)}


def rows(document: Path, first_column: str) -> Iterator[list[str]]:
    """Yield the cells of the table whose first column has this title."""
    inside = False
    for line in document.read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if not line.startswith("|"):
            inside = False
        elif cells[0] == first_column:
            inside = True
        elif inside and not set(cells[0]) <= set("-"):
            yield cells


def _command(line: str) -> Command:
    found = _EXITS.search(line)
    return Command(line[: found.start()].strip(), int(found[1])) if found else Command(line.strip())
