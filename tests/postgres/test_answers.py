"""Answers are read as psycopg reads them, and who waits for a whole statement goes on in parts."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest
from psycopg import errors as e
from psycopg import generators, pq, waiting

from resilient.lab import Lab
from resilient.postgres import ConnectionPool
from resilient.postgres.session.answers import answer_all, answered, fetched
from resilient.postgres.session.keeper import keeper_of

from .conftest import settings_of

pytestmark = pytest.mark.lab

BIG = b"x" * 3_000_000
LAST = b"select pg_terminate_backend(pg_backend_pid())"
#: what is sent: a text, and parameters where it has some
SENT: dict[str, tuple[bytes, list[bytes] | None]] = {
    "a row": (b"select 1", None),
    "nothing": (b"", None),
    "a command": (b"set application_name = 'here'", None),
    "an error": (b"select 1/0", None),
    "several": (b"select 1; select 2; set jit = off", None),
    "several, one fails": (b"select 1; select 1/0; select 2", None),
    "copy": (b"copy (select 1) to stdout", None),
    "copy behind another": (b"select 1; copy (select 1) to stdout; select 2", None),
    "many rows": (b"select repeat('x', 1000) from generate_series(1, 20000)", None),
    "a large parameter": (b"select length($1)", [BIG]),
    "much both ways": (b"select $1 from generate_series(1, 4)", [BIG]),
    "a notification": (b"select pg_notify('here', 'hello'), pg_sleep(0.05)", None),
    "rows in two parts": (b"select pg_sleep(0.1 * n)::text from generate_series(0, 2) n", None),
    "a word, and the end": (LAST, None),
}


@pytest.fixture
def connect(lab: Lab) -> Iterator[Callable[[], psycopg.Connection[Any]]]:
    dsn = f"{lab.dsn} target_session_attrs=read-write user=postgres"
    made: list[psycopg.Connection[Any]] = []

    def connect() -> psycopg.Connection[Any]:
        made.append(psycopg.connect(dsn, autocommit=True))
        return made[-1]

    yield connect
    for conn in made:
        conn.close()


def told(results: list[Any]) -> list[tuple[Any, ...]]:
    return [
        (result.status, result.ntuples, result.nfields, result.get_value(0, 0))
        for result in results
    ]


@pytest.mark.parametrize("kind", SENT)
def test_an_answer_is_as_with_psycopg(
    kind: str, connect: Callable[[], psycopg.Connection[Any]]
) -> None:
    text, params = SENT[kind]
    found = []
    for execute in (generators.execute, answered):
        conn = connect()
        heard: list[str] = []
        conn.add_notify_handler(lambda note, heard=heard: heard.append(note.payload))
        conn.execute("listen here")
        pgconn = conn.pgconn
        try:
            if params is None:
                pgconn.send_query(text)
            else:
                pgconn.send_query_params(text, params)
            results: list[Any] = waiting.wait(execute(pgconn), pgconn.socket, interval=0.1)
            found.append((told(results), heard, pgconn.transaction_status))
        except e.Error as exc:
            found.append((type(exc), heard, pgconn.status))
    assert found[0] == found[1]


def queue(pgconn: Any, texts: list[bytes]) -> None:
    pgconn.enter_pipeline_mode()
    for text in texts:
        pgconn.send_query_params(text, None)
    pgconn.pipeline_sync()


@pytest.mark.parametrize(
    "texts",
    [
        [b"select 1"],
        [b"begin", b"select 1", b"select 2"],
        [b"select 1", b"select 1/0", b"select 2"],
        [b"select repeat('x', 1000) from generate_series(1, 20000)"] * 3,
        [b"select pg_sleep(0.05)::text", b"select 2", b"select pg_sleep(0.05)::text"],
    ],
)
def test_a_message_is_answered_up_to_its_sync(
    texts: list[bytes], connect: Callable[[], psycopg.Connection[Any]]
) -> None:
    pgconn = connect().pgconn
    queue(pgconn, texts)
    answers: list[list[Any]] = []
    waiting.wait(answer_all(pgconn, answers), pgconn.socket, interval=0.1)
    pgconn.exit_pipeline_mode()  # which it isn't where something is left
    other = connect().pgconn
    queue(other, texts)
    expected = []
    results: list[Any] = waiting.wait(generators.execute(other), other.socket, interval=0.1)
    while results[0].status != pq.ExecStatus.PIPELINE_SYNC:
        expected.append(results)
        results = waiting.wait(generators.fetch_many(other), other.socket, interval=0.1)
    assert [told(each) for each in answers] == [told(each) for each in expected]
    assert len(answers) == len(texts)


def test_what_came_before_the_end_is_there(
    connect: Callable[[], psycopg.Connection[Any]],
) -> None:
    """Of a message whose session ends in the middle."""
    pgconn = connect().pgconn
    queue(pgconn, [b"select 1", LAST, b"select 2"])
    answers: list[list[Any]] = []
    with pytest.raises(e.OperationalError):
        waiting.wait(answer_all(pgconn, answers), pgconn.socket, interval=0.1)
    assert told(answers[0])[0][0] == pq.ExecStatus.TUPLES_OK
    assert answers[1][0].error_field(pq.DiagnosticField.SQLSTATE) == b"57P01"


def test_a_pipeline_fetches_what_its_queue_waits_for(
    connect: Callable[[], psycopg.Connection[Any]],
) -> None:
    conn = connect()
    with conn.pipeline() as pipeline:
        cursors = [conn.execute("select %s::int", (n,)) for n in range(40)]
        conn.wait(fetched(pipeline, True))
        assert [cur.fetchone() for cur in cursors] == [(n,) for n in range(40)]
        assert not pipeline.result_queue


def test_a_failure_in_a_pipeline_is_noticed_before_its_end(lab: Lab) -> None:
    """Where a caller goes on putting statements into it."""
    dsn = f"{lab.dsn} target_session_attrs=read-write"
    with ConnectionPool(dsn, settings=settings_of(lab), min_size=1) as pool:
        pool.wait()
        sent: list[int] = []

        def work() -> None:
            with pool.connection() as conn, conn.pipeline():
                conn.execute("select 1/0")
                for n in range(100_000):
                    conn.execute("select 1")
                    sent.append(n)

        with pytest.raises(e.DivisionByZero):
            work()
    assert len(sent) < 50_000


def test_statements_are_prepared_as_often_as_with_psycopg(lab: Lab) -> None:
    """Also where they are sent without psycopg's store being asked."""
    dsn = f"{lab.dsn} target_session_attrs=read-write"
    counts = []
    for make in (None, ConnectionPool):
        with psycopg.connect(dsn) if make is None else pooled(make, dsn, lab) as conn:
            found = []
            for n in range(8):
                conn.execute("select %s::int", (n,))
                conn.execute("select 1", prepare=False)
                conn.execute("select 2", prepare=True)
                if n % 2:
                    with conn.pipeline():
                        conn.execute("select %s::int", (n,))
                prepared = conn._prepared
                found.append((dict(prepared._counts), sorted(dict(prepared._names))))
            counts.append(found)
    assert counts[0] == counts[1]


