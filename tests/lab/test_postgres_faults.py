"""Each fault looks, from a client, like the real one; each is repaired again."""

from __future__ import annotations

import contextlib
import select
import socket
import time

import psycopg
import pytest

from resilient.lab import POSTGRES_FAULTS, FaultRun, Lab, LabError, Member
from resilient.lab.pytest_plugin import skip_unless

Connection = psycopg.Connection[tuple[object, ...]]


def connect(lab: Lab, member: Member | None = None) -> Connection:
    """As the application, over the network."""
    host = f" host={member.address} hostaddr={member.address}" if member else ""
    return psycopg.connect(f"{lab.dsn}{host} connect_timeout=2", autocommit=True)


@pytest.fixture
def table(lab: Lab) -> str:
    with connect(lab, lab.primary) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS lab_test (id text)")
        connection.execute("TRUNCATE lab_test")
    return "lab_test"


def check_moments(run: FaultRun, promote_after_s: float, dns_after_s: float) -> None:
    assert run.fault_at is not None
    assert run.promote_begin_at is not None
    assert run.writable_at is not None
    assert run.durable_at is not None
    assert run.dns_changed_at is not None
    # a switchover's shutdown is in it
    assert 0 <= run.promote_begin_at - run.fault_at - promote_after_s < 2.0
    assert 0 < run.writable_at - run.promote_begin_at < 2.0
    assert 0 <= run.durable_at - run.writable_at < 2.0
    assert 0 <= run.dns_changed_at - run.writable_at - dns_after_s < 2.0
    assert run.events == sorted(run.events, key=lambda event: event[0])
    print(
        f"{run.fault}: promote → writable {run.writable_at - run.promote_begin_at:.3f} s,"
        f" durable {run.durable_at - run.writable_at:.3f} s later"
    )


def check_repaired(lab: Lab, table: str) -> None:
    began_at = time.monotonic()
    print(lab.rejoin(), f"in {time.monotonic() - began_at:.2f} s")
    rows = lab.admin(None, "SELECT application_name, state, sync_state FROM pg_stat_replication")
    assert sorted(rows) == [(m.zone, "streaming", "quorum") for m in lab.standbys]
    with connect(lab, lab.primary) as connection:
        connection.execute(f"INSERT INTO {table} VALUES ('after')")
    assert lab.admin(None, "SELECT pg_is_in_recovery()") == [(False,)]
    for standby in lab.standbys:
        assert lab.admin(standby.zone, "SELECT pg_is_in_recovery()") == [(True,)]


def is_silent(sock: socket.socket, for_s: float = 0.3) -> bool:
    return not select.select([sock], [], [], for_s)[0]


@pytest.mark.parametrize("fault", POSTGRES_FAULTS)
def test_a_promotion_follows_and_all_is_repaired(lab: Lab, table: str, fault: str) -> None:
    skip_unless(lab, fault)
    old = lab.primary
    with connect(lab, old) as connection:
        connection.execute(f"INSERT INTO {table} VALUES ('before')")
    run = lab.inject(fault, promote_after_s=0.3, dns_after_s=0.2, resume_after_s=0.4)
    run.wait_writable(10)
    assert lab.primary is not old
    assert (run.old_primary, run.new_primary) == (old.zone, lab.primary.zone)
    with connect(lab, lab.primary) as connection:  # a synchronous commit goes through
        connection.execute(f"INSERT INTO {table} VALUES ('between')")
    run.wait_done(20)
    check_moments(run, 0.3, 0.2)
    assert lab.dns.records[lab.WRITER, "CNAME"][1] == (f"{lab.primary.zone}-db.db.test.",)
    check_repaired(lab, table)
    with connect(lab, lab.primary) as connection:
        rows = connection.execute(f"SELECT id FROM {table}").fetchall()
    assert [row[0] for row in rows] == ["before", "between", "after"]


def test_a_crashed_server_refuses_and_says_no_last_word(lab: Lab) -> None:
    old = lab.primary
    with contextlib.closing(connect(lab, old)) as connection:
        run = lab.inject("crash", promote_after_s=0.1, dns_after_s=0)
        run.wait_struck()
        with pytest.raises(psycopg.OperationalError) as caught:
            connection.execute("SELECT 1")
    assert caught.value.sqlstate is None, "a lost machine sends no 57P01"
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((old.address, lab.port), 1)
    run.wait_done()


