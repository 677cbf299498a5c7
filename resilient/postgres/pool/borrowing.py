"""How a pool lends an idle connection to a probe, and gets it back.

A probe on a connection that exists anyway costs its server no backend.  The monitor borrows
the connection that would be used last, asks its question, and returns it through the pool's
own `_add_to_pool`, which serves who waits.  It waits for nobody's lock: a thread pool's is
tried, and an asyncio pool is asked on its own loop, for `HOP_S` at most.

What is lent belongs to the pool as a checkout does (`_nconns`); until `OVERDUE_S` it also counts
as available, and the pool doesn't grow for a caller who finds it gone.

What n processes cost a server, with the settings' defaults: n probes a second, up to n × 40
for 10 s while no writer is known; and no backend more, where each has an idle connection.
Where it has none it has one dedicated connection, and a further one for each probe that is sent
while others are unanswered, `health.MAX_OUTSTANDING` at most and not faster than `core.health`
says; each is closed `probe.IDLE_S` after its last use.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from psycopg import pq
from psycopg.abc import PQGen

from ...core.model import Endpoint
from .._psycopg import BaseConnection
from ..session.keeper import close, link_of

if TYPE_CHECKING:
    from ...core.reach import Asked
    from .calls import Calls

T = TypeVar("T")
Conn = BaseConnection[Any]

#: how long an asyncio pool's loop may take to answer, in seconds.  Longer than a callback that
#: renders a page: a session more at each server would help nobody whose loop is busy.
HOP_S = 0.1
#: pause before a lock that somebody holds is tried again, and how often
RETRY_S, TRIES = 0.001, 3
#: a probe on a lent connection that isn't answered by then is late: the pool may grow
OVERDUE_S = 0.1
#: an answer that takes as long comes no more: where others of that server are answered, the
#: connection itself is dead
GIVE_UP_S = 10.0
#: a replica's only connection, last taken longer ago, may be kept from a reader for a moment
UNREAD_S = 2.0

_IDLE = pq.TransactionStatus.IDLE


class Lender(Protocol):
    """A pool's core: `lender` gives the pool, `lent` is what it has lent, `taken` how many
    checkouts a probe has seen, and `taken_at` when it last saw a new one.  `keeps_idle`: who comes
    back to it stays."""

    lender: Callable[[], Any]
    calls: Calls
    keeps_idle: bool
    lent: set[Conn]
    taken: int
    taken_at: float

    def serves(self, endpoint: Endpoint) -> bool:
        """Do the pool's connections go there?"""
        ...


class Abandoned(Exception):
    """The connection was ruled out while a probe waited on it, or doesn't answer."""


def lendable(conn: Conn, endpoint: Endpoint) -> bool:
    """May a probe of the endpoint use this idle connection?

    Not one with handlers for notices or notifications: they are the user's code.
    """
    link = link_of(conn)
    return (
        link is not None
        and link.endpoint == endpoint
        and not (link.evicted or link.readable(0))
        and conn.pgconn.transaction_status == _IDLE
        and not (conn._notice_handlers or conn._notify_handlers)
    )


def is_evicted(conn: Conn) -> bool:
    """A new topology ruled the connection out."""
    link = link_of(conn)
    return link is not None and bool(link.evicted)


def idle(core: Lender, endpoint: Endpoint) -> int:
    """How many idle connections to the endpoint the pool seems to have; one that was lent and is
    on its way back to an asyncio pool will be there first."""
    pool = core.lender()
    if pool is None or not core.serves(endpoint):
        return 0
    return len(pool._pool) + len(core.lent)


def sessions(core: Lender, endpoint: Endpoint) -> int:
    """How many sessions of the endpoint the pool has, or is about to have."""
    pool = core.lender()
    return pool._nconns if pool is not None and core.serves(endpoint) else 0


def keeps(core: Lender, endpoint: Endpoint) -> bool:
    """Does the pool keep connections to the endpoint, so that one can be idle?"""
    return core.lender() is not None and core.keeps_idle and core.serves(endpoint)


def unread(core: Lender) -> bool:
    """Has nobody taken a connection of this pool for `UNREAD_S`?  As far as probes saw."""
    pool = core.lender()
    now = time.monotonic()
    count = pool._stats["requests_num"] if pool is not None else 0
    if count != core.taken:
        core.taken, core.taken_at = count, now
    return now - core.taken_at > UNREAD_S


async def borrow(core: Lender, endpoint: Endpoint) -> Borrowed | None:
    """An idle connection of this pool to the endpoint; None when there is none at once."""
    answer: Future[Conn | None] = Future()
    for _ in range(TRIES):
        if _asked(core, endpoint, answer):
            break
        await asyncio.sleep(RETRY_S)
    else:
        return None
    if not answer.done():
        try:
            async with asyncio.timeout(HOP_S):
                await asyncio.wrap_future(answer)
        except BaseException as exc:
            # The pool may be handing one over just now: it goes back.
            answer.add_done_callback(partial(_refuse, core))
            if isinstance(exc, TimeoutError):
                return None
            raise
    conn = answer.result()
    return None if conn is None else Borrowed(core, conn)


