"""Users: who may sign in to the pages and call the API, and the tokens of their programs.

Whoever has the command line and the database's address needs no user; that is how the first one is made, and how
somebody who lost their password gets another one. A password or a token is shown once and never kept.
"""

import sys
from typing import Annotated, Any

import typer
from sqlalchemy import func, select

from models import ApiToken, Role, User
from workers import actions, tickets
from workers.cli.opening import acting, reading
from workers.cli.options import LARGEST_ID, AsJson, By, DryRun
from workers.cli.tables import print_json, show

app = typer.Typer(name="users", help="List, add, change and disable users; make and revoke tokens.")

Name = Annotated[str, typer.Argument(help="What they sign in with.", show_default=False)]
RoleOf = Annotated[Role, typer.Option("--role", help="viewer looks, operator acts, admin also decides who may.")]
NewRole = Annotated[Role, typer.Argument(help="viewer, operator or admin.", show_default=False)]
Number = Annotated[
    int, typer.Argument(min=1, max=LARGEST_ID, metavar="NUMBER", help="As `users tokens` lists it.", show_default=False)
]
Purpose = Annotated[str, typer.Option("--for", metavar="WHAT", help="What the token is for, in words.")]

LISTED = (User.id, User.name, User.role, User.created_at, User.disabled_at)
COLUMNS = {
    "name": lambda user: user["name"],
    "role": lambda user: user["role"],
    "added": lambda user: user["created_at"],
    "disabled": lambda user: user["disabled_at"],
}
TOKENS = (
    ApiToken.id.label("number"),
    User.name.label("user"),
    ApiToken.purpose,
    ApiToken.created_at,
    ApiToken.used_at,
    ApiToken.revoked_at,
)
TOKEN_COLUMNS = {
    "number": lambda token: str(token["number"]),
    "user": lambda token: token["user"],
    "for": lambda token: token["purpose"],
    "made": lambda token: token["created_at"],
    "last used": lambda token: token["used_at"],
    "revoked": lambda token: token["revoked_at"],
}


@app.command("list")
def list_users(*, as_json: AsJson = False) -> None:
    """List users."""
    with reading() as connection:
        rows = connection.execute(select(*LISTED).order_by(func.lower(User.name))).mappings().all()
    empty = "nobody can sign in yet: `headrace users add NAME --role admin`"
    show([dict(row) for row in rows], COLUMNS, as_json=as_json, empty=empty)


@app.command()
def add(name: Name, role: RoleOf, by: By, *, as_json: AsJson = False) -> None:
    """Add a user; without a terminal to ask for a password, one is drawn and printed once."""
    chosen = _chosen()
    drawn = "" if chosen else tickets.draw()
    with acting() as connection:
        actions.add_user(connection, name, role, _kept(chosen or drawn), by=by)
    _tell(f"user {name} may sign in as {role}", drawn, as_json=as_json, name=name, role=role)


@app.command()
def password(name: Name, by: By, *, as_json: AsJson = False) -> None:
    """Give a user another password, and end what they have open in browsers."""
    chosen = _chosen()
    drawn = "" if chosen else tickets.draw()
    with acting() as connection:
        actions.give_password(connection, name, _kept(chosen or drawn), by=by)
    _tell(f"user {name} has another password and is signed out everywhere", drawn, as_json=as_json, name=name)


@app.command()
def role(name: Name, role: NewRole, by: By, *, dry_run: DryRun = False) -> None:
    """Give a user another role, from their next request on."""
    if dry_run:
        _would(name, f"would be {role}")
        return
    with acting() as connection:
        changed = actions.give_role(connection, name, role, by=by)
    typer.echo(f"user {name} is {role} {'from now on' if changed else 'already: nothing was changed'}")


@app.command()
def disable(name: Name, by: By, *, dry_run: DryRun = False) -> None:
    """Let a user in no more; their browsers and tokens are shut out at once."""
    if dry_run:
        _would(name, "would be disabled")
        return
    with acting() as connection:
        changed = actions.disable_user(connection, name, by=by)
    typer.echo(f"user {name} is disabled" + ("" if changed else " already: nothing was changed"))


@app.command()
def enable(name: Name, by: By, *, dry_run: DryRun = False) -> None:
    """Let a user in again, with the password and the tokens they had."""
    if dry_run:
        _would(name, "would be enabled")
        return
    with acting() as connection:
        changed = actions.enable_user(connection, name, by=by)
    typer.echo(f"user {name} may come in" + ("" if changed else " already: nothing was changed"))


@app.command()
def tokens(*, as_json: AsJson = False) -> None:
    """List the tokens of all users, the newest first."""
    chosen = select(*TOKENS).join(User, User.id == ApiToken.user_id).order_by(ApiToken.id.desc())
    with reading() as connection:
        rows = connection.execute(chosen).mappings().all()
    empty = "no token was made yet: `headrace users token NAME --for WHAT`"
    show([dict(row) for row in rows], TOKEN_COLUMNS, as_json=as_json, empty=empty)


@app.command()
def token(name: Name, purpose: Purpose, by: By, *, as_json: AsJson = False) -> None:
    """Make a token with which a program acts as this user, and print it once."""
    with acting() as connection:
        made = actions.issue_token(connection, name, purpose, by=by)
    if as_json:
        print_json({"user": name, "for": purpose, "token": made})
    else:
        typer.echo(made)
        typer.echo("send it as `Authorization: Bearer ...`; it is not kept and cannot be shown again", err=True)


@app.command()
def revoke(number: Number, by: By) -> None:
    """Make a token useless at once."""
    with acting() as connection:
        changed = actions.revoke_token(connection, number, by=by)
    typer.echo(f"token {number} is revoked" + ("" if changed else " already: nothing was changed"))


def _chosen() -> str:
    """Return the password that a person chose, or nothing where there is nobody to ask."""
    if not sys.stdin.isatty():
        return ""
    from workers.passwords import LONGEST, SHORTEST  # noqa: PLC0415 - see _kept

    chosen: str = typer.prompt("Password", hide_input=True, confirmation_prompt=True)
    if not SHORTEST <= len(chosen) <= LONGEST:
        raise typer.BadParameter(f"a password has {SHORTEST} to {LONGEST} characters: nothing was changed")
    return chosen


def _kept(password: str) -> str:
    from workers import passwords  # noqa: PLC0415 - every command would wait for its library

    return passwords.keep(password)


def _tell(said: str, drawn: str, *, as_json: bool, **names: Any) -> None:
    if as_json:
        print_json(names | ({"password": drawn} if drawn else {}))
    else:
        typer.echo(said + (f"; the password, shown only now: {drawn}" if drawn else ""))


def _would(name: str, what: str) -> None:
    with reading() as connection:
        found = actions.find_user(connection, name)
    typer.echo(f"user {found.name} {what}, and is {found.role} now (dry run, nothing was changed)")