def test_a_hung_server_accepts_and_is_silent(lab: Lab) -> None:
    old = lab.primary
    with contextlib.closing(connect(lab, old)) as connection:
        run = lab.inject("hang", promote_after_s=0.1, dns_after_s=0)
        run.wait_struck()
        connection.pgconn.send_query(b"SELECT 1")
        with socket.create_connection((old.address, lab.port), 1) as fresh:
            fresh.sendall(bytes.fromhex("0000000804d2162f"))  # SSLRequest: usually answered at once
            assert is_silent(fresh)
            with socket.socket(fileno=connection.pgconn.socket) as open_one:
                assert is_silent(open_one, 0.1)
                open_one.detach()
    run.wait_done()


def test_a_blackholed_zone_is_lost_without_a_sign(lab: Lab) -> None:
    skip_unless(lab, "blackhole")
    old = lab.primary
    with contextlib.closing(connect(lab, old)) as connection:
        run = lab.inject("blackhole", promote_after_s=0.1, dns_after_s=0)
        run.wait_struck()
        connection.pgconn.send_query(b"SELECT 1")
        with pytest.raises(TimeoutError):
            socket.create_connection((old.address, lab.port), 0.5)
        assert lab.admin(old.zone, "SELECT 1") == [(1,)], "its Unix socket still works"
        with socket.socket(fileno=connection.pgconn.socket) as open_one:
            assert is_silent(open_one)
            open_one.detach()
        run.wait_done()
        # packets pass again: what was sent into the hole arrives by retransmission
        lab.heal()
        assert select.select([connection.pgconn.socket], [], [], 5)[0]
        assert connection.pgconn.get_result() is not None


def test_a_zombie_believes_but_is_not_acknowledged(lab: Lab, table: str) -> None:
    old = lab.primary
    run = lab.inject("zombie", promote_after_s=0.1, dns_after_s=0.1, resume_after_s=0.2)
    run.wait_done()
    assert run.resumed_at is not None
    assert old.is_primary()
    assert lab.primary.is_primary()
    with connect(lab, old) as connection:
        connection.execute("SET synchronous_commit = local")
        connection.execute(f"INSERT INTO {table} VALUES ('written by a zombie')")
        connection.execute("SET synchronous_commit = on")
        connection.pgconn.send_query(f"INSERT INTO {table} VALUES ('not acknowledged')".encode())
        assert not select.select([connection.pgconn.socket], [], [], 0.5)[0]
        connection.pgconn.finish()
    check_repaired(lab, table)
    rows = lab.admin(old.zone, "SELECT pg_last_wal_replay_lsn() IS NOT NULL")
    assert rows == [(True,)]
    with connect(lab, old) as connection:
        rows = connection.execute(f"SELECT id FROM {table} WHERE id <> 'after'").fetchall()
    assert rows == [], "what only the zombie had is gone"


def test_a_switchover_says_goodbye(lab: Lab) -> None:
    with contextlib.closing(connect(lab, lab.primary)) as connection:
        run = lab.inject("switchover", dns_after_s=0)
        run.wait_struck()
        with pytest.raises(psycopg.errors.AdminShutdown):
            connection.execute("SELECT 1")
    run.wait_done()
    assert lab.rejoin() == {}, "the old primary follows already"


def test_called_off_before_the_promotion(lab: Lab) -> None:
    old = lab.primary
    run = lab.inject("crash", promote_after_s=60)
    run.wait_struck()
    lab.heal()
    run.wait_done(1)
    assert run.writable_at is None
    assert lab.primary is old
    assert lab.admin(None, "SELECT pg_is_in_recovery()") == [(False,)]
    assert lab.rejoin() == {}, "the standbys found their primary again"


def test_a_base_backup_repairs_what_a_rewind_can_not(
    lab: Lab, table: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise LabError("on purpose")

    run = lab.inject("crash", promote_after_s=0, dns_after_s=0)
    run.wait_done()
    monkeypatch.setattr(Member, "rewind", fail)
    assert lab.rejoin() == {run.old_primary: "pg_basebackup"}
    check_repaired(lab, table)
