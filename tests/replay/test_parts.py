"""Recorder, replayer and committer on a host that is no psycopg connection.

The sessions are real ones, of libpq alone: what the parts need of a connection is `Host`, and this
one is a dozen lines.
"""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterable, Iterator
from typing import Any

import psycopg
import pytest
from psycopg import errors as e
from psycopg import generators, pq, waiting
from psycopg._preparing import Prepare

from resilient.core.model import Endpoint
from resilient.monitor.sockets import Link
from resilient.postgres.commit.committer import Committer
from resilient.postgres.commit.knowledge import Knowledge
from resilient.postgres.commit.resolver import Resolver
from resilient.postgres.errors import CommitOutcomeUnknown, TransactionReplayMismatch
from resilient.postgres.replay.entry import Entry
from resilient.postgres.replay.judge import Judge
from resilient.postgres.replay.recorder import Recorder
from resilient.postgres.replay.replayer import Replayer
from resilient.postgres.session.detour import Detour, Fresh
from resilient.postgres.session.host import Host, PoolSide
from resilient.postgres.session.waiting import until_detour
from resilient.postgres.session.wire import Wire
from resilient.settings import Settings
from tests.differential.pg import Server, serve

pytestmark = pytest.mark.lab


class Fake:
    """A connection, as the parts know it."""

    read_only = serializable = closed = autocommit = False
    prepares = False

    def __init__(self, wire: Wire) -> None:
        self.wire = wire
        self.swapped: list[Host] = []

    def begin(self) -> bytes:
        return b"" if self.autocommit or self.wire.in_block else b"BEGIN"

    def command(self, command: bytes) -> Any:
        self.wire.pgconn.send_query(command)
        (result,) = yield from generators.execute(self.wire.pgconn)
        if result.status == pq.ExecStatus.FATAL_ERROR:
            raise e.error_from_result(result)
        return result

    def swap(self, fresh: Host) -> None:
        self.swapped.append(fresh)

    def prepare(self, entry: Any, wanted: bool | None) -> tuple[Prepare, bytes]:
        return Prepare.NO, b""

    def prepared(self, entry: Any, how: Any, name: bytes, results: list[Any]) -> None:
        pass

    def tidy(self) -> Iterable[Any]:
        return ()

    def forget(self, asked: Any) -> bool:
        return False


class Pool:
    place = None
    over = False

    def __init__(self) -> None:
        self.settings = Settings(deadline_s=5)
        self.known = Knowledge("lsn")
        self.failures: list[BaseException] = []

    def lost(self, link: Link | None, exc: BaseException, broken: bool) -> None:
        self.failures.append(exc)

    def withdraw(self) -> bool:
        return True

    def locks_out(self, link: Link, refusal: BaseException) -> bool:
        return False

    def crowded(self) -> bool:
        return False

    def met(self, endpoint: Endpoint, seen: Any) -> None:
        pass

    def look_up(self, reads: list[Any], idle: int) -> bool:
        raise AssertionError("nothing was followed often")

    def cut_at(self, when_s: float, link: Link, why: str) -> None:
        pass

    def replayed(self, endpoint: Endpoint | None, statements: int, seconds: float) -> None:
        pass

    def not_replayed(self, why: str) -> None:
        pass

    @property
    def labels(self) -> dict[str, str]:
        return {}

    def missed(self, began_s: float, error: BaseException) -> None:
        pass

    def mismatched(self, endpoint: Endpoint | None, statement: str, found: str) -> None:
        pass

    def resolved(self, outcome: str, reason: str) -> None:
        pass


class Stand:
    """The parts of one connection, and whoever waits for them."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.pool = Pool()
        self.detours: list[Detour] = []
        self.judge = self._judge()
        self.replayer = Replayer(self.judge)
        self.replayer.asks = True
        self.committer = Committer(Resolver(self.replayer))
        self.recorder = Recorder(self.committer, self.pool.known, wraps=False)
        self.journal = self.judge.journal
        self.wire = self.judge.wire
        self.open = [self.judge]

    def _judge(self) -> Judge:
        pgconn = pq.PGconn.connect(self.server.dsn.encode())
        assert pgconn.status == pq.ConnStatus.OK, pgconn.error_message
        pgconn.nonblocking = 1
        wire = Wire(pgconn)
        link = Link(Endpoint("", self.server.address, self.server.port), 0)
        link.bind(pgconn.socket)
        wire.attach(link)
        host: Host = Fake(wire)
        judge = Judge(host, wire)
        core: PoolSide = self.pool
        judge.core = core
        judge.journal.bound(100, 1 << 20)
        judge.recording = True
        return judge

    def wait(self, gen: Any) -> Any:
        """psycopg's loop, with detours to a further session of the same server."""
        ready = None
        while True:
            pgconn = self.wire.pgconn
            fd = pgconn.socket if pgconn.status == pq.ConnStatus.OK else 0
            found = waiting.wait(until_detour(self.judge, gen, ready), fd, interval=0.1)
            if not isinstance(found, Detour):
                return found
            self.detours.append(found)
            if not found.pause_s:
                fresh = self._judge()
                self.open.append(fresh)
                found.fresh = Fresh(fresh.host, fresh)
            ready = waiting.Ready.RW

    def ask(self, query: bytes) -> list[Any]:
        """A statement of the block, recorded as the recorder does."""
        entry = Entry(query)

        def gen() -> Any:
            entry.send(self.wire.pgconn)
            results = yield from generators.execute(self.wire.pgconn)
            if not results or results[0].status == pq.ExecStatus.FATAL_ERROR:
                raise e.error_from_result(results[0])
            return results

        results = self.wait(gen())
        self.journal.add(entry, results, unasked=True)
        return [results[0].get_value(row, 0) for row in range(results[0].ntuples)]

    def close(self) -> None:
        for judge in self.open:
            judge.wire.pgconn.finish()


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serve(contrib=False) as running:
        running.admin("create table marks (n int); grant all on marks to app")
        yield running


