"""The command line as an operator uses it, each answer by a process of its own; see `tests.copies`."""

import os
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.copies import Copy

#: Words of what is configured in some shell around the tests and must not reach them.
OURS = re.compile(r"(DATABASE|REDIS|BROKER|ELASTICSEARCH|WAREHOUSE|STRIPE|ALERT|SMTP)_")
#: Seconds one answer may take on a busy machine.
PATIENCE = 120


def asked(variables: Mapping[str, str], *arguments: str) -> "subprocess.CompletedProcess[str]":
    """Answer one command line in this environment; an empty variable counts as missing.

    Raises:
        subprocess.TimeoutExpired: If it takes too long.
    """
    others = {name: value for name, value in os.environ.items() if not OURS.match(name)}
    environment = others | {name: value for name, value in variables.items() if value}
    with TemporaryDirectory() as folder:
        out, err = Path(folder, "out"), Path(folder, "err")
        code = Copy("workers", arguments, out=out, err=err, environment=environment).wait(PATIENCE)
        return subprocess.CompletedProcess(arguments, code, out.read_text(), err.read_text())


def told(variables: Mapping[str, str], *arguments: str) -> str:
    """Answer one command line that must succeed; return what it printed."""
    done = asked(variables, *arguments)
    assert done.returncode == 0, f"headrace {' '.join(arguments)}: {done.stderr or done.stdout}"
    return done.stdout