def _asked(core: Lender, endpoint: Endpoint, answer: Future[Conn | None]) -> bool:
    # In a frame of its own: no reference to a pool is kept while something is waited for.
    pool = core.lender()
    if pool is None or pool.closed:
        answer.set_result(None)
        return True
    try:
        return bool(core.calls.try_lend(endpoint, answer))
    except RuntimeError:  # its loop is closed
        answer.set_result(None)
        return True


def _refuse(core: Lender, answer: Future[Conn | None]) -> None:
    if not answer.cancelled() and (conn := answer.result()) is not None:
        _returned(core, conn)  # an asyncio pool's: it has no lock to be tried


def _returned(core: Lender, conn: Conn) -> bool:
    pool = core.lender()
    if pool is not None and not pool.closed:
        try:
            return bool(core.calls.try_return(conn))
        except RuntimeError:  # its loop is closed
            pass
    core.lent.discard(conn)
    close(conn)
    return True


class Lending:
    """Mixed in front of a psycopg_pool class, of either shell.  Under the pool's lock, or on its
    loop; only `_have_looked_up` on any thread."""

    _core: Any  # a `Lender`: the shell says which
    _pool: deque[Any]
    _waiting: deque[Any]
    _closed: bool
    _drained_at: float
    _discard_task: type[Any]
    #: one of its methods, done by a worker
    _work: type[Any]

    if TYPE_CHECKING:

        def run_task(self, task: Any) -> None: ...
        def _look_up(self, reads: list[Asked], idle: int) -> Any: ...

    def _lend(self, endpoint: Endpoint, answer: Future[Conn | None]) -> None:
        """Answer with the connection that would be used last, or with None."""
        if not answer.set_running_or_notify_cancel():
            return  # too late
        for conn in reversed(self._pool):
            if lendable(conn, endpoint):
                self._pool.remove(conn)
                self._core.lent.add(conn)
                answer.set_result(conn)
                return
        answer.set_result(None)

    def _overdue(self, conn: Conn) -> None:
        """A lent connection is overdue."""
        self._core.lent.discard(conn)
        if self._waiting:
            self._maybe_grow_pool()

    def _sound(self, conn: Conn) -> bool:
        """A connection is back: may it be given to somebody?  If not, it is dealt with."""
        self._core.lent.discard(conn)
        if self._closed:
            close(conn)
            return False
        idle = conn.pgconn.transaction_status == _IDLE
        if idle and not is_evicted(conn) and conn._created_at > self._drained_at:
            return True
        self.run_task(self._discard_task(self, [conn]))
        return False

    def _maybe_grow_pool(self) -> None:
        # Who finds a connection lent has it in less time than a new one takes.
        lent = len(self._core.lent)
        if not lent or len(self._waiting) > lent:
            super()._maybe_grow_pool()  # type: ignore[misc]

    def _have_looked_up(self, reads: list[Asked], idle: int) -> bool:
        """Have a worker ask the catalogue whether these can only read, where so many connections
        are idle.  False: there aren't."""
        if len(self._pool) < idle:
            return False
        self.run_task(self._work(self, self._look_up, reads, idle))
        return True

    def _spare(self, least: int) -> Conn | None:
        """The connection that would be used last, where so many are idle: lent, as to a probe."""
        if len(self._pool) < least:
            return None
        conn: Conn = self._pool[-1]
        link = link_of(conn)
        if link is None or not lendable(conn, link.endpoint):
            return None
        self._pool.pop()
        self._core.lent.add(conn)
        return conn


class Borrowed:
    """One connection in the monitor's hands.  Used on the monitor's loop."""

    def __init__(self, core: Lender, conn: Conn) -> None:
        link = link_of(conn)
        assert link is not None
        self.conn, self.link = conn, link
        self._core = core

    def watch(self, gen: PQGen[T]) -> PQGen[T]:
        """Pass a query's generator through; `Abandoned` once nobody may wait on its server."""
        give_up_at = time.monotonic() + GIVE_UP_S
        try:
            wait = next(gen)
            while True:
                ready = yield wait
                if self.link.evicted or time.monotonic() >= give_up_at:
                    gen.close()
                    raise Abandoned
                wait = gen.send(ready)
        except StopIteration as stop:
            value: T = stop.value
            return value

    def late(self) -> None:
        """It may take long: from here on it is out of the pool as a checkout is."""
        core = self._core
        pool = core.lender()
        with suppress(RuntimeError):  # its loop is closed
            if pool is not None and not pool.closed and not core.calls.try_overdue(self.conn):
                asyncio.get_running_loop().call_later(RETRY_S, self.late)

    async def settle(self) -> None:
        """Give it back."""
        try:
            while True:
                if _returned(self._core, self.conn):
                    return
                await asyncio.sleep(RETRY_S)
        except asyncio.CancelledError:
            self._settle_later()
            raise

    def _settle_later(self) -> None:
        # Where the monitor ends its pools are closed, and then it takes no lock.
        if not _returned(self._core, self.conn):
            asyncio.get_running_loop().call_later(RETRY_S, self._settle_later)
