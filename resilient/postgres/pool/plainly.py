"""A checkout where nothing is the matter, and its end: psycopg_pool's part and ours in one piece.

Each call pays for it.  Whatever is out of the ordinary (nobody idle, somebody who waits, a `check`
or a `reset`, an evicted link, a reader's connection, a log that is read at INFO) goes the long
way, through psycopg_pool's methods, to the same end.
"""

from __future__ import annotations

import logging
from collections import Counter, deque
from time import monotonic
from typing import TYPE_CHECKING, Any

from psycopg import pq

from ..session.keeper import Keeper

if TYPE_CHECKING:
    from .._psycopg import BaseConnection
    from ..session.keeper import KeptConnection
    from .base import PoolCore

#: a connection that is given out again sooner isn't looked at again, in seconds
LOOK_S = 0.001
#: psycopg_pool's: it tells of each checkout
pool_logger = logging.getLogger("psycopg.pool")

_IDLE = pq.TransactionStatus.IDLE


class Plainly:
    """Mixed in front of a psycopg_pool class, of either shell: nothing here waits."""

    _core: PoolCore
    _pool: deque[Any]
    _closed: bool
    _nconns_min: int
    _check: Any
    _reset: Any
    _open_implicit: bool
    _drained_at: float
    _stats: Counter[str]
    #: who comes back stays (a Null pool keeps nobody)
    _keeps_idle = True
    _discard_task: type[Any]

    if TYPE_CHECKING:

        def _fit(self, conn: BaseConnection[Any]) -> bool: ...
        def run_task(self, task: Any) -> None: ...

    def _plainly(self, timeout: float | None) -> bool:
        """May whoever asks for nothing special take the next idle connection?  Not where it is
        checked first, or where somebody reads of it in the log."""
        core = self._core
        shared = core.shared
        return (
            shared is not None
            and core.plain_in is shared.cluster.topology
            and not (core.read_from or self._closed or self._check or self._open_implicit)
            and (timeout is None or timeout > 0)
            and not pool_logger.isEnabledFor(logging.INFO)
        )

    def _next_idle(self, now_s: float) -> Any:
        """Take it, if it is fit.  Under the pool's lock, or on its loop."""
        idle = self._pool
        if not idle:
            return None
        conn: KeptConnection = idle.popleft()
        self._nconns_min = min(self._nconns_min, len(idle))
        link = conn._resilient.wire.link
        looked_at = link is not None and not link.evicted and now_s - link.looked_at < LOOK_S
        if looked_at or self._fit(conn):
            return conn
        self.run_task(self._discard_task(self, [conn]))
        return None

    def _hand_out(self, conn: Any, began_s: float) -> Any:
        """It goes to whoever began to ask then."""
        conn._pool = self
        self._stats["requests_num"] += 1
        core, keeper = self._core, conn._resilient
        keeper.on_checkout(core)
        core.handed_at_once(keeper, began_s)
        return conn

    def _comes_plainly(self, conn: Any) -> bool:
        """A checkout is over: is there nothing to do but to keep its connection?  Then the rest
        is done."""
        keeper: Any = getattr(conn, "_resilient", None)
        if keeper.__class__ is not Keeper or conn._pool is not self:
            return False
        wire = keeper.wire
        link = wire.link
        if (
            link is None
            or link.evicted
            or wire.told_read_only
            or keeper.for_reading
            or conn.pgconn.transaction_status != _IDLE
            or conn._tpc
            or conn._expire_at <= monotonic()
            or conn._created_at <= self._drained_at
            or self._closed
            or self._reset
            or self._core.read_from
            or not self._keeps_idle
            or pool_logger.isEnabledFor(logging.INFO)
        ):
            return False
        self._core.came_back(conn)
        keeper.on_checkin(resets=False)
        conn._pool = None
        return True
