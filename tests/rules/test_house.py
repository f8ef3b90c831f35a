"""The house rules that a machine can check: sizes, names, stories, and who imports whom."""

import ast
import re
import shlex
import shutil
import statistics
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import jobs
from workers import worker

ROOT = Path(__file__).parent.parent.parent
PACKAGES = ("integrations", "jobs", "models", "sandbox", "web", "workers")
FORBIDDEN = {"util", "utils", "helper", "helpers", "manager", "managers", "common", "misc", "base_utils"}
NAMES = Path(__file__).parent / "job_names.txt"
PROCESSES = dict(line.split(": ", 1) for line in (ROOT / "Procfile").read_text().splitlines() if line)


def sources() -> list[Path]:
    """Every module of the product; revisions of the tables are history, not code that anybody maintains."""
    found = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]
    return [path for path in [*found, ROOT / "scheduler.py"] if "versions" not in path.parts]


SOURCES = sources()
IDS = [str(path.relative_to(ROOT)) for path in SOURCES]
TREES = {path: ast.parse(path.read_text()) for path in SOURCES}


def functions(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Yield the name and the length of every function, counted without its docstring."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            body = node.body[1:] if ast.get_docstring(node) is not None else node.body
            said = node.body[0].end_lineno - node.body[0].lineno + 1 if len(body) < len(node.body) else 0  # type: ignore[operator]
            yield node.name, (node.end_lineno or node.lineno) - node.lineno + 1 - said


LENGTHS = {f"{path.relative_to(ROOT)}:{name}": size for path in SOURCES for name, size in functions(TREES[path])}


def imported(tree: ast.AST) -> set[str]:
    """Return the first names of what a module imports."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {name.name.partition(".")[0] for name in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.partition(".")[0])
    return found


def test_the_counting_of_lines_leaves_out_the_docstring_only() -> None:
    tree = ast.parse('def f():\n    """Say.\n\n    More.\n    """\n    a = 1\n\n    return a\n\n\ndef g(): pass\n')
    assert list(functions(tree)) == [("f", 4), ("g", 1)]


def test_no_function_is_longer_than_fifty_lines() -> None:
    assert {name: size for name, size in LENGTHS.items() if size > 50} == {}


def test_nine_functions_in_ten_have_at_most_twenty_five_lines_and_the_median_seven() -> None:
    sizes = sorted(LENGTHS.values())
    assert sum(size <= 25 for size in sizes) >= 0.9 * len(sizes)
    assert statistics.median(sizes) <= 7


@pytest.mark.parametrize("path", SOURCES, ids=IDS)
def test_a_module_has_at_most_four_hundred_lines_and_begins_with_its_story(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 400
    story = ast.get_docstring(TREES[path]) or ""
    assert len(story) >= 20
    assert story.splitlines()[0].rstrip().endswith((".", "?", ":", ";", ","))


@pytest.mark.parametrize("path", SOURCES, ids=IDS)
def test_a_module_is_named_after_a_thing_of_ours(path: Path) -> None:
    parts = {part.strip("_") for part in path.relative_to(ROOT).with_suffix("").parts}
    assert not parts & FORBIDDEN


@pytest.mark.parametrize("path", SOURCES, ids=IDS)
def test_nobody_imports_the_scheduler_and_only_the_sandbox_itself_the_sandbox(path: Path) -> None:
    names = imported(TREES[path])
    assert "scheduler" not in names
    assert "sandbox" not in names or path.relative_to(ROOT).parts[0] == "sandbox"


def test_a_job_keeps_its_name_because_runs_in_the_database_carry_it() -> None:
    """Renamed on purpose? Migrate the rows of `runs`, `schedules` and `slots`, then change `job_names.txt`."""
    ours = [name for name, job in jobs.load().items() if job.function.__module__.startswith("jobs.")]
    assert sorted(ours) == NAMES.read_text().split()


def test_every_kind_of_process_has_a_command_that_exists() -> None:
    assert list(PROCESSES) == ["release", "web", "scheduler", "relay", "worker"]
    for command in PROCESSES.values():
        program, *arguments = shlex.split(command)
        assert shutil.which(program, path=str(Path(sys.executable).parent)), program
        if program == "python":
            assert arguments[0] == "-m"  # never by file path: two of our modules carry their vendor's name
            module = ROOT.joinpath(*arguments[1].split("."))
            main = module / "__main__.py" if module.is_dir() else module.with_suffix(".py")
            assert re.search(r'__name__ == "__main__"|^main\(\)', main.read_text(), re.MULTILINE), main


def test_the_workers_of_the_procfile_serve_every_queue() -> None:
    named = re.search(r"--queues[= ](\S+)", PROCESSES["worker"])
    used = {job.queue for job in jobs.load().values()}
    assert set(worker.chosen(named[1] if named else "")) == used
