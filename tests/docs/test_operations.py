"""The runbook has a page for everything that /health may complain about."""

import ast
import re

from models import Kind
from tests.docs import documents
from tests.docs.documents import ROOT
from web import health

PAGE = ROOT / "docs" / "operations.md"


def _judged() -> set[str]:
    """Return the names of checks as web/health.py writes them: a name, or what stands before a changing part."""
    names = {*health._CALM, *health._CONSEQUENCES}
    for node in ast.walk(ast.parse((ROOT / "web" / "health.py").read_text())):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Check":
            names |= {_fixed_part(node.args[0])}
    return names - {""}


def _fixed_part(argument: ast.expr) -> str:
    if isinstance(argument, ast.JoinedStr):
        argument = argument.values[0]
    return str(argument.value).rstrip(":") if isinstance(argument, ast.Constant) else ""


def _explained() -> set[str]:
    """Return the names in the headings; a part in capitals stands for any name."""
    names = {found[1] for heading in documents.headings(PAGE) if (found := re.fullmatch(r"`([\w:]+)`", heading))}
    return {re.sub(r":[A-Z]+$", "", name) for name in names}


def test_every_line_of_health_is_explained() -> None:
    explained = _explained()
    families = {name.partition(":")[0] for name in explained}
    assert _judged() - explained - families == set()


def test_nothing_is_explained_that_health_never_says() -> None:
    assert _explained() - _judged() == set()


def test_the_names_were_really_found() -> None:
    assert {"postgres", "redis", "workers", "late", "index:drift", "dead"} <= _judged()


def test_every_kind_of_alert_is_explained() -> None:
    assert [row[0].strip("`") for row in documents.rows(PAGE, "alert")] == list(Kind)
