"""What recorder, replayer and committer need of a connection, and psycopg's connection as that.

`Host` is all that they know of the object that the caller holds; a test gives them another one.
`PoolSide` is all that they know of the pool.  psycopg's private names, of its connections, are
used here and in the hooks alone.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Protocol
from weakref import ref

from psycopg import IsolationLevel, pq
from psycopg import errors as e
from psycopg.pq.abc import PGresult

from ...core.model import Endpoint
from ...monitor.sockets import Link
from ...settings import Settings
from .._psycopg import BaseConnection, Prepare
from .answers import answered

if TYPE_CHECKING:
    from psycopg.abc import ConnectionType

    from ...core.reach import Asked
    from .._psycopg import BaseCursor, PostgresQuery, PrepareManager
    from ..commit.facts import CommitFacts
    from ..commit.knowledge import Knowledge
    from ..replay.entry import Entry

Gen = Generator[Any, Any, Any]

_IDLE = pq.TransactionStatus.IDLE
_DONE = frozenset((pq.ExecStatus.COMMAND_OK, pq.ExecStatus.TUPLES_OK))
_FATAL = pq.ExecStatus.FATAL_ERROR


class Host(Protocol):
    """The connection that the caller holds.  Generators are for its `wait`."""

    @property
    def autocommit(self) -> bool: ...

    @property
    def read_only(self) -> bool:
        """Its transactions are asked to be."""

    @property
    def serializable(self) -> bool: ...

    @property
    def closed(self) -> bool:
        """By its caller, not by its server."""

    @property
    def prepares(self) -> bool:
        """May statements be prepared on it?"""

    def begin(self) -> bytes:
        """BEGIN, when the next statement needs one before it."""

    def command(self, command: bytes) -> Gen:
        """A command, sent by psycopg alone."""

    def swap(self, fresh: Host) -> None:
        """Go on with the session of that one, under the object that the caller holds."""

    def prepare(self, entry: Entry, wanted: bool | None) -> tuple[Prepare | None, bytes]:
        """Is this statement prepared, or to be prepared now, and by which name?  None: it isn't,
        and that is noted."""

    def prepared(self, entry: Entry, how: Prepare, name: bytes, results: list[PGresult]) -> None:
        """It was sent so, and answered.  Of one that was prepared before, or isn't and is noted,
        there is nothing to note."""

    def tidy(self) -> Iterable[Any]:
        """Have the server drop what was prepared and isn't used any more."""

    def forget(self, asked: Asked | None) -> bool:
        """Forget all that is prepared.  False: this statement isn't, and nothing was done."""


class PoolSide(Protocol):
    """The pool that a connection was checked out of."""

    settings: Settings
    known: Knowledge

    @property
    def place(self) -> object:
        """The configured names that it follows."""

    @property
    def over(self) -> bool:
        """It is closed: nobody dials for its connections."""

    def lost(self, link: Link | None, exc: BaseException, broken: bool) -> object:
        """A failure that may say something of the endpoint."""

    def locks_out(self, link: Link, refusal: BaseException) -> bool:
        """Is the server up, and doesn't let this user or database in any more?"""

    def crowded(self) -> bool:
        """Had the server that was dialled last no room?"""

    def met(self, endpoint: Endpoint, seen: CommitFacts) -> None:
        """A session's server says where its timeline began."""

    def withdraw(self) -> bool:
        """May one more retry be made?"""

    @property
    def labels(self) -> Mapping[str, str]:
        """What its lines say of it."""

    def missed(self, began_s: float, error: BaseException) -> None:
        """A call has waited since then (monotonic) for another session, and has none."""

    def replayed(self, endpoint: Endpoint | None, statements: int, seconds: float) -> None:
        """A transaction stands again, on this endpoint."""

    def not_replayed(self, why: str) -> None:
        """One can't be done again."""

    def mismatched(self, endpoint: Endpoint | None, statement: str, found: str) -> None:
        """One was, and gave its caller something else than before."""

    def resolved(self, outcome: str, reason: str) -> None:
        """What became of a COMMIT whose reply was lost."""

    def look_up(self, reads: list[Asked], idle: int) -> bool:
        """Have the catalogue asked whether these can only read, while nobody waits for it, where so
        many connections are idle.  False: that can't be had."""

    def cut_at(self, when_s: float, link: Link, why: str) -> None:
        """Shut its socket down at a monotonic time, unless it is let go before."""


if TYPE_CHECKING:

    class RecordedCursor(BaseCursor[ConnectionType, Any]):
        """psycopg's cursor with the hooks that `cursor` puts into its class."""

        def _resilient(self, pgq: PostgresQuery, prepare: bool | None, fmt: pq.Format) -> Gen:
            """One statement, outside of a pipeline, sent and answered."""
            raise NotImplementedError

        def _by_psycopg(
            self, pgq: PostgresQuery, *, prepare: bool | None = None, binary: bool | None = None
        ) -> Gen:
            """The base class's own `_maybe_prepare_gen`."""
            raise NotImplementedError


