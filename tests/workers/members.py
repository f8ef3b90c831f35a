"""Real processes of ours on servers that a test may break."""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.copies import Copy


class Members:
    """The processes that one test started, each with a log of its own.

    Args:
        folder: Holds their logs.
        variables: What they read.
    """

    def __init__(self, folder: Path, variables: Mapping[str, str]) -> None:
        self._folder = folder
        self._variables = variables
        self._members: list[Copy] = []

    def start(self, module: str, *options: str) -> Copy:
        """Start `python -m module`."""
        log = self._folder / f"{module}-{len(self._members)}.log"
        member = Copy(module, options, out=log, environment=self._variables)
        self._members.append(member)
        return member

    def close(self) -> None:
        """Stop them all at the same time."""
        with ThreadPoolExecutor() as pool:
            list(pool.map(lambda member: member.stop(15), self._members))
