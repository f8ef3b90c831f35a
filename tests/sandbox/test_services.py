"""The embedded servers as processes: they start, stop, crash, come back, and never outlive the run that owns them."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import psycopg
import pytest
import redis
from elasticsearch import Elasticsearch

from sandbox import postgres as postgres_module
from sandbox._process import Child, ServerStartError, end_recorded
from sandbox.postgres import Postgres
from sandbox.services import Services
from sandbox.valkey import Valkey

CHECKOUT = Path(__file__).resolve().parents[2]
COMMAND = [sys.executable, "-m", "sandbox", "services"]
# An ordinary user who may still read the interpreter, which lives in root's home on some machines.
AS_NOBODY = [
    "setpriv",
    "--reuid=nobody",
    "--regid=65534",
    "--clear-groups",
    "--inh-caps=+dac_read_search",
    "--ambient-caps=+dac_read_search",
]
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root needs another account for Postgres")


def wait_for(condition: Callable[[], bool], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the awaited condition never came"
        time.sleep(0.02)


def is_alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def recorded_pids(run: Path) -> list[int]:
    return [int(file.read_text().split()[0]) for file in run.glob("*/*.pid")]


def runs(root: Path) -> list[Path]:
    return [entry for entry in root.iterdir() if entry.is_dir()]


def value(url: str, statement: str) -> object:
    with psycopg.connect(url, autocommit=True) as connection:
        row = connection.execute(statement.encode()).fetchone()
    assert row is not None
    return row[0]


@contextmanager
def owner(root: Path, prefix: list[str] | None = None) -> Iterator[tuple[subprocess.Popen[str], dict[str, str]]]:
    """A `python -m sandbox services` that has printed its addresses; killed at the end if it still runs."""
    with subprocess.Popen(
        [*(prefix or []), *COMMAND, "--root", str(root)], cwd=CHECKOUT, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            lines = [process.stdout.readline() for _ in range(3)]
            yield process, dict(line.rstrip("\n").split("=", 1) for line in lines)
        finally:
            process.kill()


@pytest.fixture(scope="module")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    with Postgres(tmp_path_factory.mktemp("postgres")) as server:
        yield server


# -- Postgres ---------------------------------------------------------------------------------------------------------


def test_postgres_keeps_its_port_and_committed_data_over_a_restart_and_a_crash(postgres: Postgres) -> None:
    address = postgres.create_database("survivor")
    with psycopg.connect(address) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 1 AS n")

    postgres.restart()
    assert value(address, "SELECT sum(n) FROM kept") == 1

    with psycopg.connect(address, autocommit=True) as bystander:
        bystander.execute("INSERT INTO kept VALUES (2)")
        postgres.kill()
        with pytest.raises(psycopg.OperationalError):
            bystander.execute("SELECT 1")
    postgres.start()
    assert value(address, "SELECT sum(n) FROM kept") == 3


def test_postgres_that_was_killed_by_somebody_else_starts_again(postgres: Postgres) -> None:
    first = postgres.pid
    assert first is not None
    os.kill(first, signal.SIGKILL)
    wait_for(lambda: postgres.pid is None)

    postgres.start()

    assert postgres.pid not in {None, first}
    assert value(postgres.url, "SELECT 1") == 1


def test_starting_a_running_postgres_changes_nothing(postgres: Postgres) -> None:
    before = postgres.pid
    postgres.start()
    assert postgres.pid == before


def test_a_database_is_copied_from_a_template_and_dropped_under_its_guests(postgres: Postgres) -> None:
    template = postgres.create_database("stencil")
    with psycopg.connect(template) as connection:
        connection.execute("CREATE TABLE stamped AS SELECT 42 AS n")

    copy = postgres.create_database("a copy", template="stencil")

    with psycopg.connect(copy, autocommit=True) as guest:
        assert guest.execute("SELECT n FROM stamped").fetchone() == (42,)
        postgres.drop_database("a copy")
    with pytest.raises(psycopg.OperationalError, match="does not exist"):
        psycopg.connect(copy)


def test_postgres_lets_nobody_in_without_its_password(postgres: Postgres) -> None:
    with pytest.raises(psycopg.OperationalError, match="password"):
        psycopg.connect(host="127.0.0.1", port=postgres.port, user="postgres", dbname="headrace", passfile="/nowhere")


def test_postgres_speaks_utc_and_utf8_on_loopback_alone(postgres: Postgres) -> None:
    assert value(postgres.url, "SHOW timezone") == "UTC"
    assert value(postgres.url, "SELECT upper('é')") == "É"
    assert value(postgres.url, "SHOW max_connections") == "200"
    listening = {c.laddr.ip for c in psutil.Process(postgres.pid).net_connections() if c.status == psutil.CONN_LISTEN}
    assert listening == {"127.0.0.1"}


def test_postgres_is_durable_unless_told_otherwise(postgres: Postgres, tmp_path: Path) -> None:
    durability = "SELECT current_setting('fsync') || current_setting('synchronous_commit')"
    assert value(postgres.url, durability) == "onon"
    with Postgres(tmp_path / "fast", durable=False) as fast:
        assert value(fast.url, durability) == "offoff"


def test_postgres_refuses_the_directory_of_another_one(postgres: Postgres) -> None:
    with pytest.raises(ServerStartError, match="directory of its own"):
        Postgres(postgres.directory).start()
    assert value(postgres.url, "SELECT 1") == 1


@as_root
def test_postgres_of_root_moves_out_of_a_folder_that_its_account_cannot_enter(tmp_path: Path) -> None:
    hidden = tmp_path / "hidden"
    hidden.mkdir(mode=0o700)
    server = Postgres(hidden / "postgres")
    with server:
        elsewhere = (hidden / "postgres" / "elsewhere").resolve()
        assert (elsewhere / "data" / "PG_VERSION").exists()
        server.restart()
        assert value(server.url, "SELECT 1") == 1
    assert not elsewhere.exists()


@as_root
def test_postgres_of_root_copies_programs_that_its_account_cannot_reach(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed = postgres_module.installation()
    hidden = tmp_path / "hidden"
    hidden.mkdir(mode=0o700)
    shutil.copytree(installed, hidden / installed.name, ignore=shutil.ignore_patterns("include"))
    shutil.copytree(installed.with_name(f"{installed.name}.libs"), hidden / f"{installed.name}.libs")
    monkeypatch.setattr(postgres_module, "installation", lambda: hidden / installed.name)
    with Postgres(tmp_path / "postgres") as server:
        assert value(server.url, "SELECT 1") == 1
        assert not psutil.Process(server.pid).exe().startswith(str(tmp_path))


# -- Valkey -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("persist", [False, True])
def test_valkey_remembers_over_a_crash_only_when_asked_to(tmp_path: Path, persist: bool) -> None:
    with Valkey(tmp_path, persist=persist) as server, redis.Redis.from_url(server.url) as visitor:
        visitor.set("note", "kept")
        server.kill()
        with pytest.raises(redis.ConnectionError):
            visitor.get("note")
        server.start()
        assert visitor.get("note") == (b"kept" if persist else None)
        server.restart()
        assert visitor.ping()


def test_a_stopped_server_refuses_its_port_and_takes_it_again(tmp_path: Path) -> None:
    with Valkey(tmp_path) as server:
        port = server.port
        server.stop()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port), timeout=5)
        server.start()
        socket.create_connection(("127.0.0.1", port), timeout=5).close()


def test_a_server_whose_port_was_taken_says_so_with_its_log(tmp_path: Path) -> None:
    with Valkey(tmp_path) as server:
        server.stop()
        with socket.create_server(("127.0.0.1", server.port)), pytest.raises(ServerStartError, match="in use"):
            server.start()


def test_a_server_without_a_start_has_no_address(tmp_path: Path) -> None:
    with pytest.raises(ServerStartError, match="call start"):
        _ = Valkey(tmp_path).url


# -- The three together -----------------------------------------------------------------------------------------------


def test_two_runs_live_side_by_side_and_leave_nothing(tmp_path: Path) -> None:
    with (
        Services.start(name="one", root=tmp_path, durable=False) as one,
        Services.start(name="two", root=tmp_path, durable=False) as two,
    ):
        assert list(one.environment()) == ["DATABASE_URL", "REDIS_URL", "ELASTICSEARCH_URL"]
        assert not set(one.environment().values()) & set(two.environment().values())
        with redis.Redis.from_url(one.valkey.url) as first, redis.Redis.from_url(two.valkey.url) as second:
            first.set("owner", "one")
            assert second.get("owner") is None
        assert sorted(run.name.split("-")[0] for run in runs(tmp_path)) == ["one", "two"]
        pids = [pid for run in runs(tmp_path) for pid in recorded_pids(run)]
        assert len(pids) == 8
    assert runs(tmp_path) == []
    assert not any(map(is_alive, pids))


@pytest.mark.parametrize("request_to_stop", [signal.SIGINT, signal.SIGTERM])
def test_the_command_prints_three_addresses_stays_and_stops_cleanly(
    tmp_path: Path, request_to_stop: signal.Signals
) -> None:
    with owner(tmp_path) as (process, environment):
        assert list(environment) == ["DATABASE_URL", "REDIS_URL", "ELASTICSEARCH_URL"]
        assert value(environment["DATABASE_URL"], "SELECT current_database()") == "headrace"
        with Elasticsearch(environment["ELASTICSEARCH_URL"]) as visitor:
            assert visitor.ping()
        pids = recorded_pids(runs(tmp_path)[0])
        process.send_signal(request_to_stop)
        rest, _ = process.communicate(timeout=30)
        assert (process.returncode, rest) == (0, "")
    assert runs(tmp_path) == []
    assert not any(map(is_alive, pids))


def test_a_command_stopped_while_it_starts_leaves_nothing(tmp_path: Path) -> None:
    with subprocess.Popen([*COMMAND, "--root", str(tmp_path)], cwd=CHECKOUT, stdout=subprocess.DEVNULL) as process:
        wait_for(lambda: any(runs(tmp_path)) and bool(recorded_pids(runs(tmp_path)[0])))
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    assert runs(tmp_path) == []


def test_servers_end_with_an_owner_that_was_killed_and_the_next_start_clears_up(tmp_path: Path) -> None:
    with (
        Services.start(name="living", root=tmp_path, durable=False) as living,
        owner(tmp_path) as (process, _),
    ):
        (orphaned,) = (run for run in runs(tmp_path) if run != living.folder)
        pids = recorded_pids(orphaned)
        process.kill()
        wait_for(lambda: not any(map(is_alive, pids)))
        assert orphaned.exists()

        with Services.start(name="next", root=tmp_path, durable=False):
            assert not orphaned.exists()
            assert value(living.postgres.url, "SELECT 1") == 1
        assert runs(tmp_path) == [living.folder]


def test_a_folder_in_the_root_that_is_no_run_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "lock").touch()
    with Services.start(name="next", root=tmp_path, durable=False):
        assert (tmp_path / "precious" / "lock").exists()


def test_the_next_start_ends_what_a_lost_guard_left_running(tmp_path: Path) -> None:
    with owner(tmp_path) as (process, _):
        (orphaned,) = runs(tmp_path)
        pids = recorded_pids(orphaned)
        elsewhere = (orphaned / "postgres" / "elsewhere").resolve()
        guards = [child for child in psutil.Process(process.pid).children() if child.pid not in pids]
        assert len(guards) == len(pids) == 4
        for guard in guards:
            guard.kill()
        process.kill()
        process.wait()
        assert all(map(is_alive, pids))

        with Services.start(name="next", root=tmp_path, durable=False):
            assert not any(map(is_alive, pids))
            assert not orphaned.exists()
            assert not elsewhere.exists()


def test_a_recorded_pid_that_belongs_to_somebody_else_by_now_is_left_alone(tmp_path: Path) -> None:
    with subprocess.Popen(["sleep", "60"]) as stranger:
        created = psutil.Process(stranger.pid).create_time()
        record = tmp_path / "server.pid"
        record.write_text(f"{stranger.pid} {created - 60}\n")
        end_recorded(record)
        assert stranger.poll() is None
        record.write_text(f"{stranger.pid} {created}\n")
        end_recorded(record)
        assert stranger.wait(10) == -signal.SIGKILL


def test_a_child_that_ends_at_once_is_reported_with_the_end_of_its_log(tmp_path: Path) -> None:
    child = Child("oracle", ["/bin/sh", "-c", "echo no such luck; exit 3"], directory=tmp_path)
    with pytest.raises(ServerStartError, match=r"oracle ended at once \(exit 3\)(.|\n)*no such luck"):
        child.wait_until(lambda: False)
    assert not (tmp_path / "oracle.pid").exists()


@pytest.mark.parametrize("last", ["_guard", "_begin"])
def test_a_child_whose_owner_is_killed_before_its_guard_stands_never_begins(tmp_path: Path, last: str) -> None:
    owner = f"""
