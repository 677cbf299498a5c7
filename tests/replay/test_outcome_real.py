"""Every false "committed" that is known, made on real servers: what an unguarded question would
have answered, and what `resolve` says.

`pg_xact_status` is asked about a transaction id.  An id that was lost with its server's last
records is given again, to somebody else, and that one's fate is the answer.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import count

import psycopg
import pytest

from resilient.core.outcome import Mark, Outcome, ServerFacts, Verdict, XidStatus, lsn, resolve
from resilient.lab import Lab
from resilient.postgres.commit.facts import PIGGYBACK, CommitFacts, ask, commit_facts, xid_status

from .held import cut_off, forget_settings, until
from .stage import numbers

pytestmark = pytest.mark.lab

_names = (f"outcome-{number}" for number in count())


class Client:
    """An application's session, and what the library asks in it."""

    def __init__(self, address: str, port: int) -> None:
        self.conn = psycopg.connect(f"host={address} port={port} user=app dbname=app")

    def commit_facts(self) -> CommitFacts:
        with self.conn.transaction():
            seen: CommitFacts | None = self.conn.wait(commit_facts(self.conn.pgconn))
        assert seen is not None
        return seen

    def status(self, xid: int) -> XidStatus:
        with self.conn.transaction():
            return self.conn.wait(xid_status(self.conn.pgconn, xid))

    def piggyback(self) -> tuple[int, int, int]:
        """Id, position behind a record of it, flush position; inside a block that writes."""
        row = self.conn.wait(ask(self.conn.pgconn, PIGGYBACK))
        assert row is not None
        xid, position, flushed = map(str, row)
        return int(xid), lsn(position), lsn(flushed)

    def insert_position(self) -> int:
        row = self.conn.execute("select pg_current_wal_insert_lsn()::text").fetchone()
        assert row is not None
        return lsn(row[0])


@dataclass
class Lost:
    """A transaction whose COMMIT was carried out, and then lost with its server."""

    act: str
    mark: Mark
    #: the highest flush position that was read in its incarnation
    flushed: int
    #: `pg_current_wal_insert_lsn()` where our query would have been: the naive guard
    insert_position: int


Connect = Callable[[], Client]


@pytest.fixture
def connect(tables: Lab, lab: Lab) -> Iterator[Connect]:
    """New sessions on whoever is the primary."""
    with ExitStack() as closing:

        def one() -> Client:
            client = Client(lab.primary.address, lab.port)
            closing.callback(client.conn.close)
            return client

        yield one


def _received(lab: Lab) -> int:
    """What every standby has received at least."""
    query = "select pg_last_wal_receive_lsn()::text"
    return min(lsn(str(standby.execute(query)[0][0])) for standby in lab.standbys)


def _commit(client: Client, level: str, unlogged_first: bool = False) -> Lost:
    """Insert and commit, without waiting for a standby, with everything that is remembered."""
    act, conn = next(_names), client.conn
    incarnation = client.commit_facts().incarnation
    conn.execute(f"set local synchronous_commit = {level}".encode())
    if unlogged_first:
        before = client.insert_position()
        conn.execute("insert into unlogged_acts values (1)")
        naive = client.insert_position()
        assert naive == before, "a first write to an unlogged table writes no WAL"
    else:
        conn.execute("insert into acts values (%s, 0)", (act,))
        naive = client.insert_position()
    xid, position, flushed = client.piggyback()
    assert position > naive
    conn.execute("insert into acts values (%s, 1)", (act,))
    conn.commit()
    return Lost(act, Mark(xid, position, incarnation), flushed, naive)


def _fail_over(lab: Lab, connect: Connect) -> Client:
    """To the new primary, after the id has been given again if it ever will."""
    run = lab.inject("crash", promote_after_s=0, dns_after_s=0)
    run.wait_writable()
    forget_settings(lab)
    run.wait_done()
    return connect()


def _burn(client: Client, xid: int) -> None:
    """Commit other transactions until one of them had this id."""
    for _ in range(1000):
        client.conn.execute("set local synchronous_commit = local")
        row = client.conn.execute("select pg_current_xact_id()::text").fetchone()
        client.conn.commit()
        assert row is not None
        if int(row[0]) >= xid:
            return
    raise AssertionError("the id is far")


