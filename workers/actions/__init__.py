"""What an operator may do: the same actions for the command line and the pages.

Each action takes a connection inside a transaction of the caller and writes its line of the audit there too: what
happened and who did it are kept together or not at all. An action names the state it leaves, so two operators who act
at once do it once. What cannot be done is refused with a sentence, never half done.

    with engine.begin() as connection:
        moved = move(connection, RETRY, Selection(states=(State.DEAD,), job="warehouse.sync"), by="kim")
"""

from workers.actions._alerts import ALL, silence, silence_name, try_alerts, unsilence
from workers.actions._asking import enqueue, fire
from workers.actions._audit import Actor, Refused, record
from workers.actions._events import EventSelection, Replayed, backfill, replay, replayable
from workers.actions._groups import Group, groups, on_the_broker
from workers.actions._holds import HOLDS, RAMP, Hold, is_paused, keys_of, limit, pause, resume
from workers.actions._imports import PIECE, Imported, import_stock, try_import
from workers.actions._moves import (
    CANCEL,
    DISCARD,
    RESTORE,
    RETRY,
    Move,
    Moved,
    candidates,
    move,
    prioritise,
)
from workers.actions._redrives import Care, begin_redrive, redrives, stop_redrive
from workers.actions._rewind import Estimate, check_rewind, estimate, find_stream, rewind
from workers.actions._schedules import Planned, add, as_declared, change, remove
from workers.actions._selection import Selection
from workers.actions._upstreams import reset_upstream
from workers.actions._users import (
    add_user,
    disable_user,
    enable_user,
    find_user,
    give_password,
    give_role,
    is_called,
    issue_token,
    revoke_token,
)

__all__ = [
    "ALL",
    "CANCEL",
    "DISCARD",
    "HOLDS",
    "PIECE",
    "RAMP",
    "RESTORE",
    "RETRY",
    "Actor",
    "Care",
    "Estimate",
    "EventSelection",
    "Group",
    "Hold",
    "Imported",
    "Move",
    "Moved",
    "Planned",
    "Refused",
    "Replayed",
    "Selection",
    "add",
    "add_user",
    "as_declared",
    "backfill",
    "begin_redrive",
    "candidates",
    "change",
    "check_rewind",
    "disable_user",
    "enable_user",
    "enqueue",
    "estimate",
    "find_stream",
    "find_user",
    "fire",
    "give_password",
    "give_role",
    "groups",
    "import_stock",
    "is_called",
    "is_paused",
    "issue_token",
    "keys_of",
    "limit",
    "move",
    "on_the_broker",
    "pause",
    "prioritise",
    "record",
    "redrives",
    "remove",
    "replay",
    "replayable",
    "reset_upstream",
    "resume",
    "revoke_token",
    "rewind",
    "silence",
    "silence_name",
    "stop_redrive",
    "try_alerts",
    "try_import",
    "unsilence",
]
