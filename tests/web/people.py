"""Users of tests: what they come with is known, and their rows are written directly."""

from sqlalchemy import Connection, text

from workers import tickets

#: Secrets by role, each good as a token and as a cookie.
SECRETS = {role: f"hr_of_the_{role}_in_the_tests" for role in ("viewer", "operator", "admin")}
#: Argon2id of `PASSWORD`, as `workers.passwords.keep` made it once.
PASSWORD = "a mill and its race"
KEPT = "$argon2id$v=19$m=19456,t=2,p=1$FY4GhhATfXYcN5aHJH6yjg$P/sojArzqVFqE+IMTNTSj+Zylm8EPkEowV+rmiQGEws"

ADD = text("""
    WITH made AS (INSERT INTO users (name, role, password) VALUES (:name, :role, :kept) RETURNING id),
    token AS (INSERT INTO api_tokens (user_id, purpose, digest) SELECT id, 'tests', :digest FROM made)
    INSERT INTO sign_ins (user_id, digest, expires_at) SELECT id, :digest, now() + interval '1 hour' FROM made
""")


def admit(connection: Connection) -> None:
    """Add a user of each role, named after it, with a token and a browser that is signed in."""
    for role, secret in SECRETS.items():
        values = {"name": role, "role": role, "kept": KEPT, "digest": tickets.digest(secret)}
        connection.execute(ADD, values)
