"""A forked child inherits its parent's pools, and must not speak on its parent's sockets.

In the child every inherited descriptor of a connection is replaced by /dev/null, so that
even closing it sends nothing to the parent's backend; the pools are emptied and open
themselves anew, with a monitor of their own, at the first checkout.
"""

from __future__ import annotations

import os
import weakref
from typing import Any

_pools: weakref.WeakSet[Any] = weakref.WeakSet()


def follow(pool: Any) -> None:
    """Take care of this pool in forked children."""
    _pools.add(pool)


def _after_fork_in_child() -> None:
    null = os.open(os.devnull, os.O_RDWR)
    try:
        for pool in list(_pools):
            for each in (pool, *pool._core.replicas.values()):
                _silence(each, null)
            _empty(pool)
    finally:
        os.close(null)


def _silence(pool: Any, null: int) -> None:
    shared = pool._core.shared
    if shared is not None:
        for link in list(shared.cluster.links.all_links()):
            link.replace(null)
        shared.prober.abandon(null)
    for conn in list(pool._pool):
        conn._closed = True


def _empty(pool: Any) -> None:
    core = pool._core
    core.shared = None
    core.after_fork()
    was_open = not pool._closed
    pool._pool.clear()
    pool._waiting.clear()
    pool._workers = []
    pool._sched_runner = None
    pool._growing = False
    pool._pool_full_event = None
    pool.__dict__.pop("_arranging", None)  # a thread that isn't here may hold it
    for name in ("_listening", "_locks"):  # the parent's sessions
        pool.__dict__.pop(name, None)
    pool._nconns = pool._min_size
    pool._closed, pool._opened = True, False
    pool._fresh_lock()
    core.reopen = was_open


os.register_at_fork(after_in_child=_after_fork_in_child)
