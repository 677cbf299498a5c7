"""The four drop-ins on httpx2: its constructors with `settings`, and nothing else of weight.

Proxied requests (`proxy=`, `mounts=`, the environment's), Unix sockets and a user's own
`transport=` go the library's own way: there the proxy, the path or the transport decides
where a request ends up.
"""

from __future__ import annotations

import ssl
from collections.abc import Iterable
from types import TracebackType
from typing import TYPE_CHECKING, Any

import httpcore2
import httpx2

from ..settings import Settings
from . import errors
from ._async import AsyncEngine
from ._attempt import FLOW, Flow
from ._library import Library, network_is_real, untouched_timeout
from ._sync import SyncEngine

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from httpx2._client import EventHook, UseClientDefault
    from httpx2._types import (
        AuthTypes,
        CertTypes,
        CookieTypes,
        HeaderTypes,
        ProxyTypes,
        QueryParamTypes,
        TimeoutTypes,
    )

    SocketOption = (
        tuple[int, int, int] | tuple[int, int, bytes | bytearray] | tuple[int, int, None, int]
    )

LIBRARY = Library(httpx2, httpcore2, errors)
LIMITS = httpx2.Limits(max_connections=100, max_keepalive_connections=20)
TIMEOUT: httpx2.Timeout = untouched_timeout(httpx2.Timeout, 5.0)
_real = network_is_real(
    (httpx2.HTTPTransport, "handle_request"),
    (httpcore2.ConnectionPool, "handle_request"),
    (httpcore2.HTTPConnection, "handle_request"),
)
_async_real = network_is_real(
    (httpx2.AsyncHTTPTransport, "handle_async_request"),
    (httpcore2.AsyncConnectionPool, "handle_async_request"),
    (httpcore2.AsyncHTTPConnection, "handle_async_request"),
)
DEFAULT: Any = httpx2.USE_CLIENT_DEFAULT


