"""The private names of the client and core libraries that this package needs, in one place.

A transport's `_pool`; a connection pool's `_network_backend`, `_ssl_context`,
`_max_keepalive_connections`, `_max_connections`, `_optional_thread_lock`, `_connections`,
`_requests`, `_assign_requests_to_connections` and `_close_connections`.  `missing` lists
those that an installed version lacks; a test keeps it empty.
"""

from __future__ import annotations

from typing import Any

_POOL = (
    "_network_backend",
    "_ssl_context",
    "_max_keepalive_connections",
    "_max_connections",
    "_optional_thread_lock",
    "_connections",
    "_requests",
    "_assign_requests_to_connections",
    "_close_connections",
)


def missing(transport: Any) -> list[str]:
    """The private names that this transport doesn't have."""
    pool = getattr(transport, "_pool", None)
    return ["_pool"] if pool is None else [name for name in _POOL if not hasattr(pool, name)]


def ssl_context(transport: Any) -> Any:
    return transport._pool._ssl_context


def pin(transport: Any, backend: Any) -> None:
    """Let the transport's pool dial through `backend`."""
    transport._pool._network_backend = backend


def backend(transport: Any) -> Any:
    return transport._pool._network_backend


def expire(transport: Any) -> list[Any]:
    """Take expired connections out of the pool, to be closed by the caller."""
    pool = transport._pool
    with pool._optional_thread_lock:
        return list(pool._assign_requests_to_connections())


def retire(transport: Any) -> list[Any]:
    """Keep no connection alive from now on; returns the idle ones, to be closed.

    Those in flight go when they finish.
    """
    transport._pool._max_keepalive_connections = 0
    return expire(transport)


def busy(transport: Any) -> bool:
    """True while a request is under way or its response isn't closed."""
    return bool(transport._pool._requests)


def idle(transport: Any) -> int:
    """How many connections wait for a request."""
    return sum(bool(connection.is_idle()) for connection in tuple(transport._pool._connections))


def size(transport: Any) -> int:
    """How many connections there may be."""
    limit: int = transport._pool._max_connections
    return limit


def keepalive_limit(transport: Any) -> int:
    limit: int = transport._pool._max_keepalive_connections
    return limit


def connections(transport: Any) -> list[Any]:
    """All connections, without the pool's lock (for a forked child, where nobody holds it
    but it may look held)."""
    return list(transport._pool._connections)
