"""A database of its own for each test, without the quarter of a second of processor that a new one costs.

What a test leaves is emptied and handed to the next one under another name, so that nobody who still knows the old one
finds it. A database whose tables a test has changed, or that cannot be emptied at once, is dropped instead.
"""

import os
from itertools import count

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo

from sandbox.postgres import Postgres

LEAVE = """
    SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid()
"""
#: Everything about the tables that a test could have changed.
SHAPE = """
    SELECT md5(string_agg(line, ';' ORDER BY line)) FROM (
        SELECT concat_ws(' ', relname, relkind, reloptions, pg_get_expr(indpred, indrelid))
        FROM pg_class LEFT JOIN pg_index ON indexrelid = pg_class.oid WHERE relnamespace = 'public'::regnamespace
        UNION ALL
        SELECT concat_ws(' ', attrelid::regclass, attname, atttypid, attnotnull, pg_get_expr(adbin, adrelid))
        FROM pg_attribute LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum
        WHERE attrelid IN (SELECT oid FROM pg_class WHERE relnamespace = 'public'::regnamespace) AND attnum > 0
        UNION ALL
        SELECT concat_ws(' ', conrelid::regclass, pg_get_constraintdef(oid)) FROM pg_constraint
        WHERE connamespace = 'public'::regnamespace
        UNION ALL
        SELECT concat_ws(' ', proname, prosrc) FROM pg_proc WHERE pronamespace = 'public'::regnamespace
        UNION ALL
        SELECT concat_ws(' ', tgrelid::regclass, tgname, tgenabled, tgtype) FROM pg_trigger WHERE NOT tgisinternal
        UNION ALL
        SELECT version_num FROM alembic_version
    ) AS shape (line)
"""
#: Those that something was written to; of one whose rows are gone and vacuumed away, the numbers of its rows tell.
TABLES = """
    SELECT oid::regclass::text FROM pg_class t
    WHERE relnamespace = 'public'::regnamespace AND relkind = 'r' AND relname <> 'alembic_version'
        AND (pg_relation_size(oid) > 0 OR EXISTS (
            SELECT 1 FROM pg_depend d JOIN pg_sequence s ON s.seqrelid = d.objid
            WHERE d.refobjid = t.oid AND d.deptype = 'i' AND pg_sequence_last_value(s.seqrelid) IS NOT NULL))
"""

_numbers = count(1)


class Databases:
    """Databases for one test after the other, all copies of one.

    Args:
        postgres: The server.
        template: What they are copied from; nobody may be connected to it.
    """

    def __init__(self, postgres: Postgres, template: str) -> None:
        self._postgres = postgres
        self._template = template
        self._shape = ""
        self._clean: str | None = None

    def lend(self) -> tuple[str, str]:
        """Return the name and the address of an empty database."""
        name, clean = f"test_{os.getpid()}_{next(_numbers)}", self._clean
        self._clean = None
        if clean is not None:
            try:
                return name, self._renamed(clean, name)
            except psycopg.Error:  # somebody of an earlier test came back to it
                self._postgres.drop_database(clean)
        url = self._postgres.create_database(name, template=self._template)
        if not self._shape:
            with psycopg.connect(url) as connection:
                self._shape = str(_one(connection, SHAPE))
        return name, url

    def _renamed(self, old: str, new: str) -> str:
        rename = sql.SQL("ALTER DATABASE {} RENAME TO {}").format(sql.Identifier(old), sql.Identifier(new))
        with psycopg.connect(make_conninfo(self._postgres.url, dbname="postgres"), autocommit=True) as connection:
            connection.execute(rename)
        return self._postgres.url.rpartition("/")[0] + "/" + new

    def take_back(self, name: str, url: str) -> None:
        """Empty a database for the next test, or drop it."""
        try:
            with psycopg.connect(url, autocommit=True) as connection:
                connection.execute(LEAVE)
                if self._clean is None and _one(connection, SHAPE) == self._shape:
                    _empty(connection)
                    self._clean = name
        except psycopg.Error:
            self._clean = None
        if self._clean != name:
            self._postgres.drop_database(name)


def _one(connection: "psycopg.Connection[tuple[object, ...]]", query: str) -> object:
    row = connection.execute(query).fetchone()
    return row[0] if row else None


def _empty(connection: "psycopg.Connection[tuple[object, ...]]") -> None:
    connection.execute("SET lock_timeout = '2s'")
    tables = [str(name) for (name,) in connection.execute(TABLES)]
    if tables:
        named = sql.SQL(", ").join(sql.SQL(name) for name in tables)  # quoted by Postgres itself
        connection.execute(sql.SQL("TRUNCATE {} RESTART IDENTITY CASCADE").format(named))
