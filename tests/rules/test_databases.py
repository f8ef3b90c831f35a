"""The database of a test is as good as new, whatever the one before it did."""

import psycopg

from tests.databases import Databases


def test_numbers_begin_anew_also_where_the_rows_were_vacuumed_away(databases: Databases) -> None:
    name, url = databases.lend()
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("INSERT INTO queues (name) VALUES ('kept')")
        connection.execute("INSERT INTO processes (kind, host, pid, version) VALUES ('worker', 'h', 1, '0')")
        connection.execute("DELETE FROM processes")
        connection.execute("VACUUM (TRUNCATE) processes")
        assert connection.execute("SELECT pg_relation_size('processes')").fetchone() == (0,)
    databases.take_back(name, url)
    name, url = databases.lend()
    with psycopg.connect(url, autocommit=True) as connection:
        made = "INSERT INTO processes (kind, host, pid, version) VALUES ('worker', 'h', 1, '0') RETURNING id"
        assert connection.execute(made).fetchone() == (1,)
        assert connection.execute("SELECT count(*) FROM queues").fetchone() == (0,)
    databases.take_back(name, url)
