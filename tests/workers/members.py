"""Real processes of ours on servers that a test may break."""

import signal
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from sandbox._process import Child

ROOT = Path(__file__).parent.parent.parent


class Members:
    """The processes that one test started, each with a log of its own.

    Args:
        folder: Holds their logs.
        variables: What they read.
    """

    def __init__(self, folder: Path, variables: Mapping[str, str]) -> None:
        self._folder = folder
        self._variables = {"PYTHONUNBUFFERED": "1", **variables}
        self._members: list[Child] = []

    def start(self, module: str, *options: str) -> Child:
        """Start `python -m module`."""
        member = Child(
            f"{module}-{len(self._members)}",
            [sys.executable, "-m", module, *options],
            directory=self._folder,
            cwd=ROOT,
            environment=self._variables,
        )
        self._members.append(member)
        return member

    def close(self) -> None:
        """Stop them all at the same time."""
        with ThreadPoolExecutor() as pool:
            list(pool.map(lambda member: member.stop(signal.SIGTERM, 15), self._members))
