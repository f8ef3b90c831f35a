"""How Alembic runs our migrations: on the connection it was handed, in one transaction.

Only processes read the environment, so the connection comes from `headrace migrate`, by way of `models.migrations`.
"""

from alembic import context

from models import Base

connection = context.config.attributes["connection"]
context.configure(connection=connection, target_metadata=Base.metadata, compare_server_default=True)
with context.begin_transaction():
    context.run_migrations()
