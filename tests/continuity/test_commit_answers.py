"""What the server says while, and after, it commits: only its first answer counts.

A backend that is told to end while it flushes its commit record goes on to commit, answers,
and ends at the next place that looks for such requests: the log line of a slow statement.  So
a client reads COMMIT's completion and then a FATAL error.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from resilient.errors import CommitOutcomeUnknown
from resilient.lab import Lab
from resilient.postgres import ConnectionPool
from resilient.postgres.commit import ledger
from resilient.settings import Settings
from tests.replay.held import until

pytestmark = pytest.mark.lab

#: a flush takes 0.1 s, and what took that long is logged
SLOW_AND_LOGGED = {
    "commit_delay": "100000",
    "commit_siblings": "0",
    "log_min_duration_statement": "10",
    "synchronous_commit": "local",
}


@pytest.fixture
def dsn(lab: Lab) -> Iterator[str]:
    for name, value in SLOW_AND_LOGGED.items():
        lab.admin(None, f"alter role app set {name} = '{value}'")
    dsn = f"host={lab.primary.address} port={lab.port} user=app dbname=app"
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute("create table if not exists answers (id int)")
        conn.execute("truncate answers")
    yield dsn
    lab.admin(None, "alter role app reset all")


def end_while_it_commits(lab: Lab, how: str, query: str) -> threading.Thread:
    """Ask the backend that runs `query` to end, or to cancel, as soon as it is there."""
    find = f"select {how}(pid) from pg_stat_activity where usename = 'app' and state = 'active'"

    def strike() -> None:
        give_up_at = time.monotonic() + 5
        with lab.primary.connect() as conn:
            while not conn.execute(f"{find} and query like '{query}%'").fetchall():
                assert time.monotonic() < give_up_at
                time.sleep(0.002)

    thread = threading.Thread(target=strike)
    thread.start()
    return thread


def rows(lab: Lab) -> int:
    dsn = f"host={lab.primary.address} port={lab.port} user=postgres dbname=app"
    with psycopg.connect(dsn) as conn:
        row = conn.execute("select count(*) from answers").fetchone()
    assert row is not None
    return int(row[0])


def pool_to(dsn: str, resolver: str = "lsn", **options: Any) -> ConnectionPool[Any]:
    settings = Settings(deadline_s=10, standby_min_size=0, commit_resolver=resolver)
    return ConnectionPool(dsn, settings=settings, min_size=1, max_size=2, **options)


@pytest.mark.parametrize("how", ["pg_terminate_backend", "pg_cancel_backend"])
@pytest.mark.parametrize("way", ["block", "transaction", "run", "by hand"])
def test_committed_and_then_ended(lab: Lab, dsn: str, how: str, way: str) -> None:
    def write(conn: psycopg.Connection[Any]) -> None:
        conn.execute("insert into answers values (1)")

    def commit(pool: ConnectionPool[Any]) -> None:
        if way == "run":
            pool.run(write)
            return
        with pool.connection() as conn:
            if way == "transaction":
                with conn.transaction():
                    write(conn)
            else:
                write(conn)
                if way == "by hand":
                    conn.execute("COMMIT")

    with pool_to(dsn) as pool:
        pool.wait()
        for _ in range(5):
            thread = end_while_it_commits(lab, how, "COMMIT")
            try:
                commit(pool)
                break
            except psycopg.errors.AdminShutdown:
                # It was met before it had begun to commit: nothing is.
                assert how == "pg_terminate_backend"
                assert rows(lab) == 0
            finally:
                thread.join()
        with pool.connection() as conn:  # the pool gives nobody the session that has ended
            assert conn.execute("select 1").fetchone() == (1,)
    assert rows(lab) == 1


@pytest.mark.parametrize("how", ["pg_terminate_backend", "pg_cancel_backend"])
def test_committed_with_the_ledger_and_then_ended(lab: Lab, dsn: str, how: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as admin:
        admin.execute(ledger.DDL.encode())
    with pool_to(dsn, "ledger") as pool:
        pool.wait()
        for _ in range(3):  # the race has more than one end
            thread = end_while_it_commits(lab, how, "COMMIT")
            with pool.connection() as conn:
                conn.execute("insert into answers values (1)")
            thread.join()
        with pool.connection() as conn:
            assert conn.execute("select 1").fetchone() == (1,)
    assert rows(lab) == 3


def test_ended_before_the_commit(lab: Lab, dsn: str) -> None:
    """FATAL is COMMIT's first answer, or comes before it is sent: whoever said so is obeyed."""
    killed = pytest.raises(psycopg.errors.AdminShutdown)
    with pool_to(dsn) as pool, killed, pool.connection() as conn:
        conn.execute("insert into answers values (1)")
        lab.admin(None, f"select pg_terminate_backend({conn.info.backend_pid})")
    assert rows(lab) == 0


