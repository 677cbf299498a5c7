"""What stands beside a connection: its link, and whoever records, replays and commits for it.

The class that a caller sees has one attribute for all of it, `_resilient`.  It holds no reference
to its connection, so that this goes when its caller lets it go.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from psycopg import errors as e
from psycopg import pq

from ...core.reaction import Sent
from ...monitor.sockets import Link

if TYPE_CHECKING:
    from .._psycopg import BaseConnection
    from ..commit.committer import Committer
    from ..commit.knowledge import Knowledge
    from ..replay.recorder import Recorder
    from .host import Gen, PoolSide, PsycopgHost

#: the attribute that every connection has of ours
ATTRIBUTE = "_resilient"


class Keeper:
    """Beside one connection.

    `recorder`: while it is checked out and what is done with it is recorded.  `lent`: a caller has
    had it.  `hooked`: it is of a class that the library has derived.  `writes`: its checkout is an
    explicit write.
    """

    __slots__ = (
        "_before",
        "_recorded",
        "_recorder",
        "committer",
        "cursors",
        "hooked",
        "host",
        "judge",
        "lent",
        "out_since_s",
        "recorder",
        "records",
        "wire",
        "writes",
    )

    def __init__(
        self,
        host: PsycopgHost,
        committer: Committer,
        recorded: Callable[[Committer, Knowledge, bool], Recorder],
        *,
        hooked: bool,
    ) -> None:
        self.host = host
        self.committer = committer
        self.judge = committer.judge
        self.wire = committer.wire
        self._recorded = recorded
        self._recorder: Recorder | None = None
        self.recorder: Recorder | None = None
        #: what is done with it is recorded while it is checked out
        self.records = False
        self.hooked = hooked
        #: the classes of the cursors that it has made, and what became of them: they live as long
        self.cursors: dict[type[Any], type[Any]] = {}
        self.lent = self.writes = False
        #: when it was checked out, in monotonic seconds; 0: it isn't
        self.out_since_s = 0.0
        #: while it is lent for reading: what its `read_only` was before, in a tuple
        self._before: tuple[bool | None] | None = None

    @property
    def link(self) -> Link | None:
        return self.wire.link

    # -- checkouts

    def belongs(self, pool: PoolSide) -> None:
        """The pool has made it."""
        self.judge.core = pool

    def meet(self, pool: PoolSide) -> Gen:
        """Nobody waits for it yet: its server is asked what its first block would have to ask."""
        if self.hooked and not self.wire.pooled and pool.settings.commit_resolver != "off":
            replayer = self.committer.replayer
            replayer.ask(True)
            yield from while_open(self.wire.pgconn, replayer.meet())

    def on_checkout(self, pool: PoolSide) -> None:
        """What its caller does with it is recorded from here on."""
        self.lent = True
        recorder = self._recorder
        if recorder is None:
            if not self.hooked:
                return
            recorder = self._recorder = self._recorder_for(pool)
        judge = self.judge
        judge.core = pool
        judge.struck = {}
        session = judge.session
        if session.settings or session.hazard:
            session.clear()  # the one before may have left it differently: nobody relies on it
        earlier = judge.journal.earlier
        if earlier:
            if earlier.kinds is None and earlier.names is None:
                earlier.clear()
            else:
                judge.journal.forget_earlier()
        if self.records:
            judge.recording = True
            self.recorder = recorder

    def _recorder_for(self, pool: PoolSide) -> Recorder:
        """At the first checkout."""
        settings = pool.settings
        self.wire.forget_names()
        self.judge.journal.bound(settings.replay_max_statements, settings.replay_max_bytes)
        asks = self.committer.resolves_by(settings.commit_resolver)
        self.records = asks or settings.replay == "on"
        return self._recorded(self.committer, pool.known, settings.autocommit == "block")

    def on_checkin(self, resets: bool) -> None:
        """It is given back: what the pool does with it is not for recording.  `resets`: settings
        are a callback's from here on."""
        judge = self.judge
        judge.core = None
        self.writes = False
        if self.recorder is None:
            return
        self.recorder = None
        judge.recording = False
        self.host.settle()
        judge.journal.close()
        if resets:
            judge.session.clear()

    @property
    def marked(self) -> bool:
        """Has this checkout left something in the session?  As far as was recorded."""
        session = self.judge.session
        return bool(session.settings or session.hazard)

    @property
    def for_reading(self) -> bool:
        return self._before is not None

    def lend_for_reading(self) -> None:
        before = self.host.ask_read_only()
        if self._before is None:
            self._before = (before,)
        if self.recorder is not None:
            self.recorder.reads(True)

    def start_reading(self, start: Callable[[], Gen]) -> Gen:
        """A statement begins that nobody records."""
        yield from self.wire.tell_read_only(self.host.autocommit)
        yield from start()

    def end_reading(self) -> None:
        if self._before is not None:
            self.host.restore_read_only(self._before[0])
            self._before = None
            if self._recorder is not None:
                self._recorder.reads(False)

    def share_strikes(self, struck: dict[bytes, int]) -> None:
        """This checkout is one of several attempts at the same."""
        self.judge.struck = struck

    # -- failures

    def stops(self, exc: e.Error) -> bool:
        """May it have been meant for this session alone?"""
        return self.judge.reaction(exc, Sent.BLOCK).stops

    def untell_read_only(self) -> Gen:
        return self.wire.untell_read_only()


if TYPE_CHECKING:

    class KeptConnection(BaseConnection[Any]):
        """psycopg's connection, with what stands beside it."""

        _resilient: Keeper


def keeper_of(conn: object) -> Keeper | None:
    """What stands beside a connection; None where something else has made it."""
    found = getattr(conn, "_resilient", None)  # its name is `ATTRIBUTE`: every checkout is here
    return found if found.__class__ is Keeper else None


def insist(conn: object) -> None:
    """Its checkout is an explicit write: it goes on at a primary, or nowhere."""
    keeper = keeper_of(conn)
    if keeper is not None:
        keeper.writes = True


def insists(conn: object) -> bool:
    keeper = keeper_of(conn)
    return keeper is not None and keeper.writes


def link_of(conn: object) -> Link | None:
    """What ties a connection to its endpoint."""
    found = getattr(conn, ATTRIBUTE, None)
    return found.wire.link if found is not None else None


def close(conn: BaseConnection[Any]) -> None:
    """Close a connection of either kind, here and now: it has no pool any more."""
    conn._pool = None
    conn._closed = True
    conn.pgconn.finish()


def place_of_broken(conn: BaseConnection[Any]) -> Any:
    """The pool whose place this connection takes, that has ended broken, and to which `close`
    is to return it; psycopg's does nothing with such a connection, and the place is lost."""
    pool: Any = getattr(conn, "_pool", None)
    returns = conn.pgconn.status == pq.ConnStatus.BAD and getattr(pool, "close_returns", False)
    return pool if returns and not conn._closed else None


def while_open(pgconn: pq.abc.PGconn, gen: Gen) -> Gen:
    """What is asked beside a caller: ends with `OperationalError` once the connection is closed.

    `configure` may have given the connection to somebody who closes it meanwhile, and psycopg's
    compiled generators go on with the memory of a connection that is gone.
    """
    try:
        item = next(gen)
        while True:
            ready = yield item
            if pgconn.status == pq.ConnStatus.BAD:
                raise e.OperationalError("the connection was closed")
            item = gen.send(ready)
    except StopIteration as stop:
        return stop.value
    finally:
        gen.close()
