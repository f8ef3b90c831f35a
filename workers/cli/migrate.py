"""Bringing the tables to the newest revision. It needs nothing but the address of the database."""

import typer
from sqlalchemy import create_engine

from models import migrations
from workers import settings
from workers.runtime import CONNECT_TIMEOUT


def migrate() -> None:
    """Bring the database to the newest revision; says from which to which."""
    database = settings.database()
    engine = create_engine(
        database.sqlalchemy_url, connect_args={**database.connect_args, "connect_timeout": CONNECT_TIMEOUT}
    )
    with engine.begin() as connection:
        before, after = migrations.upgrade(connection)
    engine.dispose()
    if before == after:
        typer.echo(f"the database is at {after}, the newest revision: nothing to do")
    else:
        typer.echo(f"the database went from {before or 'no tables'} to {after}")
