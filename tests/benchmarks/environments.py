"""Where the peers live: an environment of their own below `.sandbox`, installed when it is first needed.

Both are pinned by files beside this one, and made anew when those change. Bare Dramatiq needs none: it is the library
that we stand on, so the very same version is at hand. An install that fails is a line of the tables, not their end.
"""

import hashlib
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

from sandbox.fleet import ROOT

HERE = Path(__file__).parent
HOME = ROOT / ".sandbox" / "benchmarks"
PYPI = HERE / "peers" / "requirements.txt"
NPM = (HERE / "node" / "package.json", HERE / "node" / "package-lock.json", HERE / "node" / ".npmrc")
#: Seconds that an install may take.
PATIENCE = 600


class NotInstalled(RuntimeError):  # noqa: N818 - reads as what it is in a message
    """An environment could not be made; the message is the installer's last word."""


@cache
def python() -> Path:
    """Return the interpreter of the peers on PyPI.

    Raises:
        NotInstalled: If they cannot be installed.
    """
    folder = HOME / f"python-{_digest(PYPI)}"
    if not (folder / "ready").exists():
        _run(sys.executable, "-m", "venv", str(folder))
        _run(str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", "-r", str(PYPI))
        (folder / "ready").touch()
    return folder / "bin" / "python"


@cache
def node_modules() -> Path:
    """Return the folder of the peers on npm.

    Raises:
        NotInstalled: If they cannot be installed.
    """
    folder = HOME / f"node-{_digest(*NPM)}"
    if not (folder / "ready").exists():
        folder.mkdir(parents=True, exist_ok=True)
        for file in NPM:
            shutil.copy(file, folder)
        _run("npm", "ci", cwd=folder)
        (folder / "ready").touch()
    return folder / "node_modules"


def _digest(*files: Path) -> str:
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:12]


def _run(*command: str, cwd: Path = HERE) -> None:
    try:
        done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False, timeout=PATIENCE)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NotInstalled(f"not installed: {error}") from None
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip() or f"exit code {done.returncode}").splitlines()
        raise NotInstalled(f"not installed: {said[-1]}")
