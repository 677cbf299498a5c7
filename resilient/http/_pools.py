"""The connection pool of a transport: one for all endpoints, so that its limits hold over all.

It is the core library's own pool.  Only what it calls an origin is an endpoint here
(`_slot.Route`), and what it dials is decided by the attempt under way.

The private names of the client and core libraries that this package needs are in one place,
here: a transport's `_pool`, a client's `_timeout`; a pool's `_network_backend`, `_ssl_context`,
`_max_connections`, `_max_keepalive_connections`, `_keepalive_expiry`, `_http1`, `_http2`,
`_retries`, `_local_address`, `_socket_options`, `_optional_thread_lock`, `_connections`,
`_requests`, `_assign_requests_to_connections`, `_close_connections`; a connection's
`_connection`, `_origin`, `_connect`, `_connect_failed`; and in `_http2` those of its HTTP/2
side.  `missing` lists those that
an installed version lacks; a test keeps it empty.
"""

# long: all that is known of the inside of the core libraries' pools
from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from math import inf
from typing import Any

import anyio

from . import _http2
from ._attempt import CURRENT, Attempt, clock
from ._library import Library
from ._slot import Route
from ._uploads import Upload

_POOL = (
    "_network_backend",
    "_ssl_context",
    "_max_connections",
    "_max_keepalive_connections",
    "_keepalive_expiry",
    "_http1",
    "_http2",
    "_retries",
    "_local_address",
    "_socket_options",
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


class Target:
    """The URL of one attempt, as a core pool reads it."""

    __slots__ = ("attempt", "host", "port", "scheme", "target")

    def __init__(self, url: Any, attempt: Attempt) -> None:
        self.scheme, self.host, self.port, self.target = url.scheme, url.host, url.port, url.target
        self.attempt = attempt

    @property
    def origin(self) -> Route:
        return self.attempt.slot.route


def _direct(request: Any, attempt: Attempt) -> None:
    """Make a core request this attempt's own: its endpoint, its time, its headers."""
    request.url = Target(request.url, attempt)
    call = attempt.call
    if not call.replayable:
        request.stream = Upload(request.stream)
    given = request.extensions.get("timeout") or {}
    pool_s = min(call.pool_s, max(0.001, call.deadline_s - attempt.began_s))
    if pool_s != given.get("pool"):
        timeouts = {**given, "pool": None if pool_s == inf else pool_s}
        request.extensions = {**request.extensions, "timeout": timeouts}
    if call.key is not None:
        request.headers = [*request.headers, (b"Idempotency-Key", call.key.encode("ascii"))]
    name = call.policy.deadline_header
    if name is not None and all(known.lower() != name.lower() for known, _ in request.headers):
        left_s = min(call.deadline_s - clock(), given.get("read") or inf)
        if left_s < inf:
            request.headers = [*request.headers, (name, b"%.3f" % max(0.0, left_s))]


_types: dict[type, type] = {}


def _pool_type(library: Library, blocking: bool) -> type:
    core = library.core
    base = core.ConnectionPool if blocking else core.AsyncConnectionPool
    known = _types.get(base)
    if known is None:
        known = _types[base] = _make_pool_type(base, _connection_type(library, blocking), blocking)
    return known


# long: a class over whichever base the library has
def _connection_type(library: Library, blocking: bool) -> type:
    base = library.core.HTTPConnection if blocking else library.core.AsyncHTTPConnection

    class Connection(base):  # type: ignore[misc, valid-type]  # the base is the library's
        """May become HTTP/2: then of our kind."""

        @property
        def _connection(self) -> Any:
            return self.__dict__.get("_inner")

        @_connection.setter
        def _connection(self, made: Any) -> None:
            self.__dict__["_inner"] = _http2.ours(library, made, blocking)

        # Several requests may wait for one connection, and one of them dials.  Only if that one
        # fails, or is cancelled, the connection has failed: the pool forgets it then.
        @property
        def _connect_failed(self) -> bool:
            return bool(self.__dict__["_connect_failed"])

        @_connect_failed.setter
        def _connect_failed(self, failed: bool) -> None:
            if not self.__dict__.get("_dialling"):
                self.__dict__["_connect_failed"] = failed

        def _begin(self) -> None:
            if self._connect_failed:  # forgotten: what is dialled now nobody would close
                raise library.core.ConnectionNotAvailable
            self.__dict__["_dialling"] = True

        if blocking:

            def _connect(self, request: Any) -> Any:
                self._begin()
                try:
                    return super()._connect(request)
                finally:
                    self.__dict__["_dialling"] = False
        else:

            def _connect(self, request: Any) -> Any:
                return self._dial(request)

            async def _dial(self, request: Any) -> Any:
                self._begin()
                try:
                    return await super()._connect(request)
                finally:
                    self.__dict__["_dialling"] = False

    return Connection


def _make_pool_type(base: Any, connection: type, blocking: bool) -> type:
    class Pool(base):  # type: ignore[misc]  # the base is the library's
        def create_connection(self, origin: Any) -> Any:
            made = super().create_connection(origin)
            if self._http2 and isinstance(origin, Route):
                made.__class__ = connection
            return made

        if blocking:

            def _assign_requests_to_connections(self) -> list[Any]:
                # Still under the lock, which a new connection waits for: an idle one that has
                # to go is gone before another takes its place.
                with _bound_late(self):
                    gone = super()._assign_requests_to_connections()
                for one in gone:
                    one.close()
                return []

            def handle_request(self, request: Any) -> Any:
                attempt = CURRENT.get()
                if attempt is not None:
                    _direct(request, attempt)
                return super().handle_request(request)
        else:

            def _assign_requests_to_connections(self) -> list[Any]:
                with _bound_late(self):
                    closing: list[Any] = super()._assign_requests_to_connections()
                return closing

            def handle_async_request(self, request: Any) -> Any:
                attempt = CURRENT.get()
                if attempt is not None:
                    _direct(request, attempt)
                return super().handle_async_request(request)

            async def _close_connections(self, closing: list[Any]) -> None:
                await close_all(closing)

    return Pool


@contextmanager
def _bound_late(pool: Any) -> Iterator[None]:
    """While connections are assigned.  At the limit, before one is closed for another to another
    endpoint, a request that waits takes one that is free, at whatever endpoint its attempt may
    as well go to."""
    requests = pool._requests
    if not pool._connections or len(pool._connections) < pool._max_connections:
        yield
        return
    chosen = _bind([one for one in requests if one.is_queued()], _free(pool))
    if not hasattr(pool._connections[0], "can_multiplex"):
        # httpcore 1 would close a connection that it has just assigned, as that is idle still:
        # whoever isn't next comes when that one has been used.
        assigned = any(one.connection is not None and one.connection.is_idle() for one in requests)
        if chosen or assigned:
            pool._requests = [one for one in requests if not one.is_queued() or one in chosen]
    try:
        yield
    finally:
        pool._requests = requests


def _free(pool: Any) -> list[Any]:
    """Connections to endpoints that take a request now."""
    taken = {one.connection for one in pool._requests}
    return [
        connection
        for connection in pool._connections
        if connection.is_available()
        and (connection not in taken or _multiplexes(connection))
        and isinstance(connection._origin, Route)
    ]


def _bind(waiting: list[Any], free: list[Any]) -> list[Any]:
    """Who of those that wait gets one that is free; their attempts go there."""
    chosen = []
    for one in waiting:
        target = one.request.url
        if not free or not isinstance(target, Target):
            continue
        connection = next((each for each in free if each.can_handle_request(target.origin)), None)
        if connection is None:
            connection = next((each for each in free if target.attempt.go_to(each._origin)), None)
        if connection is None:
            continue
        chosen.append(one)
        if not _multiplexes(connection):
            free.remove(connection)
    return chosen


def _multiplexes(connection: Any) -> bool:
    return hasattr(connection._connection, "_h2_state")


async def close_all(connections: list[Any]) -> None:
    """Close them, all of them: nobody else knows them any more.  asyncio's own cancellation,
    which no shield of anyio's keeps away, is raised when that is done."""
    error: BaseException | None = None
    for connection in connections:
        try:
            with anyio.CancelScope(shield=True):
                await connection.aclose()
        except BaseException as exc:
            error = exc
    if error is not None:
        raise error


def make(library: Library, plain: Any, backend: Any, blocking: bool) -> Any:
    """A pool of ours like `plain`, which dials through `backend`."""
    return _pool_type(library, blocking)(
        ssl_context=plain._ssl_context,
        max_connections=plain._max_connections,
        max_keepalive_connections=plain._max_keepalive_connections,
        keepalive_expiry=plain._keepalive_expiry,
        http1=plain._http1,
        http2=plain._http2,
        retries=plain._retries,
        local_address=plain._local_address,
        network_backend=backend,
        socket_options=plain._socket_options,
    )


def for_probes(library: Library, count: int, keepalive_s: float, like: Mapping[str, Any]) -> Any:
    """A pool for health checks of at most `count` connections.  `like`: see `manner`."""
    return _pool_type(library, blocking=False)(
        max_connections=count, keepalive_expiry=keepalive_s, **like
    )


def manner(pool: Any) -> dict[str, Any]:
    """How a pool for health checks speaks to the same servers: with the same verification, and
    HTTP/2 only where nothing else is spoken (checks on one connection aren't independent)."""
    only2 = pool._http2 and not pool._http1
    return {"ssl_context": pool._ssl_context, "http1": not only2, "http2": only2}


def expire(pool: Any) -> list[Any]:
    """Take connections that are kept no longer out of the pool, to be closed by the caller."""
    with pool._optional_thread_lock:
        return list(pool._assign_requests_to_connections())


def settle(pool: Any) -> None:
    """Returns when connections that had to go are closed."""
    with pool._optional_thread_lock:
        pass


def is_full(pool: Any) -> bool:
    """No connection more may be opened, and none is idle."""
    connections = pool.connections
    limit: int = pool._max_connections
    return len(connections) >= limit and not any(one.is_idle() for one in connections)


def forget(pool: Any) -> list[Any]:
    """Take all connections out of the pool without its lock (for a forked child, where nobody
    holds it but it may look held), and give it a new lock."""
    connections = list(pool._connections)
    pool._connections, pool._requests = [], []
    pool._optional_thread_lock = type(pool._optional_thread_lock)()
    return connections
