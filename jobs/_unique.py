"""Not the same work twice: which runs count as the same, for how long, and what a second enqueue does.

    Unique(by=("sku",))                                 one waiting run per sku; a second enqueue returns it
    Unique(during="unfinished")                         none with the same arguments beside a waiting or running one
    Unique(during="window", window=3600)                at most one an hour, whatever became of it
    Unique(by=("sku",), on_conflict="replace")          the waiting run gets the newer arguments
    Unique(by=("sku",), on_conflict="postpone",         debounce: each enqueue pushes the run back by `wait` seconds,
           wait=5, max_wait=60)                         but never beyond `max_wait` after the first

The key is a unique index, so fifty callers at one moment get one run. By default it guards only the wait: what changes
after a worker has taken the run needs a new run to see it.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

During = Literal["waiting", "unfinished", "window"]
OnConflict = Literal["return", "replace", "postpone"]


@dataclass(frozen=True)
class Unique:
    """When two runs of a job are one.

    Args:
        by: Arguments that make the difference; all of them when None.
        during: How long a run stands in the way of another.
        window: Seconds of the window, counted from the enqueue; only for `during="window"`.
        on_conflict: What a second enqueue does to the first run, as long as no worker has taken it.
        wait: Seconds that a run waits at least, so that more may join it.
        max_wait: Seconds after the first enqueue beyond which the run is not pushed back.

    Raises:
        ValueError: If they make no sense together; the message says why.
    """

    by: tuple[str, ...] | None = None
    during: During = "waiting"
    window: float = 0.0
    on_conflict: OnConflict = "return"
    wait: float = 0.0
    max_wait: float = 3600.0

    def __post_init__(self) -> None:
        if self.during not in get_args(During) or self.on_conflict not in get_args(OnConflict):
            raise ValueError(
                f"unique: choose `during` from {get_args(During)}, `on_conflict` from {get_args(OnConflict)}"
            )
        if (self.window > 0) != (self.during == "window"):
            raise ValueError('unique: `window` belongs to during="window", and is more than 0 seconds')
        if self.on_conflict == "postpone" and not 0 < self.wait <= self.max_wait:
            raise ValueError('unique: on_conflict="postpone" needs `wait`, more than 0 and at most `max_wait` seconds')

    def key(self, job: str, arguments: Mapping[str, Any]) -> str:
        """Return the key that equal runs share, short whatever the arguments are."""
        chosen = arguments if self.by is None else {name: arguments.get(name) for name in self.by}
        spelled = json.dumps(chosen, sort_keys=True, separators=(",", ":"), default=str)
        return f"{job} {hashlib.sha256(spelled.encode()).hexdigest()[:32]}"
