"""A replica's reserve: `STANDBY_MIN_SIZE` connections that no caller has had.

A session that a caller had may hold what no journal knows: a role, a tenant, limits, names, locks
that a function took; DISCARD ALL doesn't clear all of it.  When the replica becomes the primary,
only sessions of the reserve go to those who wait for the writer, and under their open blocks.
"""

from __future__ import annotations

from collections import deque
from typing import Any

from ..session.keeper import keeper_of


class Reserve:
    """Mixed in front of a replica's pool."""

    _pool: deque[Any]
    _nconns: int
    _min_size: int
    _max_size: int

    def _spares(self) -> bool:
        """Whoever reads gets one that was lent before, while there is one; one of the reserve only
        if another takes its place.  True: one is there for them.  Under the pool's lock."""
        if self._used_first():
            return True
        return len(self._pool) > self._min_size or self._nconns < self._max_size

    def _used_first(self) -> bool:
        """Turn the idle ones until the next was lent before.  False: none was."""
        pool = self._pool
        for _ in range(len(pool)):
            if was_lent(pool[0]):
                return True
            pool.rotate(-1)
        return False

    def _restock(self) -> None:
        """Have the reserve made up."""
        if sum(not was_lent(conn) for conn in self._pool) < self._min_size:
            self._maybe_grow_pool()  # type: ignore[attr-defined]


def was_lent(conn: Any) -> bool:
    """Has a caller had it?  One that something else has made counts as such."""
    keeper = keeper_of(conn)
    return keeper is None or keeper.lent or not keeper.hooked