def name_of(manager: PrepareManager, query: PostgresQuery, prepare: bool | None) -> bytes | None:
    """By which name the statement is prepared; empty: it isn't, and is sent as it is.  None: it is
    psycopg's to say, or to prepare.  What psycopg would note of it is noted."""
    threshold = manager.prepare_threshold
    if threshold is None:
        return b""
    asked = (query.query, query.types)
    if prepare is not False:
        name = manager._names.get(asked)
        if name is not None:
            manager._names.move_to_end(asked)
            return name
    counts = manager._counts
    count = counts.get(asked)
    if count is None or (prepare is not False and (prepare or count >= threshold)):
        return None
    counts[asked] = count + 1
    counts.move_to_end(asked)
    return b""


class PsycopgHost:
    """psycopg's connection, sync or async."""

    __slots__ = ("_adapters", "_conn")

    def __init__(self, conn: BaseConnection[Any]) -> None:
        self._conn = ref(conn)
        #: those that the present session's `configure=` made, in a tuple, for later checkouts
        self._adapters: tuple[Any] | None = None

    @property
    def conn(self) -> BaseConnection[Any]:
        """Held weakly: it goes when its caller lets it go."""
        conn = self._conn()
        assert conn is not None
        return conn

    # What each statement asks is without further calls.

    @property
    def autocommit(self) -> bool:
        conn: Any = self._conn()
        return bool(conn._autocommit)

    @property
    def read_only(self) -> bool:
        conn: Any = self._conn()
        return bool(conn._read_only)

    @property
    def serializable(self) -> bool:
        return self.conn._isolation_level is IsolationLevel.SERIALIZABLE

    @property
    def closed(self) -> bool:
        return self.conn._closed

    @property
    def prepares(self) -> bool:
        return self.conn._prepared.prepare_threshold is not None

    def begin(self) -> bytes:
        conn: Any = self._conn()
        if conn._autocommit or conn.pgconn.transaction_status != _IDLE:
            return b""
        found: bytes = conn._begin_statement or conn._get_tx_start_command()
        return found

    def command(self, command: bytes) -> Gen:
        conn = self.conn
        if conn._pipeline is not None:
            return (yield from BaseConnection._exec_command(conn, command))
        conn._check_connection_ok()
        pgconn = conn.pgconn
        pgconn.send_query(command)
        results = yield from answered(pgconn)
        if len(results) == 1 and results[0].status in _DONE:
            return results[0]
        for result in results:
            if result.status == _FATAL:
                raise e.error_from_result(result, encoding=pgconn._encoding)
        raise e.InternalError(f"{len(results)} answers to {command.decode()!r}")

    def swap(self, fresh: Host) -> None:
        assert isinstance(fresh, PsycopgHost)
        mine, theirs = self.conn, fresh.conn
        old, new = mine.pgconn, theirs.pgconn
        new.notice_handler, new.notify_handler = old.notice_handler, old.notify_handler
        mine.pgconn, theirs.pgconn = new, old
        old.finish()
        # The names of the old session mean nothing here, and need no DEALLOCATE.  Those of the
        # new one are what its `configure=` and `check=` have prepared.
        prepared, others = mine._prepared, theirs._prepared
        prepared._counts, prepared._names = others._counts.copy(), others._names.copy()
        prepared._prepared_idx = others._prepared_idx
        prepared._to_flush.clear()
        mine._created_at, mine._expire_at = theirs._created_at, theirs._expire_at
        self._adapters = (theirs._adapters,)

    def ask_read_only(self) -> bool | None:
        """Transactions are read-only from here on; what they were before."""
        before = self.conn._read_only
        self.restore_read_only(True)
        return before

    def restore_read_only(self, value: bool | None) -> None:
        conn = self.conn
        conn._read_only = value
        conn._begin_statement = b""

    def settle(self) -> None:
        """The checkout is over, and with it the adapters that its caller has made."""
        if self._adapters is not None:
            (self.conn._adapters,), self._adapters = self._adapters, None

    def prepare(self, entry: Entry, wanted: bool | None) -> tuple[Prepare | None, bytes]:
        query: Any = entry  # it has what psycopg's query has
        conn: Any = self._conn()
        manager = conn._prepared
        name = name_of(manager, query, wanted)
        if name is not None:
            return (Prepare.YES if name else None), name
        found: tuple[Prepare, bytes] = manager.get(query, wanted)
        return found

    def prepared(self, entry: Entry, how: Prepare, name: bytes, results: list[PGresult]) -> None:
        query: Any = entry
        manager = self.conn._prepared
        key = manager.maybe_add_to_cache(query, how, name)
        if key is not None:
            manager.validate(key, how, name, results)

    def tidy(self) -> Iterable[Any]:
        conn: Any = self._conn()
        prepared = conn._prepared
        return prepared.maintain_gen(conn) if prepared._to_flush else ()

    def forget(self, asked: Asked | None) -> bool:
        prepared: Any = self.conn._prepared
        if asked not in prepared._names:
            return False
        prepared.clear()
        return True
