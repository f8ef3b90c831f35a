"""Can the invariants fail? Each entry breaks a settled ledger in one way, and names the invariant that must tell.

Every chaos run ends with all of them, each in a transaction that is rolled back: a check that a broken ledger passes is
no check, and then the run fails as well.
"""

from dataclasses import dataclass

from sqlalchemy import Connection, text

from tests.chaos.invariants import UNDONE, violations

_SUCCEEDED = "(SELECT max(r.id) FROM runs r WHERE r.state = 'succeeded' AND r.args ? 'mark')"
_FIRST_OF = "(SELECT min(id) FROM runs WHERE job = '{}' AND state = 'succeeded')"


@dataclass(frozen=True)
class Sabotage:
    """One way to break the ledger."""

    statement: str
    #: Must report it.
    invariant: str


SABOTAGES = {
    "lose-run": Sabotage(f"DELETE FROM runs WHERE id = {_SUCCEEDED}", "every committed run is there"),
    "leave-run": Sabotage(
        f"UPDATE runs SET state = 'waiting' WHERE id = {_SUCCEEDED}", "every run is in a final state"
    ),
    "lose-effect": Sabotage(
        f"DELETE FROM effects WHERE run_id = {_SUCCEEDED}", "every run that succeeded left its effect"
    ),
    "invent-effect": Sabotage(
        "INSERT INTO effects VALUES ('invented', 0, 1)", "every effect belongs to a committed run"
    ),
    "run-undone": Sabotage(
        f"INSERT INTO tries VALUES ('{UNDONE}1', 0, 1)", "nothing of a transaction that was rolled back ran"
    ),
    "finish-twice": Sabotage(
        f"""INSERT INTO attempts (run_id, number, started_at, outcome)
            SELECT id, attempt + 1, started_at, 'succeeded' FROM runs WHERE id = {_SUCCEEDED}""",
        "no run succeeded twice",
    ),
    "execute-twice": Sabotage("INSERT INTO tries SELECT * FROM tries LIMIT 1", "no attempt was executed twice"),
    "forget-attempt": Sabotage(f"DELETE FROM attempts WHERE run_id = {_SUCCEEDED}", "every attempt is recorded"),
    "let-zombie-win": Sabotage(
        f"UPDATE attempts SET outcome = 'lost' WHERE run_id = {_SUCCEEDED}", "a run is what its last attempt came to"
    ),
    "die-silently": Sabotage(
        f"UPDATE runs SET state = 'dead', error = NULL WHERE id = {_SUCCEEDED}", "every dead run says why"
    ),
    "begin-early": Sabotage(
        "UPDATE asked SET not_before = 'infinity' WHERE not_before IS NOT NULL", "no run began before it was due"
    ),
    "exceed-limit": Sabotage(
        """UPDATE attempts SET started_at = started_at - interval '1 day'
            WHERE run_id IN (SELECT id FROM runs WHERE job = 'work.shared')""",
        "no limit was exceeded",
    ),
    "overtake": Sabotage(
        f"""UPDATE attempts SET finished_at = finished_at + interval '1 day'
            WHERE run_id = {_FIRST_OF.format("work.serial")}""",
        "ordered runs succeeded in their order",
    ),
    "skip-slot": Sabotage(
        """DELETE FROM slots WHERE id = (
            SELECT id FROM slots WHERE schedule = 'work.tick' ORDER BY fire_at OFFSET 1 LIMIT 1)""",
        "every slot is there, with one outcome",
    ),
    "leave-key": Sabotage(
        f"UPDATE runs SET unique_key = 'left' WHERE id = {_SUCCEEDED}", "no unique key is left behind"
    ),
}


def unnoticed(connection: Connection) -> list[str]:
    """Return the sabotages that no invariant reports; the ledger is as before afterwards."""
    return [name for name in SABOTAGES if not _noticed(connection, name)]


def commit(connection: Connection, name: str) -> None:
    """Break the ledger, for once not to be undone."""
    connection.execute(text(SABOTAGES[name].statement))


def _noticed(connection: Connection, name: str) -> bool:
    with connection.begin_nested() as savepoint:
        commit(connection, name)
        reported = {violation.invariant for violation in violations(connection)}
        savepoint.rollback()
    return SABOTAGES[name].invariant in reported
