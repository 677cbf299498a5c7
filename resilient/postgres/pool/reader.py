"""Pool-shaped views for code that only reads."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from typing import Any, Generic, Protocol, TypeVar

from ...core.model import CausalToken, Topology
from .._psycopg import ACT, CT

T = TypeVar("T")


class Viewed(Protocol):
    """What both kinds of pools tell of themselves."""

    name: str

    @property
    def closed(self) -> bool: ...

    @property
    def topology(self) -> Topology: ...

    def get_stats(self) -> dict[str, int]: ...


class Pool(Viewed, Protocol[CT]):
    """What a reader uses of a pool."""

    def connection(
        self,
        timeout: float | None = None,
        *,
        read_only: bool | None = None,
        max_staleness_s: float | None = None,
        after: CausalToken | None = None,
    ) -> AbstractContextManager[CT]: ...

    def getconn(
        self,
        timeout: float | None = None,
        *,
        read_only: bool | None = None,
        max_staleness_s: float | None = None,
        after: CausalToken | None = None,
    ) -> CT: ...

    def putconn(self, conn: CT) -> None: ...

    def run(
        self, fn: Callable[..., T], /, *args: Any, read_only: bool | None = None, **kwargs: Any
    ) -> T: ...


class AsyncPool(Viewed, Protocol[ACT]):
    """The same, for asyncio."""

    def connection(
        self,
        timeout: float | None = None,
        *,
        read_only: bool | None = None,
        max_staleness_s: float | None = None,
        after: CausalToken | None = None,
    ) -> AbstractAsyncContextManager[ACT]: ...

    async def getconn(
        self,
        timeout: float | None = None,
        *,
        read_only: bool | None = None,
        max_staleness_s: float | None = None,
        after: CausalToken | None = None,
    ) -> ACT: ...

    async def putconn(self, conn: ACT) -> None: ...

    async def run(
        self,
        fn: Callable[..., Awaitable[T]],
        /,
        *args: Any,
        read_only: bool | None = None,
        **kwargs: Any,
    ) -> T: ...


class Reader(Generic[CT]):
    """A `ConnectionPool` whose checkouts are read-only.  Opened and closed with its pool."""

    def __init__(self, pool: Pool[CT]) -> None:
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

    def run(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> T:
        return self._of.run(fn, *args, read_only=True, **kwargs)

    def get_stats(self) -> dict[str, int]:
        return self._of.get_stats()


class AsyncReader(Generic[ACT]):
    """An `AsyncConnectionPool` whose checkouts are read-only."""

    def __init__(self, pool: AsyncPool[ACT]) -> None:
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

    async def run(self, fn: Callable[..., Awaitable[T]], /, *args: Any, **kwargs: Any) -> T:
        return await self._of.run(fn, *args, read_only=True, **kwargs)

    def get_stats(self) -> dict[str, int]:
        return self._of.get_stats()
