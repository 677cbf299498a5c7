"""The ledger of commits: one row per COMMIT, written with it (`COMMIT_RESOLVER=ledger`).

The token is inserted and committed in one message, so it costs no round trip.  Whoever wants
to know what became of a COMMIT inserts the same token: a conflict says that it committed; an
insertion that is committed fences it off, because the original can then only fail.
"""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

from psycopg import errors as e
from psycopg import generators, pq
from psycopg.abc import PQGen
from psycopg.pq.abc import PGconn, PGresult

from ..core.outcome import Outcome, Verdict
from ..errors import ConfigError
from .connection import ended

if TYPE_CHECKING:
    from .committing import CommitMixin
    from .journal import Journal

TABLE = "resilient.commits"
#: rows are of use while somebody may still ask for them; older ones can go
RETENTION = "1 day"
DDL = f"""\
CREATE SCHEMA IF NOT EXISTS resilient;
CREATE TABLE IF NOT EXISTS {TABLE} (
    token uuid PRIMARY KEY,
    at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX IF NOT EXISTS commits_at ON {TABLE} (at);
GRANT USAGE ON SCHEMA resilient TO PUBLIC;
GRANT INSERT ON {TABLE} TO PUBLIC;
COMMENT ON TABLE {TABLE} IS
    'One row per COMMIT, so that a lost reply can be resolved. Rows older than'
    ' {RETENTION} may be deleted at any time.';
"""
#: to be run now and then by its owner
PURGE = "DELETE FROM resilient.commits WHERE at < now() - interval '1 day'"

INSERT = b"INSERT INTO resilient.commits (token) VALUES ($1)"
INSERT_NAME = b"_resilient_token"
#: how long a resolver waits behind an original that is still running
LOCK_TIMEOUT = b"SET LOCAL lock_timeout = '500ms'"

_FATAL = pq.ExecStatus.FATAL_ERROR
_UUID_OID = 2950


class Refused(Exception):
    """The token can't be written, and with it the transaction has failed.  `error`: why."""

    def __init__(self, error: e.Error) -> None:
        super().__init__(str(error))
        self.error = error


def new_token() -> bytes:
    return secrets.token_hex(16).encode()


def commit(conn: CommitMixin, journal: Journal) -> PQGen[PGresult]:
    """INSERT and COMMIT in one message.  The token is the connection's until it is known.

    Raises `Refused` when it is the INSERT that fails.
    """
    seen = conn._witness()
    if seen is not None and seen.ledger is None:
        raise ConfigError(
            f"RESILIENT_COMMIT_RESOLVER=ledger, and there is no table {TABLE} in this database:"
            " run `resilient install-ledger --dsn …`, or set it to lsn"
        )
    pgconn = conn.pgconn
    conn._token = new_token()
    pgconn.enter_pipeline_mode()
    prepares = conn._send_own(INSERT_NAME, INSERT, [conn._token], [_UUID_OID])
    pgconn.send_query_params(b"COMMIT", None)
    pgconn.pipeline_sync()
    yield from generators.send(pgconn)
    if prepares:
        (prepared,) = yield from generators.fetch_many(pgconn)
        if prepared.status == pq.ExecStatus.COMMAND_OK:
            conn._own_names[INSERT_NAME] = prepares
    (inserted,) = yield from generators.fetch_many(pgconn)
    committed = yield from generators.fetch_many(pgconn)
    try:
        yield from generators.fetch_many(pgconn)
        pgconn.exit_pipeline_mode()
    except e.OperationalError:
        # The answers are there; a session that ends behind them says nothing about them.
        pgconn.finish()
    conn._token = b""
    if inserted.status == _FATAL:
        error = e.error_from_result(inserted, encoding=pgconn._encoding)
        if not ended(error):
            raise Refused(error)
    for result in (inserted, *committed):
        if result.status == _FATAL:
            raise e.error_from_result(result, encoding=pgconn._encoding)
    last: PGresult = committed[0]
    return last


def verdict(pgconn: PGconn, token: bytes) -> PQGen[Verdict]:
    """What became of the COMMIT with this token, asked of the fenced primary."""
    for query in (b"BEGIN", LOCK_TIMEOUT):
        pgconn.send_query(query)
        yield from generators.execute(pgconn)
    pgconn.send_query_params(INSERT, [token], param_types=[_UUID_OID])
    (result,) = yield from generators.execute(pgconn)
    state = result.error_field(pq.DiagnosticField.SQLSTATE)
    end = b"ROLLBACK" if result.status == _FATAL else b"COMMIT"
    pgconn.send_query(end)
    (ended,) = yield from generators.execute(pgconn)
    if _FATAL not in (result.status, ended.status):
        return Verdict(Outcome.NOT_COMMITTED, "its token was not in the ledger, and is fenced")
    if state == b"23505":
        return Verdict(Outcome.COMMITTED, "its token is in the ledger")
    if state == b"55P03":
        return Verdict(Outcome.RUNNING, "its token is being written")
    error = e.error_from_result(result if result.status == _FATAL else ended)
    if pgconn.status == pq.ConnStatus.BAD:
        raise error
    return Verdict(Outcome.UNKNOWN, f"the ledger can't be asked: {error}")
