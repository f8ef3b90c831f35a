"""The command line as a process that begins at once, so that many questions can be asked.

Each answer comes from a process of its own, as an operator's does. It is a copy of one that has read all of our code
and nothing else: reading it is most of what a start costs, and what a test defined or configured in this process is
not in there.
"""

import multiprocessing
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

from workers.cli.app import main

#: Words of what is configured in some shell around the tests and must not reach them.
OURS = re.compile(r"(DATABASE|REDIS|BROKER|ELASTICSEARCH|WAREHOUSE|STRIPE)_")
#: Seconds one answer may take on a busy machine.
PATIENCE = 120

READ = multiprocessing.get_context("forkserver")
READ.set_forkserver_preload([__name__, "elasticsearch"])


def asked(variables: Mapping[str, str], *arguments: str) -> "subprocess.CompletedProcess[str]":
    """Answer one command line in this environment; an empty variable counts as missing.

    Raises:
        subprocess.TimeoutExpired: If it takes too long.
    """
    others = {name: value for name, value in os.environ.items() if not OURS.match(name)}
    environment = others | {name: value for name, value in variables.items() if value}
    with TemporaryDirectory() as folder:
        out, err = Path(folder, "out"), Path(folder, "err")
        process = READ.Process(target=_answer, args=(arguments, environment, out, err), daemon=True)
        process.start()
        process.join(PATIENCE)
        if process.exitcode is None:
            process.kill()
            raise subprocess.TimeoutExpired(["headrace", *arguments], PATIENCE)
        return subprocess.CompletedProcess(arguments, process.exitcode, out.read_text(), err.read_text())


def _answer(arguments: tuple[str, ...], environment: dict[str, str], out: Path, err: Path) -> None:
    for path, stream in ((out, sys.stdout), (err, sys.stderr)):
        with path.open("wb") as file:
            os.dup2(file.fileno(), stream.fileno())
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = ["headrace", *arguments]
    main()
