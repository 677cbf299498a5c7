"""Asking a server what it is: one simple query, its answer as an `Observation`.

On a primary the timeline is the first 8 hex digits of the WAL file's name that is being
written (`pg_control_checkpoint()` lags a promotion by seconds); a standby can't tell that,
there the control file gives a lower bound.  Functions: PostgreSQL manual 9.27, unprivileged.
Nothing in the answer depends on a session's settings, such as its time zone.
"""

from __future__ import annotations

from collections.abc import Callable, Generator

from psycopg import errors as e
from psycopg import generators, pq
from psycopg.abc import PQGen

from ..core.model import FailureKind, Observation, Role
from .classify import probe_failure

_FACTS = b"""\
SELECT r, (SELECT system_identifier FROM pg_catalog.pg_control_system()),
 CASE WHEN r THEN (SELECT timeline_id::text FROM pg_catalog.pg_control_checkpoint())
 ELSE pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_insert_lsn()) END,
 (extract(epoch FROM pg_catalog.pg_postmaster_start_time()) * 1000000)::bigint,
 pg_catalog.current_setting('default_transaction_read_only'),
 CASE WHEN NOT r THEN NULL
 WHEN NOT EXISTS (SELECT FROM pg_catalog.pg_stat_get_wal_receiver() w WHERE w.pid IS NOT NULL)
 THEN NULL
 WHEN pg_catalog.pg_last_wal_receive_lsn() = pg_catalog.pg_last_wal_replay_lsn() THEN 0
 ELSE greatest(0, extract(epoch FROM
 pg_catalog.clock_timestamp() - pg_catalog.pg_last_xact_replay_timestamp())) END"""
_FROM = b"""
FROM (SELECT pg_catalog.pg_is_in_recovery() AS r OFFSET 0) q"""
QUERY = _FACTS + _FROM
#: the flush position as well.  Who isn't allowed its function gets no answer at all, whichever
#: branch is taken
FLUSH_QUERY = (
    _FACTS
    + b""",
 CASE WHEN NOT r THEN pg_catalog.pg_current_wal_flush_lsn() END"""
    + _FROM
)

FLUSH_COLUMN = 6

#: for servers that don't have those functions, or don't let us
PLAIN_QUERY = b"SELECT pg_catalog.pg_is_in_recovery()"


class RoleError(Exception):
    """The server did not tell what it is."""

    def __init__(self, kind: FailureKind, detail: str, sqlstate: str | None = None) -> None:
        super().__init__(detail)
        self.kind = kind
        self.sqlstate = sqlstate


def observe(
    pgconn: pq.abc.PGconn, flushed: Callable[[int], None] | None = None
) -> PQGen[Observation]:
    """Ask on an idle connection.  A generator for psycopg's wait functions, sync or async.

    `flushed` is told how far a primary has flushed its WAL, if given.  Raises `RoleError`.
    """
    plainer = (QUERY, PLAIN_QUERY)
    for query in plainer if flushed is None else (FLUSH_QUERY, *plainer):
        result = yield from _query(pgconn, query)
        if not _refused(result):
            break
    seen = _read(pgconn, result)
    if flushed is not None and result.nfields > FLUSH_COLUMN:
        reached = _text(result, FLUSH_COLUMN)
        if reached is not None:
            flushed(lsn(reached))
    return seen


def _refused(result: pq.abc.PGresult) -> bool:
    """Not allowed, unknown, or promoted between two of its functions."""
    if result.status != pq.ExecStatus.FATAL_ERROR:
        return False
    state = result.error_field(pq.DiagnosticField.SQLSTATE)
    return state is not None and state[:2] in (b"42", b"0A", b"55")


def _query(pgconn: pq.abc.PGconn, query: bytes) -> PQGen[pq.abc.PGresult]:
    try:
        pgconn.send_query(query)
        results: list[pq.abc.PGresult] = yield from generators.execute(pgconn)
    except e.Error as exc:
        broken = pgconn.status == pq.ConnStatus.BAD
        raise RoleError(probe_failure(exc.sqlstate, broken, str(exc)), str(exc)) from exc
    if len(results) != 1:
        raise RoleError(FailureKind.ERROR, f"{len(results)} results to a role query")
    return results[0]


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
    if len(values) == 1:
        return Observation(role)
    _, system_id, timeline, incarnation, read_only, lag = values[:FLUSH_COLUMN]
    return Observation(
        role,
        system_id or "",
        _timeline(role, timeline),
        incarnation or "",
        read_only == "on",
        None if lag is None else float(lag),
    )


def _timeline(role: Role, text: str | None) -> int | None:
    if not text:
        return None
    return int(text) if role is Role.REPLICA else int(text[:8], 16)


def _text(result: pq.abc.PGresult, column: int) -> str | None:
    value = result.get_value(0, column) if result.ntuples else None
    return None if value is None else value.decode("utf-8", "replace")


def with_descriptor(
    pgconn: pq.abc.PGconn, gen: PQGen[Observation]
) -> Generator[tuple[int, object], int, Observation]:
    """The same generator in the shape of a connecting one, which yields descriptors too."""
    try:
        wait = next(gen)
        while True:
            ready = yield (pgconn.socket, wait)
            wait = gen.send(ready)
    except StopIteration as stop:
        value: Observation = stop.value
        return value


#: where this server's WAL stands: written on a primary, replayed on a standby
POSITION_QUERY = b"""\
SELECT CASE WHEN pg_catalog.pg_is_in_recovery() THEN pg_catalog.pg_last_wal_replay_lsn()
 ELSE pg_catalog.pg_current_wal_insert_lsn() END"""


def position(pgconn: pq.abc.PGconn) -> PQGen[int]:
    """The server's WAL position, on a connection that is idle or in a transaction.

    Raises `RoleError` when the server doesn't tell.
    """
    result = yield from _query(pgconn, POSITION_QUERY)
    text = _text(result, 0) if result.status == pq.ExecStatus.TUPLES_OK else None
    if text is None:
        raise RoleError(FailureKind.ERROR, "the server doesn't tell its WAL position")
    return lsn(text)


def lsn(text: str) -> int:
    """`16/B374D848` → the position in bytes (manual 8.20)."""
    high, _, low = text.partition("/")
    return (int(high, 16) << 32) + int(low, 16)