def _asked(client: Client, lost: Lost) -> tuple[ServerFacts, Verdict]:
    seen = client.commit_facts()
    status = client.status(lost.mark.xid)
    said = ServerFacts(seen.incarnation, status, seen.received)
    return said, resolve(lost.mark, said, lost.flushed)


def test_an_id_that_the_new_primary_gave_again(lab: Lab, connect: Connect) -> None:
    """The standby never had the transaction; its id is committed, for another one (FAULTS 15)."""
    with cut_off(lab):
        lost = _commit(connect(), "local")
        assert _received(lab) < lost.mark.lsn
        new = _fail_over(lab, connect)
    _burn(new, lost.mark.xid)
    said, verdict = _asked(new, lost)
    assert said.status is XidStatus.COMMITTED, "an unguarded question would say so"
    assert numbers(lab, lost.act) == []
    assert said.received
    assert said.incarnation.timeline == lost.mark.incarnation.timeline + 1
    assert verdict.outcome is Outcome.NOT_COMMITTED, "its position lies behind the switch point"


def test_a_first_write_that_leaves_no_trace_in_the_log(lab: Lab, connect: Connect) -> None:
    """To an unlogged table: it assigns an id and writes no WAL, so the log's end at that time
    is no position of the transaction.  The emitted message is."""
    client = connect()
    for table in ("unlogged_acts values (0)", "acts values ('before', 0)"):
        # what only a first write to them logs
        client.conn.execute(f"insert into {table}".encode())
    client.conn.commit()
    for _ in range(5):
        until(lambda: _received(lab) >= client.insert_position())
        client.conn.rollback()
        with cut_off(lab):
            lost = _commit(client, "local", unlogged_first=True)
            received = _received(lab)
            assert received < lost.mark.lsn
            if lost.insert_position <= received:
                new = _fail_over(lab, connect)
                break
        # The server has logged something of its own meanwhile: once more.
    else:
        pytest.fail("the server logs all the time")
    _burn(new, lost.mark.xid)
    said, verdict = _asked(new, lost)
    assert said.status is XidStatus.COMMITTED
    assert numbers(lab, lost.act) == []
    naive = replace(lost.mark, lsn=lost.insert_position)
    fooled = resolve(naive, said, flushed_lsn=lost.insert_position)
    assert fooled.outcome is Outcome.COMMITTED, "the naive guard lets it pass"
    assert verdict.outcome is Outcome.NOT_COMMITTED


def test_a_crash_that_lost_the_tail_before_the_failover(lab: Lab, connect: Connect) -> None:
    """The primary itself forgot the transaction, came back, and gave its id again; *that* was
    replicated.  Only the flush position tells.

    FAULTS 39.
    """
    try:
        lost, again = _forgotten(lab, connect)
        _burn(again, lost.mark.xid)
        restarted, verdict = _asked(again, lost)
        assert restarted.status is XidStatus.COMMITTED
        assert verdict.outcome is Outcome.UNKNOWN, "restarted in place: nothing is proved"
        lab.cluster.wait_streaming(lab.standbys, 10)
        behind = True
        while behind:
            again.conn.execute("select pg_logical_emit_message(true, '', repeat('x', 8000))")
            behind = again.insert_position() <= lost.mark.lsn
        again.conn.commit()  # waits for a standby, so the id's second life is replicated
        new = _fail_over(lab, connect)
    finally:
        forget_settings(lab)
    said, verdict = _asked(new, lost)
    assert said.status is XidStatus.COMMITTED
    assert numbers(lab, lost.act) == []
    assert said.received
    assert said.incarnation.timeline == lost.mark.incarnation.timeline + 1
    weaker = resolve(lost.mark, said, flushed_lsn=lost.mark.lsn)
    assert weaker.outcome is Outcome.COMMITTED, "every guard but the flush position lets it pass"
    assert verdict.outcome is Outcome.UNKNOWN


def _forgotten(lab: Lab, connect: Connect) -> tuple[Lost, Client]:
    """Committed, acknowledged, and after a crash not even its id is known.  A part of its
    records may reach the disk before the crash (the WAL writer flushes whole pages): once more."""
    for _ in range(5):
        lost = _commit_unflushed(lab, connect)
        lab.primary.kill()
        lab.primary.start()
        again = connect()
        if not numbers(lab, lost.act) and again.status(lost.mark.xid) is XidStatus.FUTURE:
            return lost, again
    raise AssertionError("the crash keeps what it should have lost")


