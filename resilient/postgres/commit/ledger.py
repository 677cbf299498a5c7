"""The ledger of commits: one row per COMMIT, written with it (`COMMIT_RESOLVER=ledger`).

The token is inserted and committed in one message, so it costs no round trip.  Whoever wants
to know what became of a COMMIT inserts the same token: a conflict says that it committed; an
insertion that is committed fences it off, because the original can then only fail.  The fence has
a row of its own, so that whoever asks again doesn't take it for the original's.
"""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

from psycopg import errors as e
from psycopg import generators, pq
from psycopg.abc import PQGen
from psycopg.pq.abc import PGconn, PGresult

from ...core.outcome import Outcome, Verdict
from ...core.sqlstates import LOCK_NOT_AVAILABLE, UNIQUE_VIOLATION
from ...errors import ConfigError
from ..errors import ended

if TYPE_CHECKING:
    from ..session.wire import Wire

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


def commit(wire: Wire, token: bytes, named: bool) -> PQGen[tuple[PGresult, PGresult]]:
    """INSERT and COMMIT in one message; both answers, for `told`.  `named`: the INSERT may be
    prepared.  Raises where the session ends at one of them."""
    seen = wire.facts
    if seen is not None and seen.ledger is None:
        raise ConfigError(
            f"RESILIENT_COMMIT_RESOLVER=ledger, and there is no table {TABLE} in this database:"
            " run `resilient install-ledger --dsn …`, or set it to lsn"
        )
    pgconn = wire.pgconn
    wire.enter_pipeline()
    prepares = wire.send_own(INSERT_NAME, INSERT, [token], [_UUID_OID], named=named)
    pgconn.send_query_params(b"COMMIT", None)
    pgconn.pipeline_sync()
    yield from generators.send(pgconn)
    if prepares:
        prepared = yield from generators.fetch_many(pgconn)
        if prepared and prepared[0].status == pq.ExecStatus.COMMAND_OK:
            wire.names[INSERT_NAME] = prepares
        _raise_end(wire, prepared)
    inserted = yield from generators.fetch_many(pgconn)
    _raise_end(wire, inserted)
    committed = yield from generators.fetch_many(pgconn)
    try:
        yield from generators.fetch_many(pgconn)
        pgconn.exit_pipeline_mode()
    except e.OperationalError:
        # The answers are there; a session that ends behind them says nothing about them.
        pgconn.finish()
    return inserted[0], committed[0]  # what stands behind says nothing about it


def answer_of(wire: Wire, answers: tuple[PGresult, PGresult]) -> PGresult:
    """COMMIT's own answer.  Raises `Refused` when it is the INSERT that has failed."""
    inserted, committed = answers
    if inserted.status == _FATAL:
        raise Refused(wire.error(inserted))
    if committed.status == _FATAL:
        raise wire.error(committed)
    return committed


def _raise_end(wire: Wire, results: list[PGresult]) -> None:
    """The session has ended at this answer, or behind it: the next ones won't come."""
    for result in results:
        if result.status == _FATAL:
            error = wire.error(result)
            if ended(error):
                raise error
    if not results:
        raise e.OperationalError("the connection was lost")


def fence_of(token: bytes) -> bytes:
    """What a resolver writes beside a token that it fences off: the same, but for one bit."""
    return b"%032x" % (int(token, 16) ^ 1)


def verdict(pgconn: PGconn, token: bytes) -> PQGen[Verdict]:
    """What became of the COMMIT with this token, asked of the fenced primary.

    Two rows are inserted and committed together: the fence, then the token.  A fence that is there
    already was written by a resolver whose reply was lost: then the token is its, and proves
    nothing of the original.
    """
    for query in (b"BEGIN", LOCK_TIMEOUT):
        yield from _say(pgconn, query)
    fenced = yield from _insert(pgconn, fence_of(token))
    result = fenced
    if fenced.status != _FATAL:
        result = yield from _insert(pgconn, token)
    end = yield from _say(pgconn, b"ROLLBACK" if result.status == _FATAL else b"COMMIT")
    state = (result.error_field(pq.DiagnosticField.SQLSTATE) or b"").decode()
    if _FATAL not in (result.status, end.status):
        return Verdict(Outcome.NOT_COMMITTED, "its token was not in the ledger, and is fenced")
    if state == UNIQUE_VIOLATION and result is fenced:
        return Verdict(Outcome.NOT_COMMITTED, "its token is fenced")
    if state == UNIQUE_VIOLATION:
        return Verdict(Outcome.COMMITTED, "its token is in the ledger")
    if state == LOCK_NOT_AVAILABLE:
        return Verdict(Outcome.RUNNING, "its token is being written")
    error = e.error_from_result(result if result.status == _FATAL else end)
    if pgconn.status == pq.ConnStatus.BAD:
        raise error
    return Verdict(Outcome.UNKNOWN, f"the ledger can't be asked: {error}")


def _insert(pgconn: PGconn, token: bytes) -> PQGen[PGresult]:
    pgconn.send_query_params(INSERT, [token], param_types=[_UUID_OID])
    return (yield from _answer(pgconn))


def _say(pgconn: PGconn, query: bytes) -> PQGen[PGresult]:
    pgconn.send_query(query)
    return (yield from _answer(pgconn))


def _answer(pgconn: PGconn) -> PQGen[PGresult]:
    results = yield from generators.execute(pgconn)
    if not results:
        raise e.OperationalError("the connection was lost")
    first: PGresult = results[0]
    return first