class pooled:
    """A pool's connection, and the pool around it."""

    def __init__(self, make: Any, dsn: str, lab: Lab) -> None:
        self.pool = make(dsn, settings=settings_of(lab), min_size=1, open=False)

    def __enter__(self) -> Any:
        self.pool.open(wait=True)
        self.conn = self.pool.getconn()
        return self.conn

    def __exit__(self, *_: object) -> None:
        self.conn.rollback()
        self.pool.putconn(self.conn)
        self.pool.close()


def test_commit_waits_for_who_is_at_work(lab: Lab) -> None:
    """It is nothing to do in an idle session, unless another thread is about to begin there."""
    dsn = f"{lab.dsn} target_session_attrs=read-write"
    with pooled(ConnectionPool, dsn, lab) as conn:
        conn.commit()
        done = threading.Event()
        with conn.lock:
            waits = threading.Thread(target=lambda: (conn.commit(), done.set()))
            waits.start()
            assert not done.wait(0.2)
        waits.join()
        assert done.is_set()
        with conn.transaction(), pytest.raises(e.ProgrammingError):
            conn.commit()


@pytest.mark.parametrize("own_wait", [False, True])
def test_nothing_is_left_undone_where_a_class_waits_by_itself(lab: Lab, own_wait: bool) -> None:
    """A failure of what is waited for elsewhere is heard there, as whole as it was."""

    class Waits(psycopg.Connection[Any]):
        by_itself = False

        def wait(self, gen: Any, interval: float = 0.1, timeout: float | None = None) -> Any:
            if self.by_itself:
                return waiting.wait(gen, self.pgconn.socket, interval=0.1)
            return super().wait(gen, interval, timeout)

    dsn = f"{lab.dsn} target_session_attrs=read-write"
    pool = ConnectionPool(
        dsn, connection_class=Waits, settings=settings_of(lab), min_size=1, open=False
    )
    with pool:
        pool.wait()
        with pool.connection() as conn:
            conn.execute("select 1")
            conn.by_itself = own_wait
            with pytest.raises(e.DivisionByZero):
                conn.execute("select 1/0")
            conn.rollback()
            conn.execute("select 1")
            keeper = keeper_of(conn)
            assert keeper is not None
            assert not keeper.judge.parts
            conn.execute("create temp table twice (n int unique deferrable initially deferred)")
            conn.execute("insert into twice values (1), (1)")
            with pytest.raises(e.UniqueViolation):
                conn.commit()
