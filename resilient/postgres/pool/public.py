"""The four pools: psycopg_pool's constructors, argument by argument, and `settings`.

Each is generic in its connection class and a subclass of psycopg_pool's class of the same
name, so that `isinstance`, annotations and positional habits keep working.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, Never

from psycopg import AsyncConnection, Connection

from ...settings import Settings
from .._psycopg import (
    ACT,
    CT,
    AsyncConnectFailedCB,
    AsyncConnectionCB,
    AsyncConninfoParam,
    AsyncKwargsParam,
    ConnectFailedCB,
    ConnectionCB,
    ConninfoParam,
    KwargsParam,
)
from ..session.derived import derive
from ..target import default_conninfo
from .aio import AsyncResilientPool
from .base import PoolCore
from .null import AsyncResilientNullPool, ResilientNullPool
from .sync import ResilientPool

# What pools are made of unless they are told.  Of a default with a type, psycopg_pool's
# `cast(type[CT], Connection)` too, pyright takes that type, and neither what the pool is annotated
# with nor the type variable's own default.  So it is told of no value at all.
if TYPE_CHECKING:
    _PLAIN: Never
    _PLAIN_ASYNC: Never
else:
    _PLAIN, _PLAIN_ASYNC = Connection, AsyncConnection


# Made from `AsyncConnectionPool` by `make generate`: change that one.
class ConnectionPool(ResilientPool[CT], Generic[CT]):
    """psycopg_pool's `ConnectionPool`, living through failovers.

    `conninfo`: default the environment's (`RESILIENT_DATABASE_URL`).  `settings`: a
    `resilient.Settings`, default the environment.  All other arguments are psycopg_pool's, times
    in seconds.  Sizes are of the writer's connections; `docs/sizing.md` says what replicas have.
    Raises `ConfigError` for settings that can't be used.
    """

    def __init__(
        self,
        conninfo: ConninfoParam = "",
        *,
        connection_class: type[CT] = _PLAIN,  # pyright: ignore[reportUnboundVariable]
        kwargs: KwargsParam | None = None,
        min_size: int = 4,
        max_size: int | None = None,
        open: bool | None = None,  # noqa: A002
        configure: ConnectionCB[CT] | None = None,
        check: ConnectionCB[CT] | None = None,
        reset: ConnectionCB[CT] | None = None,
        name: str | None = None,
        close_returns: bool = False,
        timeout: float = 30.0,
        max_waiting: int = 0,
        max_lifetime: float = 60 * 60.0,
        max_idle: float = 10 * 60.0,
        reconnect_timeout: float = 5 * 60.0,
        reconnect_failed: ConnectFailedCB | None = None,
        num_workers: int = 3,
        settings: Settings | None = None,
    ) -> None:
        self._start_core(PoolCore(settings), from_environment=not conninfo)
        super().__init__(
            conninfo or default_conninfo(self._core.settings),
            connection_class=derive(connection_class),
            kwargs=kwargs,
            min_size=min_size,
            max_size=max_size,
            open=open,
            configure=configure,
            check=check,
            reset=reset,
            name=name,
            close_returns=close_returns,
            timeout=timeout,
            max_waiting=max_waiting,
            max_lifetime=max_lifetime,
            max_idle=max_idle,
            reconnect_timeout=reconnect_timeout,
            reconnect_failed=reconnect_failed,
            num_workers=num_workers,
        )


# Made from `AsyncNullConnectionPool` by `make generate`: change that one.
class NullConnectionPool(ResilientNullPool[CT], Generic[CT]):
    """psycopg_pool's `NullConnectionPool`, living through failovers.

    `conninfo`: default the environment's (`RESILIENT_DATABASE_URL`).  `settings`: a
    `resilient.Settings`, default the environment.  All other arguments are psycopg_pool's, times
    in seconds.  Sizes are of the writer's connections; `docs/sizing.md` says what replicas have.
    Raises `ConfigError` for settings that can't be used.
    """

    def __init__(
        self,
        conninfo: ConninfoParam = "",
        *,
        connection_class: type[CT] = _PLAIN,  # pyright: ignore[reportUnboundVariable]
        kwargs: KwargsParam | None = None,
        min_size: int = 0,
        max_size: int | None = None,
        open: bool | None = None,  # noqa: A002
        configure: ConnectionCB[CT] | None = None,
        check: ConnectionCB[CT] | None = None,
        reset: ConnectionCB[CT] | None = None,
        name: str | None = None,
        close_returns: bool = False,
        timeout: float = 30.0,
        max_waiting: int = 0,
        max_lifetime: float = 60 * 60.0,
        max_idle: float = 10 * 60.0,
        reconnect_timeout: float = 5 * 60.0,
        reconnect_failed: ConnectFailedCB | None = None,
        num_workers: int = 3,
        settings: Settings | None = None,
    ) -> None:
        self._start_core(PoolCore(settings), from_environment=not conninfo)
        super().__init__(
            conninfo or default_conninfo(self._core.settings),
            connection_class=derive(connection_class),
            kwargs=kwargs,
            min_size=min_size,
            max_size=max_size,
            open=open,
            configure=configure,
            check=check,
            reset=reset,
            name=name,
            close_returns=close_returns,
            timeout=timeout,
            max_waiting=max_waiting,
            max_lifetime=max_lifetime,
            max_idle=max_idle,
            reconnect_timeout=reconnect_timeout,
            reconnect_failed=reconnect_failed,
            num_workers=num_workers,
        )


class AsyncConnectionPool(AsyncResilientPool[ACT], Generic[ACT]):
    """psycopg_pool's `AsyncConnectionPool`, living through failovers.

    `conninfo`: default the environment's (`RESILIENT_DATABASE_URL`).  `settings`: a
    `resilient.Settings`, default the environment.  All other arguments are psycopg_pool's, times
    in seconds.  Sizes are of the writer's connections; `docs/sizing.md` says what replicas have.
    Raises `ConfigError` for settings that can't be used.
    """

    def __init__(
        self,
        conninfo: AsyncConninfoParam = "",
        *,
        connection_class: type[ACT] = _PLAIN_ASYNC,  # pyright: ignore[reportUnboundVariable]
        kwargs: AsyncKwargsParam | None = None,
        min_size: int = 4,
        max_size: int | None = None,
        open: bool | None = None,  # noqa: A002
        configure: AsyncConnectionCB[ACT] | None = None,
        check: AsyncConnectionCB[ACT] | None = None,
        reset: AsyncConnectionCB[ACT] | None = None,
        name: str | None = None,
        close_returns: bool = False,
        timeout: float = 30.0,
        max_waiting: int = 0,
        max_lifetime: float = 60 * 60.0,
        max_idle: float = 10 * 60.0,
        reconnect_timeout: float = 5 * 60.0,
        reconnect_failed: AsyncConnectFailedCB | None = None,
        num_workers: int = 3,
        settings: Settings | None = None,
    ) -> None:
        self._start_core(PoolCore(settings), from_environment=not conninfo)
        super().__init__(
            conninfo or default_conninfo(self._core.settings),
            connection_class=derive(connection_class),
            kwargs=kwargs,
            min_size=min_size,
            max_size=max_size,
            open=open,
            configure=configure,
            check=check,
            reset=reset,
            name=name,
            close_returns=close_returns,
            timeout=timeout,
            max_waiting=max_waiting,
            max_lifetime=max_lifetime,
            max_idle=max_idle,
            reconnect_timeout=reconnect_timeout,
            reconnect_failed=reconnect_failed,
            num_workers=num_workers,
        )


class AsyncNullConnectionPool(AsyncResilientNullPool[ACT], Generic[ACT]):
    """psycopg_pool's `AsyncNullConnectionPool`, living through failovers.

    `conninfo`: default the environment's (`RESILIENT_DATABASE_URL`).  `settings`: a
    `resilient.Settings`, default the environment.  All other arguments are psycopg_pool's, times
    in seconds.  Sizes are of the writer's connections; `docs/sizing.md` says what replicas have.
    Raises `ConfigError` for settings that can't be used.
    """

    def __init__(
        self,
        conninfo: AsyncConninfoParam = "",
        *,
        connection_class: type[ACT] = _PLAIN_ASYNC,  # pyright: ignore[reportUnboundVariable]
        kwargs: AsyncKwargsParam | None = None,
        min_size: int = 0,
        max_size: int | None = None,
        open: bool | None = None,  # noqa: A002
        configure: AsyncConnectionCB[ACT] | None = None,
        check: AsyncConnectionCB[ACT] | None = None,
        reset: AsyncConnectionCB[ACT] | None = None,
        name: str | None = None,
        close_returns: bool = False,
        timeout: float = 30.0,
        max_waiting: int = 0,
        max_lifetime: float = 60 * 60.0,
        max_idle: float = 10 * 60.0,
        reconnect_timeout: float = 5 * 60.0,
        reconnect_failed: AsyncConnectFailedCB | None = None,
        num_workers: int = 3,
        settings: Settings | None = None,
    ) -> None:
        self._start_core(PoolCore(settings), from_environment=not conninfo)
        super().__init__(
            conninfo or default_conninfo(self._core.settings),
            connection_class=derive(connection_class),
            kwargs=kwargs,
            min_size=min_size,
            max_size=max_size,
            open=open,
            configure=configure,
            check=check,
            reset=reset,
            name=name,
            close_returns=close_returns,
            timeout=timeout,
            max_waiting=max_waiting,
            max_lifetime=max_lifetime,
            max_idle=max_idle,
            reconnect_timeout=reconnect_timeout,
            reconnect_failed=reconnect_failed,
            num_workers=num_workers,
        )


for _kind in (ConnectionPool, NullConnectionPool, AsyncConnectionPool, AsyncNullConnectionPool):
    _kind._kind = _kind
