"""What can be checked, and how.

A check uses the dependency as a request would.  Nothing of the drop-ins is imported before it
is needed: a pool is known by its methods.
"""

from __future__ import annotations

from collections.abc import Callable
from inspect import iscoroutinefunction
from typing import Any

from .._dataclass import dataclass
from ..errors import ConfigError, ResilientError

__all__ = ["TIMEOUT_S", "Check", "as_check", "database", "dns", "http"]

#: of a check that says nothing else; a caller behind a balancer waits no longer than its probe
TIMEOUT_S = 0.5


@dataclass(frozen=True, slots=True)
class Check:
    """`call` takes nothing, and raises when the dependency can't serve; it may be a coroutine
    function (for `asgi_app` and `ready_async` only).  After `timeout_s` seconds its answer no
    longer counts; it is not started again while it hasn't ended."""

    call: Callable[[], Any]
    timeout_s: float = TIMEOUT_S

    def __post_init__(self) -> None:
        if not callable(self.call):
            raise ConfigError(f"a check is something to call, not {self.call!r}")
        if not self.timeout_s > 0:
            raise ConfigError(f"timeout_s={self.timeout_s!r}: accepted: seconds > 0")

    @property
    def asynchronous(self) -> bool:
        """Is it a coroutine function?"""
        return iscoroutinefunction(self.call)


def database(
    pool: Any, *, query: str = "SELECT 1", read_only: bool = False, timeout_s: float = TIMEOUT_S
) -> Check:
    """A connection of the pool can be taken and answers a query.

    `pool`: one of this library's or of psycopg_pool's, threads or asyncio, or a `.reader`;
    `read_only`: a replica will do (this library's pools).  `query`: what is asked.  Fails after
    `timeout_s` seconds.
    """
    asked: dict[str, Any] = {"timeout": timeout_s, **({"read_only": True} if read_only else {})}

    def call() -> None:
        with pool.connection(**asked) as conn:
            conn.execute(query)

    async def call_async() -> None:
        async with pool.connection(**asked) as conn:
            await conn.execute(query)

    return Check(call_async if iscoroutinefunction(pool.getconn) else call, timeout_s)


def dns(name: str, *, resolver: Any = None, timeout_s: float = TIMEOUT_S) -> Check:
    """The name has an address.  `resolver`: a `Resolver` or an `AsyncResolver` of
    `resilient.dns`; without one, one is made at the first check.  Fails after `timeout_s`
    seconds."""
    made: list[Any] = [] if resolver is None else [resolver]

    def call() -> None:
        if not made:
            from ..dns import Resolver

            made.append(Resolver())
        made[0].resolve(name, "any")

    async def call_async() -> None:
        await made[0].resolve(name, "any")

    asynchronous = resolver is not None and iscoroutinefunction(resolver.resolve)
    return Check(call_async if asynchronous else call, timeout_s)


def http(url: str, *, client: Any = None, timeout_s: float = TIMEOUT_S) -> Check:
    """`GET url` is answered with a status below 400.  `client`: httpx2's, httpx's or this
    library's, either shell; without one, one of this library's is made at the first check.
    Fails after `timeout_s` seconds.

    Give what the other service calls *live*: a ready that asks for others' ready goes out with
    the last of the chain.
    """
    made: list[Any] = [] if client is None else [client]

    def call() -> None:
        if not made:
            from ..http import Client

            made.append(Client())
        _accept(made[0].get(url, timeout=timeout_s))

    async def call_async() -> None:
        _accept(await made[0].get(url, timeout=timeout_s))

    asynchronous = client is not None and iscoroutinefunction(client.get)
    return Check(call_async if asynchronous else call, timeout_s)


def _accept(response: Any) -> None:
    if response.status_code >= 400:
        raise ResilientError(f"{response.url} answered {response.status_code}")


def as_check(name: str, given: Any) -> Check:
    """The check for a pool, a URL, a name in DNS, or anything to call."""
    if isinstance(given, Check):
        return given
    if hasattr(given, "getconn") and hasattr(given, "connection"):
        return database(given)
    if isinstance(given, str):
        return http(given) if given.startswith(("http://", "https://")) else dns(given)
    if callable(given):
        return Check(given)
    raise ConfigError(
        f"check {name!r}: {given!r} can't be checked; accepted: a pool, a URL, a name in DNS,"
        " a function, or a Check"
    )