def test_a_statement_in_autocommit_that_is_ended_while_it_commits(lab: Lab, dsn: str) -> None:
    """Its FATAL comes behind its completion: it is committed, and never sent again."""
    with pool_to(dsn, kwargs={"autocommit": True}) as pool:
        pool.wait()
        thread = end_while_it_commits(lab, "pg_terminate_backend", "insert")
        try:
            with pool.connection() as conn:
                conn.execute("insert into answers values (1)")
        except CommitOutcomeUnknown:
            pass
        thread.join()
    assert rows(lab) == 1


def test_a_procedure_that_commits_on_its_way_and_is_ended(lab: Lab, dsn: str) -> None:
    """As psycopg says it: an operator has ended it."""
    body = "insert into answers values (1); commit; perform pg_sleep(5)"
    with pool_to(dsn, kwargs={"autocommit": True}) as pool:
        pool.wait()
        thread = end_while_it_commits(lab, "pg_sleep(0.5), pg_terminate_backend", "do")
        with pytest.raises(psycopg.errors.AdminShutdown), pool.connection() as conn:
            conn.execute(f"do $$ begin {body}; end $$")
        thread.join()
    assert rows(lab) == 1


def test_a_shutdown_that_ends_the_wait_for_standbys_proves_the_flush(lab: Lab) -> None:
    """They have received it, none has said so, and nobody has asked how far it was flushed."""
    dsn = f"{lab.dsn} target_session_attrs=read-write"
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute("create table if not exists answers (id int)")
        conn.execute("truncate answers")
    lab.admin(None, "alter role app set synchronous_commit = 'remote_apply'")
    settings = Settings(deadline_s=20, commit_resolver="lsn", probe_interval_s=20)
    failed: list[Exception] = []

    def write(pool: ConnectionPool[Any]) -> None:
        try:
            with pool.connection() as conn:
                conn.execute("insert into answers values (1)")
        except Exception as exc:
            failed.append(exc)

    try:
        with ConnectionPool(lab.dsn, settings=settings, min_size=1, max_size=1) as pool:
            pool.wait(10)
            standbys = lab.standbys
            end = lab.primary.execute("select pg_current_wal_flush_lsn()::text")[0][0]
            there = f"select pg_last_wal_replay_lsn() >= '{end}'"
            until(lambda: all(standby.execute(there) == [(True,)] for standby in standbys))
            for standby in standbys:
                standby.execute("select pg_wal_replay_pause()")
            writer = threading.Thread(target=write, args=(pool,))
            writer.start()
            waits = "select count(*) from pg_stat_activity where wait_event = 'SyncRep'"
            until(lambda: lab.primary.execute(waits) == [(1,)])
            run = lab.inject("switchover", promote_after_s=0.1, dns_after_s=0)
            run.wait_writable()
            for standby in standbys:
                if not standby.is_primary():
                    standby.execute("select pg_wal_replay_resume()")
            run.wait_done()
            writer.join(30)
        assert not failed, failed[0]
        assert rows(lab) == 1
    finally:
        lab.admin(None, "alter role app reset synchronous_commit")
