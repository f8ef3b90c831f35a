"""The command line inside this process: quick enough to ask many questions."""

import io
import os
import re
import subprocess
from collections.abc import Mapping
from contextlib import redirect_stderr, redirect_stdout
from unittest.mock import patch

from workers.cli.app import answer

#: Words of what is configured in some shell around the tests and must not reach them.
OURS = re.compile(r"(DATABASE|REDIS|BROKER|ELASTICSEARCH|WAREHOUSE|STRIPE)_")


def asked(variables: Mapping[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    """Answer one command line in this environment; an empty variable counts as missing."""
    others = {name: value for name, value in os.environ.items() if not OURS.match(name)}
    given = {name: value for name, value in variables.items() if value}
    out, err = io.StringIO(), io.StringIO()
    with patch.dict(os.environ, others | given, clear=True), redirect_stdout(out), redirect_stderr(err):
        code = answer(list(arguments))
    return subprocess.CompletedProcess(arguments, code, out.getvalue(), err.getvalue())
