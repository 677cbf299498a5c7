"""Pool-shaped views for code that only reads."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from typing import TYPE_CHECKING, Any, Concatenate, Generic, ParamSpec, TypeVar, overload

from ..core.model import Topology
from ._psycopg import ACT, CT

if TYPE_CHECKING:
    from .pool import ResilientPool
    from .pool_async import AsyncResilientPool

P = ParamSpec("P")
T = TypeVar("T")


class Reader(Generic[CT]):
    """A `ConnectionPool` whose checkouts are read-only.  Opened and closed with its pool."""

    def __init__(self, pool: ResilientPool[CT]) -> None:
        self._of = pool

    @property
    def name(self) -> str:
        return self._of.name

    @property
    def closed(self) -> bool:
        return self._of.closed

    @property
    def topology(self) -> Topology:
        return self._of.topology

    def connection(
        self, timeout: float | None = None, **options: Any
    ) -> AbstractContextManager[CT]:
        return self._of.connection(timeout, read_only=True, **options)

    def getconn(self, timeout: float | None = None, **options: Any) -> CT:
        return self._of.getconn(timeout, read_only=True, **options)

    def putconn(self, conn: CT) -> None:
        self._of.putconn(conn)

    @overload
    def run(
        self,
        fn: Callable[Concatenate[CT, ...], T],
        /,
        *args: Any,
        timeout: float | None,
        **kwargs: Any,
    ) -> T: ...

    @overload
    def run(
        self, fn: Callable[Concatenate[CT, P], T], /, *args: P.args, **kwargs: P.kwargs
    ) -> T: ...

    def run(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> T:
        return self._of.run(fn, *args, read_only=True, **kwargs)

    def get_stats(self) -> dict[str, int]:
        return self._of.get_stats()


class AsyncReader(Generic[ACT]):
    """An `AsyncConnectionPool` whose checkouts are read-only."""

    def __init__(self, pool: AsyncResilientPool[ACT]) -> None:
        self._of = pool

    @property
    def name(self) -> str:
        return self._of.name

    @property
    def closed(self) -> bool:
        return self._of.closed

    @property
    def topology(self) -> Topology:
        return self._of.topology

    def connection(
        self, timeout: float | None = None, **options: Any
    ) -> AbstractAsyncContextManager[ACT]:
        return self._of.connection(timeout, read_only=True, **options)

    async def getconn(self, timeout: float | None = None, **options: Any) -> ACT:
        return await self._of.getconn(timeout, read_only=True, **options)

    async def putconn(self, conn: ACT) -> None:
        await self._of.putconn(conn)

    @overload
    async def run(
        self,
        fn: Callable[Concatenate[ACT, ...], Awaitable[T]],
        /,
        *args: Any,
        timeout: float | None,
        **kwargs: Any,
    ) -> T: ...

    @overload
    async def run(
        self, fn: Callable[Concatenate[ACT, P], Awaitable[T]], /, *args: P.args, **kwargs: P.kwargs
    ) -> T: ...

    async def run(self, fn: Callable[..., Awaitable[T]], /, *args: Any, **kwargs: Any) -> T:
        return await self._of.run(fn, *args, read_only=True, **kwargs)

    def get_stats(self) -> dict[str, int]:
        return self._of.get_stats()
