"""Pools for code that only reads: what `pool.reader` gives.

A reader is a pool of the same class as the one that it is of, so that code that asks for such a
pool takes it.  It has no connections, threads or state of its own: it shares its pool's, and its
checkouts are for reading.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any, Final, TypeVar
from weakref import WeakKeyDictionary, ref

from psycopg_pool import PoolClosed, PoolTimeout

from ...core.model import CausalToken

T = TypeVar("T")

_NO_WRITES: Final = "a reader gives no connection for writing: take one of its pool"


class View:
    """What readers of threads and of asyncio do alike.  It stands before the pool's own class."""

    _of: Any
    #: this reader was closed; and it was the one that opened its pool
    _over: bool
    _opener: bool

    if TYPE_CHECKING:

        def _replica_pools(self) -> list[Any]: ...

    def __init__(self, pool: Any) -> None:
        self._of, self._over, self._opener = pool, False, False
        self.__dict__ = pool.__dict__

    def __init_subclass__(cls) -> None:
        pass  # of a user's class, which has nothing to do with ours

    def __del__(self) -> None:
        pass  # its pool has workers to end, this hasn't

    @property
    def closed(self) -> bool:
        """Was it closed, or its pool, or is that not open yet?"""
        return bool(self._over or self._of.closed)

    def _reads(self, read_only: bool | None) -> None:
        if read_only is False:
            raise ValueError(_NO_WRITES)
        if self._over:
            raise PoolClosed(f"the reader of pool {self._of.name!r} is already closed")

    def _opens(self) -> bool:
        """Has the pool to be opened?  Who opens it closes it."""
        self._reads(None)
        opens = self._of.closed
        self._opener = self._opener or opens
        return bool(opens)

    def _closes(self) -> bool:
        """Has the pool to be closed?"""
        over, self._over = self._over, True
        return self._opener and not over

    @property
    def reader(self) -> Any:
        """Another one like this."""
        return self._of.reader

    def get_stats(self) -> dict[str, int]:
        stats: dict[str, int] = self._of.get_stats()
        return stats

    def pop_stats(self) -> dict[str, int]:
        stats: dict[str, int] = self._of.pop_stats()
        return stats


# Made from `AsyncReader` by `make generate`: change that one.
class Reader(View):
    """Of a thread pool."""

    def open(self, wait: bool = False, timeout: float = 30.0) -> None:
        """Open its pool if nobody has."""
        if self._opens():
            self._of.open()
        if wait:
            self.wait(timeout)

    def close(self, timeout: float = 5.0) -> None:
        """No more checkouts from this reader.  Its pool goes on, unless this has opened it."""
        if self._closes():
            self._of.close(timeout)

    def wait(self, timeout: float = 30.0) -> None:
        """Until there is somebody to read from.  Closes the reader, and raises `PoolTimeout`, when
        there isn't in so many seconds."""
        try:
            self.putconn(self.getconn(timeout))
        except PoolTimeout:
            self.close()
            raise

    def check(self) -> None:
        for pool in (self._of, *self._replica_pools()):
            pool.check()

    def drain(self) -> None:
        for pool in (self._of, *self._replica_pools()):
            pool.drain()

    def resize(self, min_size: int, max_size: int | None = None) -> None:
        self._of.resize(min_size, max_size)

    def getconn(
        self,
        timeout: float | None = None,
        *,
        read_only: bool | None = None,
        max_staleness_s: float | None = None,
        after: CausalToken | None = None,
    ) -> Any:
        """As its pool's `getconn(read_only=True)`."""
        self._reads(read_only)
        return self._of.getconn(
            timeout, read_only=True, max_staleness_s=max_staleness_s, after=after
        )

    def putconn(self, conn: Any) -> None:
        self._of.putconn(conn)

    @contextmanager
    def connection(
        self,
        timeout: float | None = None,
        *,
        read_only: bool | None = None,
        max_staleness_s: float | None = None,
        after: CausalToken | None = None,
    ) -> Iterator[Any]:
        """As its pool's `connection(read_only=True)`."""
        self._reads(read_only)
        with self._of.connection(
            timeout, read_only=True, max_staleness_s=max_staleness_s, after=after
        ) as conn:
            yield conn

    def run(
        self,
        fn: Callable[..., T],
        /,
        *args: Any,
        read_only: bool | None = None,
        **kwargs: Any,
    ) -> T:
        """As its pool's `run(fn, read_only=True)`."""
        self._reads(read_only)
        result: T = self._of.run(fn, *args, read_only=True, **kwargs)
        return result

    def causal_token(self) -> CausalToken:
        token: CausalToken = self._of.causal_token()
        return token


