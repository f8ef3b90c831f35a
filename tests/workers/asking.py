"""The command line inside this process: quick enough to ask many questions."""

import io
import os
import re
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout

from workers.cli.app import answer

#: Words of what is configured in some shell around the tests and must not reach them.
OURS = re.compile(r"(DATABASE|REDIS|BROKER|ELASTICSEARCH|WAREHOUSE|STRIPE)_")


def asked(variables: Mapping[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    """Answer one command line in this environment; an empty variable counts as missing."""
    out, err = io.StringIO(), io.StringIO()
    with _environment(variables), redirect_stdout(out), redirect_stderr(err):
        code = answer(list(arguments))
    return subprocess.CompletedProcess(arguments, code, out.getvalue(), err.getvalue())


@contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    before = dict(os.environ)
    others = {name: value for name, value in before.items() if not OURS.match(name)}
    os.environ.clear()
    os.environ.update(others | {name: value for name, value in variables.items() if value})
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
