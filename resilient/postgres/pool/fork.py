"""A forked child inherits its parent's pools, and must not speak on its parent's sockets.

In the child every inherited descriptor of a connection is replaced by /dev/null, so that
even closing it sends nothing to the parent's backend; the pools are emptied and open
themselves anew, with a monitor of their own, at the first checkout.
"""

from __future__ import annotations

import os
import weakref
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .base import PoolCore

_cores: weakref.WeakSet[PoolCore] = weakref.WeakSet()


def follow(core: PoolCore) -> None:
    """Take care of this core's pool in forked children."""
    _cores.add(core)


def _after_fork_in_child() -> None:
    null = os.open(os.devnull, os.O_RDWR)
    try:
        for core in list(_cores):
            pool = core.lender()
            if pool is None:
                continue
            _silence(core, pool, null)
            for replica in core.replicas.values():
                _silence(replica.core, replica.pool, null)
            _empty(core, pool)
    finally:
        os.close(null)


def _silence(core: PoolCore, pool: Any, null: int) -> None:
    shared = core.shared
    if shared is not None:
        for link in list(shared.cluster.links.all_links()):
            link.replace(null)
        shared.prober.abandon(null)
    for conn in list(pool._pool):
        conn._closed = True


def _empty(core: PoolCore, pool: Any) -> None:
    was_open = not pool._closed
    core.after_fork(was_open)
    pool._pool.clear()
    pool._waiting.clear()
    pool._workers = []
    pool._sched_runner = None
    pool._growing = False
    pool._pool_full_event = None
    pool.__dict__.pop("_arranging", None)  # a thread that isn't here may hold it
    pool._nconns = pool._min_size
    pool._closed, pool._opened = True, False
    core.calls.fresh_lock()


os.register_at_fork(after_in_child=_after_fork_in_child)
