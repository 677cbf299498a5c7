"""Asking a server what it is: one simple query, its answer as an `Observation`.

On a primary the timeline is the first 8 hex digits of the WAL file's name that is being
written (`pg_control_checkpoint()` lags a promotion by seconds); a standby can't tell that,
there the control file gives a lower bound, and the WAL receiver the very one to who may see it
(`pg_read_all_stats`).  Functions: PostgreSQL manual 9.27, unprivileged.
Nothing in the answer depends on a session's settings, such as its time zone.  A standby that is
behind and has replayed no transaction since it started can't say by how much.

A standby may be asked to keep its answer back until it is promoted, for so many steps at most:
who waits for a new primary hears of it a step later instead of at its next question, and asks
no oftener.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache

from psycopg import errors as e
from psycopg import generators, pq
from psycopg.abc import PQGen, PQGenConn

from ..core.model import FailureKind, Observation, Role
from ..core.outcome import lsn
from ..core.position import Position
from ..core.sqlstates import INVALID_SQL_STATEMENT_NAME, QUERY_CANCELED
from ..monitor.prober import Answer
from . import bounded
from .classify import probe_failure

_FACTS = b"""\
SELECT r, (SELECT system_identifier FROM pg_catalog.pg_control_system()),
 CASE WHEN r THEN greatest(
 (SELECT timeline_id FROM pg_catalog.pg_control_checkpoint()),
 (SELECT min_recovery_end_timeline FROM pg_catalog.pg_control_recovery()),
 w.received_tli)::text
 ELSE pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_insert_lsn()) END,
 (extract(epoch FROM pg_catalog.pg_postmaster_start_time()) * 1000000)::bigint,
 pg_catalog.current_setting('default_transaction_read_only'),
 CASE WHEN NOT r OR w.pid IS NULL THEN NULL
 WHEN pg_catalog.pg_last_wal_receive_lsn() <= pg_catalog.pg_last_wal_replay_lsn() THEN 0
 ELSE extract(epoch FROM
 pg_catalog.clock_timestamp() - pg_catalog.pg_last_xact_replay_timestamp()) END,
 w.pid IS NOT NULL, w.received_tli IS NOT NULL, pg_catalog.pg_backend_pid()"""
_JOINED = b"""
LEFT JOIN LATERAL pg_catalog.pg_stat_get_wal_receiver() w ON q.r"""
_FROM = (
    b"""
FROM (SELECT pg_catalog.pg_is_in_recovery() AS r OFFSET 0) q"""
    + _JOINED
)
QUERY = _FACTS + _FROM
#: the flush position as well.  Who isn't allowed its function gets no answer at all, whichever
#: branch is taken
FLUSH_QUERY = (
    _FACTS
    + b""",
 CASE WHEN NOT r THEN pg_catalog.pg_current_wal_flush_lsn() END"""
    + _FROM
)

FLUSH_COLUMN = 9

#: how many sessions it has, of all its databases: it looks at each, so it is asked now and then
SESSIONS_QUERY = (
    _FACTS
    + b""",
 (SELECT pg_catalog.sum(pg_catalog.pg_stat_get_db_numbackends(oid)) FROM pg_catalog.pg_database)"""
    + _FROM
)
SESSIONS_COLUMN = 9

#: for servers that don't have those functions, or don't let us; and those that have fewer
PLAIN_QUERIES = (
    b"SELECT pg_catalog.pg_is_in_recovery(), pg_catalog.pg_backend_pid()",
    b"SELECT pg_catalog.pg_is_in_recovery()",
)

#: a standby that keeps its answer back looks at itself this often, in seconds: about 30 µs of
#: its processor's time each
STEP_S = 0.01
STEPS_COLUMN = 9


@cache
def watch_query(steps: int) -> bytes:
    """The facts once it is in recovery no longer, or after so many steps; and how many it took.

    CASE is evaluated in order: each row's look comes behind its sleep.
    """
    return (
        _FACTS
        + b""", q.n
