"""What an operator may do: the same actions for the command line and the pages.

Each action takes a connection inside a transaction of the caller and writes its line of the audit there too: what
happened and who did it are kept together or not at all. An action names the state it leaves, so two operators who act
at once do it once. What cannot be done is refused with a sentence, never half done.

    with engine.begin() as connection:
        moved = move(connection, RETRY, Selection(states=(State.DEAD,), job="warehouse.sync"), by="kim")
"""

from workers.actions._asking import enqueue, fire
from workers.actions._audit import Refused, record
from workers.actions._events import EventSelection, Replayed, backfill, replay, replayable
from workers.actions._holds import HOLDS, RAMP, Hold, is_paused, keys_of, limit, pause, resume
from workers.actions._moves import CANCEL, DISCARD, RETRY, Move, Moved, candidates, move
from workers.actions._rewind import check_rewind, find_stream, rewind
from workers.actions._selection import Selection

__all__ = [
    "CANCEL",
    "DISCARD",
    "HOLDS",
    "RAMP",
    "RETRY",
    "EventSelection",
    "Hold",
    "Move",
    "Moved",
    "Refused",
    "Replayed",
    "Selection",
    "backfill",
    "candidates",
    "check_rewind",
    "enqueue",
    "find_stream",
    "fire",
    "is_paused",
    "keys_of",
    "limit",
    "move",
    "pause",
    "record",
    "replay",
    "replayable",
    "resume",
    "rewind",
]