class AsyncReader(View):
    """Of an asyncio pool."""

    async def open(self, wait: bool = False, timeout: float = 30.0) -> None:
        """Open its pool if nobody has."""
        if self._opens():
            await self._of.open()
        if wait:
            await self.wait(timeout)

    async def close(self, timeout: float = 5.0) -> None:
        """No more checkouts from this reader.  Its pool goes on, unless this has opened it."""
        if self._closes():
            await self._of.close(timeout)

    async def wait(self, timeout: float = 30.0) -> None:
        """Until there is somebody to read from.  Closes the reader, and raises `PoolTimeout`, when
        there isn't in so many seconds."""
        try:
            await self.putconn(await self.getconn(timeout))
        except PoolTimeout:
            await self.close()
            raise

    async def check(self) -> None:
        for pool in (self._of, *self._replica_pools()):
            await pool.check()

    async def drain(self) -> None:
        for pool in (self._of, *self._replica_pools()):
            await pool.drain()

    async def resize(self, min_size: int, max_size: int | None = None) -> None:
        await self._of.resize(min_size, max_size)

    async def getconn(
        self,
        timeout: float | None = None,
        *,
        read_only: bool | None = None,
        max_staleness_s: float | None = None,
        after: CausalToken | None = None,
    ) -> Any:
        """As its pool's `getconn(read_only=True)`."""
        self._reads(read_only)
        return await self._of.getconn(
            timeout, read_only=True, max_staleness_s=max_staleness_s, after=after
        )

    async def putconn(self, conn: Any) -> None:
        await self._of.putconn(conn)

    @asynccontextmanager
    async def connection(
        self,
        timeout: float | None = None,
        *,
        read_only: bool | None = None,
        max_staleness_s: float | None = None,
        after: CausalToken | None = None,
    ) -> AsyncIterator[Any]:
        """As its pool's `connection(read_only=True)`."""
        self._reads(read_only)
        async with self._of.connection(
            timeout, read_only=True, max_staleness_s=max_staleness_s, after=after
        ) as conn:
            yield conn

    async def run(
        self,
        fn: Callable[..., Awaitable[T]],
        /,
        *args: Any,
        read_only: bool | None = None,
        **kwargs: Any,
    ) -> T:
        """As its pool's `run(fn, read_only=True)`."""
        self._reads(read_only)
        result: T = await self._of.run(fn, *args, read_only=True, **kwargs)
        return result

    async def causal_token(self) -> CausalToken:
        token: CausalToken = await self._of.causal_token()
        return token


#: of a pool's class: that of its readers
_MADE: WeakKeyDictionary[type[Any], ref[type[Any]]] = WeakKeyDictionary()


def reader_of(pool: Any, kind: type[View]) -> Any:
    """A reader of this pool, which is a pool of its class too."""
    made = _MADE.get(type(pool))
    cls = made() if made is not None else None
    if cls is None:
        slots = ("_of", "_over", "_opener")
        cls = type(f"{type(pool).__name__}Reader", (kind, type(pool)), {"__slots__": slots})
        _MADE[type(pool)] = ref(cls)
    view: Any = object.__new__(cls)
    View.__init__(view, pool)
    return view