def _commit_unflushed(lab: Lab, connect: Connect) -> Lost:
    """Committed asynchronously, acknowledged, and still only in the server's memory."""
    lab.admin(None, "alter system set wal_writer_delay = 10000")
    lab.admin(None, "select pg_reload_conf()")
    for _ in range(20):
        # the first asynchronous commit wakes the WAL writer, the next ones wait for it
        client = connect()
        _commit(client, "off")
        time.sleep(0.02)
        lost = _commit(client, "off")
        flushed = lab.admin(None, "select pg_current_wal_flush_lsn()::text")[0][0]
        if lsn(str(flushed)) < lost.mark.lsn:
            return lost
    raise AssertionError("somebody always flushes at once")


def test_a_backends_crash_is_another_incarnation(lab: Lab, connect: Connect) -> None:
    """The postmaster starts over after one backend's death: its start time stays, the end of
    its recovery doesn't, and ids may have been given again.

    FAULTS 39.
    """
    client = connect()
    before = client.commit_facts().incarnation
    os.kill(client.conn.info.backend_pid, signal.SIGKILL)
    until(lambda: _answers(client.conn) is False)
    until(lambda: _serves(lab, connect))
    after = connect().commit_facts().incarnation
    assert after.started == before.started
    assert after.system_id == before.system_id
    assert after != before


def _answers(conn: psycopg.Connection) -> bool:
    try:
        conn.execute("select 1")
    except psycopg.OperationalError:
        return False
    return True


def _serves(lab: Lab, connect: Connect) -> bool:
    try:
        return lab.primary.is_primary() and _answers(connect().conn)
    except psycopg.OperationalError:
        return False


def test_in_one_incarnation_the_status_is_exact(lab: Lab, connect: Connect) -> None:
    """Committed, rolled back, under way: no failover, no flush position needed."""
    client, asking = connect(), connect()
    committed = _commit(client, "on")
    assert _asked(asking, committed)[1].outcome is Outcome.COMMITTED
    client.conn.execute("insert into acts values ('open', 0)")
    xid, position, _ = client.piggyback()
    seen = asking.commit_facts()
    mark = Mark(xid, position, seen.incarnation)
    running = Lost("open", mark, 0, 0)
    assert _asked(asking, running)[1].outcome is Outcome.RUNNING
    client.conn.rollback()
    assert _asked(asking, running)[1].outcome is Outcome.NOT_COMMITTED


def test_a_failover_that_lost_nothing(lab: Lab, connect: Connect) -> None:
    """Replicated and flushed, and the flush position was read: that may be called committed."""
    client = connect()
    lost = _commit(client, "on")
    _, _, flushed = _piggyback_alone(client)
    assert flushed >= lost.mark.lsn
    new = _fail_over(lab, connect)
    said, without = _asked(new, lost)
    assert said.status is XidStatus.COMMITTED
    assert numbers(lab, lost.act) == [0, 1]
    assert without.outcome is Outcome.UNKNOWN, "its own piggyback came before the flush"
    assert resolve(lost.mark, said, flushed).outcome is Outcome.COMMITTED


def _piggyback_alone(client: Client) -> tuple[int, int, int]:
    client.conn.execute("insert into acts values ('later', 0)")
    found = client.piggyback()
    client.conn.rollback()
    return found


def test_what_one_session_was_told_is_so_in_another_of_the_same_server(
    lab: Lab, connect: Connect
) -> None:
    first, second = connect().conn, connect().conn
    for conn in (first, second):
        conn.rollback()
    told = first.wait(commit_facts(first.pgconn))
    assert told is not None
    assert second.wait(commit_facts(second.pgconn, told)) is told
    # Another run of it, and another server, are asked themselves.
    before = replace(told, incarnation=replace(told.incarnation, started="yesterday"))
    assert second.wait(commit_facts(second.pgconn, before)) == told
    with psycopg.connect(lab.standbys[0].conninfo, autocommit=True) as standby:
        assert standby.wait(commit_facts(standby.pgconn, told)) is None