import os, pathlib, signal, sandbox._process as at
folder = pathlib.Path({str(tmp_path)!r})
def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)
at._guard = die if {last!r} == "_guard" else at._guard
at.Child._begin = die
at.Child("late", ["/bin/sh", "-c", "touch begun; sleep 60"], directory=folder)
"""
    done = subprocess.run([sys.executable, "-c", owner], cwd=CHECKOUT, check=False, timeout=30)
    assert done.returncode == -signal.SIGKILL
    wait_for(lambda: not [one for one in psutil.process_iter(["cwd"]) if one.info["cwd"] == str(tmp_path)])
    assert not (tmp_path / "begun").exists()


@as_root
def test_an_ordinary_user_needs_nothing_special(tmp_path_factory: pytest.TempPathFactory) -> None:
    if not shutil.which("setpriv") or subprocess.run([*AS_NOBODY, "true"], check=False, capture_output=True).returncode:
        pytest.skip("setpriv cannot give an ordinary user the right to read here")
    home = tmp_path_factory.mktemp("nobody")
    os.chown(home, 65534, 65534)
    with owner(home / "run", prefix=AS_NOBODY) as (process, environment):
        assert value(environment["DATABASE_URL"], "SELECT 1") == 1
        owners = {psutil.Process(pid).uids().real for pid in recorded_pids(runs(home / "run")[0])}
        assert owners == {psutil.Process(process.pid).uids().real} != {0}
        process.terminate()
        assert process.wait(30) == 0