class Transport(httpx2.HTTPTransport):
    """`httpx2.HTTPTransport` that knows its endpoints.

    `settings`: a `resilient.Settings`, default the environment.  All other arguments are
    httpx2's; `limits` holds over all endpoints.
    """

    def __init__(  # noqa: PLR0917  # the library's signature
        self,
        verify: ssl.SSLContext | str | bool = True,
        cert: CertTypes | None = None,
        trust_env: bool = True,
        http1: bool = True,
        http2: bool = False,
        limits: httpx2.Limits = LIMITS,
        proxy: ProxyTypes | None = None,
        uds: str | None = None,
        local_address: str | None = None,
        retries: int = 0,
        socket_options: Iterable[SocketOption] | None = None,
        *,
        settings: Settings | None = None,
    ) -> None:
        options = None if socket_options is None else tuple(socket_options)
        super().__init__(verify, cert, trust_env, http1, http2, limits, proxy, uds,
                         local_address, retries, options)  # fmt: skip
        self._engine: SyncEngine | None = None
        if proxy is None and uds is None:
            self._engine = SyncEngine(LIBRARY, settings, self._pool)
            self._pool = self._engine.pool

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        """Send it to an endpoint; elsewhere and again where that is right (docs/http.md).

        Raises the library's errors, and those of `resilient.http.errors`.
        """
        engine, send = self._engine, super().handle_request
        if engine is None or not _real():
            return send(request)
        response: httpx2.Response | None = engine.handle(request, send)
        return send(request) if response is None else response

    def close(self) -> None:
        """End its connections, and what watches its endpoints."""
        if self._engine is not None:
            self._engine.close()
        super().close()

    def __exit__(
        self,
        exc_type: type[BaseException] | None = None,
        exc_value: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> None:
        if self._engine is not None:
            self._engine.close()
        super().__exit__(exc_type, exc_value, traceback)


class AsyncTransport(httpx2.AsyncHTTPTransport):
    """`httpx2.AsyncHTTPTransport` that knows its endpoints.

    `settings`: a `resilient.Settings`, default the environment.  All other arguments are
    httpx2's; `limits` holds over all endpoints.
    """

    def __init__(  # noqa: PLR0917  # the library's signature
        self,
        verify: ssl.SSLContext | str | bool = True,
        cert: CertTypes | None = None,
        trust_env: bool = True,
        http1: bool = True,
        http2: bool = False,
        limits: httpx2.Limits = LIMITS,
        proxy: ProxyTypes | None = None,
        uds: str | None = None,
        local_address: str | None = None,
        retries: int = 0,
        socket_options: Iterable[SocketOption] | None = None,
        *,
        settings: Settings | None = None,
    ) -> None:
        options = None if socket_options is None else tuple(socket_options)
        super().__init__(verify, cert, trust_env, http1, http2, limits, proxy, uds,
                         local_address, retries, options)  # fmt: skip
        self._engine: AsyncEngine | None = None
        if proxy is None and uds is None:
            self._engine = AsyncEngine(LIBRARY, settings, self._pool)
            self._pool = self._engine.pool

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Send it to an endpoint; elsewhere and again where that is right (docs/http.md).

        Raises the library's errors, and those of `resilient.http.errors`.
        """
        engine, send = self._engine, super().handle_async_request
        answer = None if engine is None or not _async_real() else engine.handle(request, send)
        if answer is None:
            return await send(request)
        response: httpx2.Response = await answer
        return response

    async def aclose(self) -> None:
        """End its connections, and what watches its endpoints."""
        if self._engine is not None:
            await self._engine.aclose()
        await super().aclose()

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None = None,
        exc_value: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> None:
        if self._engine is not None:
            await self._engine.aclose()
        await super().__aexit__(exc_type, exc_value, traceback)


class Client(httpx2.Client):
    """`httpx2.Client` over a `Transport`.

    `settings`: a `resilient.Settings`, default the environment.  All other arguments are
    httpx2's; times in seconds.  A request takes `extensions={"resilient": {...}}` (docs/http.md).
    Raises the library's errors, and those of `resilient.http.errors`.
    """

    def __init__(  # long: the library's signature
        self,
        *,
        auth: AuthTypes | None = None,
        params: QueryParamTypes | None = None,
        headers: HeaderTypes | None = None,
        cookies: CookieTypes | None = None,
        verify: ssl.SSLContext | str | bool = True,
        cert: CertTypes | None = None,
        trust_env: bool = True,
        http1: bool = True,
        http2: bool = False,
        proxy: ProxyTypes | None = None,
        mounts: Mapping[str, httpx2.BaseTransport | None] | None = None,
        timeout: TimeoutTypes = TIMEOUT,
        follow_redirects: bool = False,
        limits: httpx2.Limits = LIMITS,
        max_redirects: int = 20,
        event_hooks: Mapping[str, list[EventHook]] | None = None,
        base_url: httpx2.URL | str = "",
        transport: httpx2.BaseTransport | None = None,
        default_encoding: str | Callable[[bytes], str | None] = "utf-8",
        settings: Settings | None = None,
    ) -> None:
        self._settings = settings
        super().__init__(
            auth=auth,
            params=params,
            headers=headers,
            cookies=cookies,
            verify=verify,
            cert=cert,
            trust_env=trust_env,
            http1=http1,
            http2=http2,
            proxy=proxy,
            mounts=mounts,
            timeout=timeout,
            follow_redirects=follow_redirects,
            limits=limits,
            max_redirects=max_redirects,
            event_hooks=event_hooks,
            base_url=base_url,
            transport=transport,
            default_encoding=default_encoding,
        )
        if timeout is TIMEOUT:
            self._timeout = TIMEOUT  # set above as a copy, which says nothing of its origin

    def _init_transport(
        self, *args: Any, transport: httpx2.BaseTransport | None = None, **kwargs: Any
    ) -> httpx2.BaseTransport:
        if transport is not None:
            return transport
        return Transport(*args, **kwargs, settings=self._settings)

    def send(
        self,
        request: httpx2.Request,
        *,
        stream: bool = False,
        auth: AuthTypes | UseClientDefault | None = DEFAULT,
        follow_redirects: bool | UseClientDefault = DEFAULT,
    ) -> httpx2.Response:
        token = FLOW.set(Flow(not stream and not self.event_hooks["response"]))
        try:
            return super().send(
                request, stream=stream, auth=auth, follow_redirects=follow_redirects
            )
        finally:
            FLOW.reset(token)


class AsyncClient(httpx2.AsyncClient):
    """`httpx2.AsyncClient` over an `AsyncTransport`.

    `settings`: a `resilient.Settings`, default the environment.  All other arguments are
    httpx2's; times in seconds.  A request takes `extensions={"resilient": {...}}` (docs/http.md).
    Raises the library's errors, and those of `resilient.http.errors`.
    """

    def __init__(  # long: the library's signature
        self,
        *,
        auth: AuthTypes | None = None,
        params: QueryParamTypes | None = None,
        headers: HeaderTypes | None = None,
        cookies: CookieTypes | None = None,
        verify: ssl.SSLContext | str | bool = True,
        cert: CertTypes | None = None,
        http1: bool = True,
        http2: bool = False,
        proxy: ProxyTypes | None = None,
        mounts: Mapping[str, httpx2.AsyncBaseTransport | None] | None = None,
        timeout: TimeoutTypes = TIMEOUT,
        follow_redirects: bool = False,
        limits: httpx2.Limits = LIMITS,
        max_redirects: int = 20,
        event_hooks: Mapping[str, list[EventHook]] | None = None,
        base_url: httpx2.URL | str = "",
        transport: httpx2.AsyncBaseTransport | None = None,
        trust_env: bool = True,
        default_encoding: str | Callable[[bytes], str | None] = "utf-8",
        settings: Settings | None = None,
    ) -> None:
        self._settings = settings
        super().__init__(
            auth=auth,
            params=params,
            headers=headers,
            cookies=cookies,
            verify=verify,
            cert=cert,
            http1=http1,
            http2=http2,
            proxy=proxy,
            mounts=mounts,
            timeout=timeout,
            follow_redirects=follow_redirects,
            limits=limits,
            max_redirects=max_redirects,
            event_hooks=event_hooks,
            base_url=base_url,
            transport=transport,
            trust_env=trust_env,
            default_encoding=default_encoding,
        )
        if timeout is TIMEOUT:
            self._timeout = TIMEOUT  # set above as a copy, which says nothing of its origin

    def _init_transport(
        self, *args: Any, transport: httpx2.AsyncBaseTransport | None = None, **kwargs: Any
    ) -> httpx2.AsyncBaseTransport:
        if transport is not None:
            return transport
        return AsyncTransport(*args, **kwargs, settings=self._settings)

    async def send(
        self,
        request: httpx2.Request,
        *,
        stream: bool = False,
        auth: AuthTypes | UseClientDefault | None = DEFAULT,
        follow_redirects: bool | UseClientDefault = DEFAULT,
    ) -> httpx2.Response:
        token = FLOW.set(Flow(not stream and not self.event_hooks["response"]))
        try:
            return await super().send(
                request, stream=stream, auth=auth, follow_redirects=follow_redirects
            )
        finally:
            FLOW.reset(token)