@pytest.fixture
def stand(server: Server) -> Iterator[Stand]:
    server.admin("truncate marks")
    it = Stand(server)
    yield it
    it.close()


def marks(stand: Stand) -> list[Any]:
    return stand.server.admin("select n from marks")


def test_a_block_is_recorded_and_committed(stand: Stand) -> None:
    stand.wait(stand.recorder.step(b"BEGIN"))
    stand.ask(b"insert into marks values (1)")
    assert [entry.query for entry in stand.journal.entries] == [
        b"BEGIN",
        b"insert into marks values (1)",
    ]
    stand.wait(stand.committer.commit())
    assert stand.journal.entries == []
    assert marks(stand) == [(1,)]
    assert stand.detours == []


def crash(stand: Stand) -> None:
    """The session ends without a word."""
    with socket.socket(fileno=os.dup(stand.wire.pgconn.socket)) as sock:
        sock.shutdown(socket.SHUT_RDWR)


def test_the_replayer_does_it_again_on_another_session(stand: Stand) -> None:
    stand.wait(stand.recorder.step(b"BEGIN"))
    stand.ask(b"insert into marks values (2)")
    before = stand.wire.pgconn.backend_pid
    crash(stand)
    assert stand.wait(stand.recorder.step(b'SAVEPOINT "a"')) is not None
    assert stand.wire.pgconn.backend_pid != before
    assert len(stand.judge.host.swapped) == 1  # type: ignore[attr-defined]
    assert [entry.query for entry in stand.journal.entries][-1] == b'SAVEPOINT "a"'
    stand.wait(stand.committer.commit())
    assert marks(stand) == [(2,)]


def test_another_result_is_a_mismatch(stand: Stand) -> None:
    stand.wait(stand.recorder.step(b"BEGIN"))
    stand.ask(b"select count(*) from marks")
    stand.server.admin("insert into marks values (3)")
    crash(stand)
    with pytest.raises(TransactionReplayMismatch, match="another value"):
        stand.wait(stand.recorder.step(b'SAVEPOINT "a"'))
    assert stand.journal.failed


def test_what_is_ruled_out_is_not_done_again(stand: Stand) -> None:
    stand.wait(stand.recorder.step(b"BEGIN"))
    stand.ask(b"insert into marks values (4)")
    stand.journal.rule_out("COPY")
    crash(stand)
    with pytest.raises(psycopg.OperationalError, match="not replayed: COPY"):
        stand.wait(stand.recorder.step(b'SAVEPOINT "a"'))
    assert marks(stand) == []
    assert stand.detours == []


def test_a_commit_whose_session_has_ended_before_is_done_again(stand: Stand) -> None:
    stand.wait(stand.recorder.step(b"BEGIN"))
    stand.ask(b"insert into marks values (5)")
    crash(stand)
    stand.wait(stand.committer.commit())
    assert marks(stand) == [(5,)]


def test_a_lost_reply_without_marks_is_unknown(stand: Stand) -> None:
    """Nothing was asked of the server: nobody can tell, and nobody guesses."""
    stand.replayer.asks = False
    stand.pool.settings = Settings(deadline_s=5, commit_resolver="off")
    stand.wait(stand.recorder.step(b"BEGIN"))
    stand.ask(b"insert into marks values (6)")
    backend = stand.wire.pgconn.backend_pid
    os.kill(backend, signal.SIGSTOP)  # or it might answer first
    try:
        gen = stand.committer.commit()
        item = gen.send(None)  # COMMIT is sent
        assert item
        crash(stand)
    finally:
        os.kill(backend, signal.SIGCONT)
    with pytest.raises(CommitOutcomeUnknown):
        stand.wait(gen)
    assert stand.journal.failed


def test_who_waits_without_detours_hears_the_failure_itself(stand: Stand) -> None:
    stand.wait(stand.recorder.step(b"BEGIN"))
    crash(stand)
    stand.wire.pgconn.finish()
    with pytest.raises(psycopg.OperationalError, match="waits by itself"):
        list(stand.recorder.step(b'SAVEPOINT "a"'))