FROM (WITH RECURSIVE w (n, r) AS (
 SELECT 0, pg_catalog.pg_is_in_recovery()
 UNION ALL
 SELECT n + 1, CASE WHEN pg_catalog.pg_sleep(%f) IS NOT NULL
 THEN pg_catalog.pg_is_in_recovery() END
 FROM w WHERE r AND n < %d)
SELECT r, n FROM w ORDER BY n DESC LIMIT 1 OFFSET 0) q"""
        % (STEP_S, steps)
        + _JOINED
    )


class Questions:
    """What of this module's one session has prepared, from the second time on.

    A prepared question costs its server a third.  Who has no `Questions` prepares nothing:
    behind a pooler, names are nobody's.
    """

    __slots__ = ("asked", "keeps", "prepared")

    def __init__(self) -> None:
        self.asked: set[bytes] = set()
        self.prepared: dict[bytes, bytes] = {}
        #: an answer may be kept back: its statements may take as long, and do as they are asked
        self.keeps = True

    def name(self, query: bytes) -> bytes:
        """By which it is to be prepared now, or is known; empty: it is asked as it is."""
        if query in self.asked:
            return self.prepared.get(query) or b"_resilient_probe_%d" % len(self.prepared)
        self.asked.add(query)
        return b""


class RoleError(Exception):
    """The server did not tell what it is."""

    def __init__(self, kind: FailureKind, detail: str, sqlstate: str | None = None) -> None:
        super().__init__(detail)
        self.kind = kind
        self.sqlstate = sqlstate


def observe(pgconn: pq.abc.PGconn) -> PQGen[Observation]:
    """Ask on an idle connection.  A generator for psycopg's wait functions, sync or async.

    Raises `RoleError`.
    """
    answer = yield from question(pgconn)
    return answer.seen


def question(
    pgconn: pq.abc.PGconn,
    questions: Questions | None = None,
    flushed: Callable[[int], None] | None = None,
    hold_s: float = 0.0,
    mine: int = 0,
) -> PQGen[Answer]:
    """Ask on an idle connection, which has `questions` prepared.

    A server that answers no such question has the role that its session was told at the start.
    `flushed` is told how far a primary has flushed its WAL, if given.  With `hold_s` a standby
    keeps its answer back for so long, unless it is promoted.  Otherwise, with `mine`, how many
    sessions of it are this process's, it tells how many clients it has.  Raises `RoleError`.
    """
    keeps = hold_s >= STEP_S and questions is not None and questions.keeps
    first = watch_query(round(hold_s / STEP_S)) if keeps else SESSIONS_QUERY if mine else b""
    if not first and flushed is not None:
        first = FLUSH_QUERY
    for query in filter(None, (first, QUERY, *PLAIN_QUERIES)):
        result = yield from _query(pgconn, query, questions)
        refused = _refused(result)
        if keeps and query is first:
            refused = refused or _sqlstate(result) == QUERY_CANCELED  # its statement_timeout
            questions.keeps = not refused  # type: ignore[union-attr]
        if not refused:
            break
    seen = _told_at_the_start(pgconn) if refused else _read(pgconn, result)
    if query is FLUSH_QUERY and flushed is not None:
        reached = _text(result, FLUSH_COLUMN)
        if reached is not None:
            flushed(lsn(reached))
    if query is SESSIONS_QUERY and (sessions := _text(result, SESSIONS_COLUMN)) is not None:
        seen = replace(seen, clients=max(1, int(sessions) // mine))
    steps = _text(result, STEPS_COLUMN) if keeps and query is first and not refused else None
    return Answer(seen, STEP_S * int(steps or 0))


def _told_at_the_start(pgconn: pq.abc.PGconn) -> Observation:
    """By what a server reports without being asked (manual 55.2.7); PostgreSQL before 14 reports
    no role, and is taken for what a bare pool takes it for."""
    role = Role.REPLICA if pgconn.parameter_status(b"in_hot_standby") == b"on" else Role.PRIMARY
    barred = pgconn.parameter_status(b"default_transaction_read_only") == b"on"
    return Observation(role, read_only=barred)


def _refused(result: pq.abc.PGresult) -> bool:
    """Not allowed, unknown, or promoted between two of its functions."""
    return _sqlstate(result)[:2] in ("42", "0A", "55")


def _sqlstate(result: pq.abc.PGresult) -> str:
    if result.status != pq.ExecStatus.FATAL_ERROR:
        return ""
    return (result.error_field(pq.DiagnosticField.SQLSTATE) or b"").decode()


def _query(
    pgconn: pq.abc.PGconn, query: bytes, questions: Questions | None = None
) -> PQGen[pq.abc.PGresult]:
    try:
        results = yield from bounded.answer(pgconn, _asked(pgconn, query, questions))
    except bounded.TooMuch as exc:
        raise RoleError(FailureKind.ERROR, str(exc)) from exc
    except e.Error as exc:
        broken = pgconn.status == pq.ConnStatus.BAD
        raise RoleError(probe_failure(exc.sqlstate, broken, str(exc)), str(exc)) from exc
    if len(results) != 1:
        raise RoleError(FailureKind.ERROR, f"{len(results)} results to a role query")
    return results[0]


def _asked(
    pgconn: pq.abc.PGconn, query: bytes, questions: Questions | None
) -> PQGen[list[pq.abc.PGresult]]:
    name = questions.name(query) if questions is not None else b""
    if questions is not None and name:
        if query not in questions.prepared:
            pgconn.send_prepare(name, query)
            results: list[pq.abc.PGresult] = yield from generators.execute(pgconn)
            if any(result.status != pq.ExecStatus.COMMAND_OK for result in results):
                return results
            questions.prepared[query] = name
        pgconn.send_query_prepared(name, None)
        results = yield from generators.execute(pgconn)
        if not any(_sqlstate(result) == INVALID_SQL_STATEMENT_NAME for result in results):
            return results
        questions.prepared.clear()  # somebody has said DISCARD ALL
    pgconn.send_query(query)
    results = yield from generators.execute(pgconn)
    return results


def _read(pgconn: pq.abc.PGconn, result: pq.abc.PGresult) -> Observation:
    if result.status != pq.ExecStatus.TUPLES_OK:
        state = result.error_field(pq.DiagnosticField.SQLSTATE)
        code = state.decode("ascii", "replace") if state else None
        text = result.error_message.decode("utf-8", "replace").strip()
        broken = pgconn.status == pq.ConnStatus.BAD
        raise RoleError(probe_failure(code, broken, text), text or "no answer", code)
    values = [_text(result, column) for column in range(result.nfields)]
    if result.ntuples != 1 or values[0] not in ("t", "f"):
        raise RoleError(FailureKind.ERROR, "an odd answer to pg_is_in_recovery()")
    role = Role.REPLICA if values[0] == "t" else Role.PRIMARY
    if len(values) <= len(PLAIN_QUERIES):
        pid = values[1] if len(values) > 1 else None
        return Observation(role, pooled=pid is not None and pid != str(pgconn.backend_pid))
    _, system_id, timeline, incarnation, read_only, lag, streams, exact, pid = values[:FLUSH_COLUMN]
    return Observation(
        role,
        system_id or "",
        _timeline(role, timeline),
        incarnation or "",
        read_only == "on",
        None if lag is None else max(0.0, float(lag)),
        streams=streams == "t",
        exact=exact == "t",
        pooled=pid != str(pgconn.backend_pid),
    )


def _timeline(role: Role, text: str | None) -> int | None:
    if not text:
        return None
    return int(text) if role is Role.REPLICA else int(text[:8], 16)


def _text(result: pq.abc.PGresult, column: int) -> str | None:
    value = result.get_value(0, column) if result.ntuples else None
    return None if value is None else value.decode("utf-8", "replace")


def with_descriptor(pgconn: pq.abc.PGconn, gen: PQGen[Observation]) -> PQGenConn[Observation]:
    """The same generator in the shape of a connecting one, which yields descriptors too."""
    try:
        wait = next(gen)
        while True:
            ready = yield (pgconn.socket, wait)
            wait = gen.send(ready)
    except StopIteration as stop:
        value: Observation = stop.value
        return value


#: where this server's WAL stands: written on a primary, replayed on a standby; and on which
#: timeline, which is read behind it (a subselect runs when its column does).  Of a standby that
#: doesn't tell it: how far it has been for certain, and on which
POSITION_QUERY = b"""\
SELECT CASE WHEN r THEN pg_catalog.pg_last_wal_replay_lsn()
 ELSE pg_catalog.pg_current_wal_insert_lsn() END,
 CASE WHEN r THEN (SELECT received_tli FROM pg_catalog.pg_stat_get_wal_receiver())::text
 ELSE pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_insert_lsn()) END,
 (SELECT min_recovery_end_lsn || ' ' || min_recovery_end_timeline
 FROM pg_catalog.pg_control_recovery()),
 (SELECT system_identifier FROM pg_catalog.pg_control_system()), r
