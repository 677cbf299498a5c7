"""`resilient install-ledger`: on real servers; nothing is installed unasked."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from collections.abc import Iterator

import psycopg
import pytest
from typer.testing import CliRunner

from resilient.cli.app import app
from resilient.lab import Lab

VERB = "install-ledger"


def run(*argv: str) -> tuple[int, str, str]:
    done = CliRunner().invoke(app, [VERB, *argv])
    return done.exit_code, done.stdout, done.stderr


def answered(dsn: str, answer: str, *argv: str) -> tuple[int, str]:
    """By a person at a terminal."""
    ours, theirs = pty.openpty()
    try:
        os.write(ours, answer.encode() + b"\n")
        command = [sys.executable, "-m", "resilient.cli", VERB, "--dsn", dsn, *argv]
        done = subprocess.run(command, stdin=theirs, capture_output=True, text=True, check=False)
    finally:
        os.close(ours)
        os.close(theirs)
    return done.returncode, done.stdout + done.stderr


@pytest.fixture
def database(session_lab: Lab) -> Iterator[str]:
    """A database of its own, owned by `app`; its connection string with all hosts."""
    session_lab.admin(None, "create database ledger_test owner app")
    yield session_lab.dsn.replace("dbname=app", "dbname=ledger_test")
    session_lab.admin(None, "drop database ledger_test with (force)")


@pytest.fixture
def guest(session_lab: Lab, database: str) -> Iterator[str]:
    """A user who may do nothing but connect."""
    session_lab.admin(None, "create role guest login")
    yield database.replace("user=app", "user=guest")
    session_lab.admin(None, "drop role guest")


def there(dsn: str) -> bool:
    with psycopg.connect(f"{dsn} target_session_attrs=read-write") as conn:
        row = conn.execute("select to_regclass('resilient.commits') is not null").fetchone()
    assert row is not None
    return bool(row[0])


def execute(dsn: str, statement: str) -> None:
    with psycopg.connect(f"{dsn} target_session_attrs=read-write") as conn:
        conn.execute(statement.encode())


@pytest.mark.lab
def test_it_is_shown_and_installed_and_left_alone(database: str) -> None:
    code, out, err = run("--dsn", database, "--yes")
    assert (code, err) == (0, "")
    assert "CREATE TABLE IF NOT EXISTS resilient.commits" in out
    assert "DELETE FROM resilient.commits WHERE at < now() - interval '1 day';" in out
    assert "resilient.commits is installed: database ledger_test" in out
    execute(database, "insert into resilient.commits values (gen_random_uuid())")
    code, out, _ = run("--dsn", database, "--yes")
    assert code == 0
    assert "was there already" in out
    with psycopg.connect(database) as conn:
        assert conn.execute("select count(*) from resilient.commits").fetchone() == (1,)


@pytest.mark.lab
def test_as_json(database: str) -> None:
    for already_there in (False, True):
        code, out, err = run("--dsn", database, "--yes", "--json")
        assert (code, err) == (0, "")
        told = json.loads(out)
        assert told["installed"] is True
        assert told["already_there"] is already_there
        assert told["database"] == "ledger_test"
        assert told["table"] == "resilient.commits"
        assert "CREATE TABLE" in told["ddl"]
        assert told["purge"].startswith("DELETE")


@pytest.mark.lab
def test_a_person_is_asked(database: str) -> None:
    code, shown = answered(database, "n")
    assert code == 1
    assert "Install it in database ledger_test" in shown
    assert "declined" in shown
    assert not there(database)
    code, shown = answered(database, "y")
    assert code == 0, shown
    assert there(database)


@pytest.mark.lab
def test_nobody_to_ask_is_wrong_use(database: str) -> None:
    code, out, err = run("--dsn", database)
    assert (code, out) == (2, "")
    assert "--yes" in err
    assert not there(database)


@pytest.mark.lab
def test_a_user_who_may_not(database: str, guest: str) -> None:
    code, _, err = run("--dsn", guest, "--yes")
    assert code == 1
    assert "user guest may not install it in database ledger_test" in err
    assert "CREATE on the database" in err
    assert not there(database)
    code, out, _ = run("--dsn", guest, "--yes", "--json")
    assert code == 1
    assert json.loads(out)["installed"] is False
    # once an owner has installed it, anybody may use it and see that it works
    assert run("--dsn", database, "--yes")[0] == 0
    code, out, _ = run("--dsn", guest, "--yes")
    assert code == 0
    assert "was there already" in out


@pytest.mark.lab
@pytest.mark.parametrize(
    "columns", ["token uuid, at timestamptz default now()", "token int primary key", "n int"]
)
def test_another_table_of_that_name(database: str, columns: str) -> None:
    """Without its key it would call every lost COMMIT not committed."""
    execute(database, f"create schema resilient; create table resilient.commits ({columns})")
    code, _, err = run("--dsn", database, "--yes")
    assert code == 1
    assert "resilient.commits exists in database ledger_test, but isn't the ledger's" in err
    with psycopg.connect(database) as conn:
        indexes = "select count(*) from pg_indexes where indexname = 'commits_at'"
        assert conn.execute(indexes).fetchone() == (0,), "somebody else's table was changed"


@pytest.mark.lab
def test_a_standby_alone(session_lab: Lab, database: str) -> None:
    standby = session_lab.standbys[0].address
    dsn = f"host={standby} port={session_lab.port} user=app dbname=app"
    code, _, err = run("--dsn", dsn, "--yes")
    assert code == 1
    assert "read-only" in err


def test_nobody_answers() -> None:
    code, _, err = run("--dsn", "host=127.0.0.1 port=1 user=app password=hidden", "--yes")
    assert code == 1
    assert "connection" in err
    assert "hidden" not in err


def test_a_malformed_connection_string() -> None:
    code, out, err = run("--dsn", "hidden=secret words", "--yes")
    assert (code, out) == (2, "")
    assert "--dsn is malformed" in err
    assert "secret" not in err