FROM (SELECT pg_catalog.pg_is_in_recovery() AS r OFFSET 0) q"""

PLAIN_POSITION_QUERY = b"""\
SELECT CASE WHEN pg_catalog.pg_is_in_recovery() THEN pg_catalog.pg_last_wal_replay_lsn()
 ELSE pg_catalog.pg_current_wal_insert_lsn() END"""


def position(pgconn: pq.abc.PGconn) -> PQGen[Position]:
    """The server's WAL position, on a connection that is idle or in a transaction.

    Raises `RoleError` when the server doesn't tell.
    """
    result = yield from _query(pgconn, POSITION_QUERY)
    if _refused(result) and pgconn.transaction_status == pq.TransactionStatus.IDLE:
        result = yield from _query(pgconn, PLAIN_POSITION_QUERY)
    told = result.status == pq.ExecStatus.TUPLES_OK
    text = _text(result, 0) if told else None
    if text is None:
        raise RoleError(FailureKind.ERROR, "the server doesn't tell its WAL position")
    if result.nfields == 1:
        return Position(None, lsn(text))
    role = Role.REPLICA if _text(result, 4) == "t" else Role.PRIMARY
    timeline, system_id = _timeline(role, _text(result, 1)), _text(result, 3) or ""
    if timeline is not None or role is Role.PRIMARY:
        return Position(timeline, lsn(text), system_id)
    certain, _, branch = (_text(result, 2) or "").partition(" ")
    if not branch:
        return Position(None, lsn(text), system_id)
    return Position(int(branch), min(lsn(certain), lsn(text)), system_id, late=True)
