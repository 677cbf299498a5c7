# Made from resilient/http/_httpx2.py by `make generate`: change that one.
"""The same four drop-ins on httpx: its constructors with `settings`, and nothing else of weight.

Proxied requests (`proxy=`, `mounts=`, the environment's), Unix sockets and a user's own
`transport=` go the library's own way: there the proxy, the path or the transport decides
where a request ends up.
"""

from __future__ import annotations

import ssl
from collections.abc import Iterable
from types import TracebackType
from typing import TYPE_CHECKING, Any

import httpcore
import httpx

from ..settings import Settings
from . import _httpx_errors as errors
from ._async import AsyncEngine
from ._attempt import FLOW, Flow
from ._library import Library, network_is_real, untouched_timeout
from ._sync import SyncEngine

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from httpx._client import EventHook, UseClientDefault
    from httpx._types import (
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

__all__ = ["AsyncClient", "AsyncTransport", "Client", "Transport", "errors"]

LIBRARY = Library(httpx, httpcore, errors)
LIMITS = httpx.Limits(max_connections=100, max_keepalive_connections=20)
TIMEOUT: httpx.Timeout = untouched_timeout(httpx.Timeout, 5.0)
_real = network_is_real(
    (httpx.HTTPTransport, "handle_request"),
    (httpcore.ConnectionPool, "handle_request"),
    (httpcore.HTTPConnection, "handle_request"),
)
_async_real = network_is_real(
    (httpx.AsyncHTTPTransport, "handle_async_request"),
    (httpcore.AsyncConnectionPool, "handle_async_request"),
    (httpcore.AsyncHTTPConnection, "handle_async_request"),
)
DEFAULT: Any = httpx.USE_CLIENT_DEFAULT


class Transport(httpx.HTTPTransport):
    """`httpx.HTTPTransport` that knows its endpoints.

    `settings`: a `resilient.Settings`, default the environment.  All other arguments are
    httpx's; `limits` holds over all endpoints.
    """

    def __init__(  # noqa: PLR0917  # the library's signature
        self,
        verify: ssl.SSLContext | str | bool = True,
        cert: CertTypes | None = None,
        trust_env: bool = True,
        http1: bool = True,
        http2: bool = False,
        limits: httpx.Limits = LIMITS,
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

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Send it to an endpoint; elsewhere and again where that is right (docs/http.md).

        Raises the library's errors, and those of `resilient.http.errors`.
        """
        engine, send = self._engine, super().handle_request
        if engine is None or not _real():
            return send(request)
        response: httpx.Response | None = engine.handle(request, send)
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


class AsyncTransport(httpx.AsyncHTTPTransport):
    """`httpx.AsyncHTTPTransport` that knows its endpoints.

    `settings`: a `resilient.Settings`, default the environment.  All other arguments are
    httpx's; `limits` holds over all endpoints.
    """

    def __init__(  # noqa: PLR0917  # the library's signature
        self,
        verify: ssl.SSLContext | str | bool = True,
        cert: CertTypes | None = None,
        trust_env: bool = True,
        http1: bool = True,
        http2: bool = False,
        limits: httpx.Limits = LIMITS,
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

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send it to an endpoint; elsewhere and again where that is right (docs/http.md).

        Raises the library's errors, and those of `resilient.http.errors`.
        """
        engine, send = self._engine, super().handle_async_request
        answer = None if engine is None or not _async_real() else engine.handle(request, send)
        if answer is None:
            return await send(request)
        response: httpx.Response = await answer
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


class Client(httpx.Client):
    """`httpx.Client` over a `Transport`.

    `settings`: a `resilient.Settings`, default the environment.  All other arguments are
    httpx's; times in seconds.  A request takes `extensions={"resilient": {...}}` (docs/http.md).
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
        mounts: Mapping[str, httpx.BaseTransport | None] | None = None,
        timeout: TimeoutTypes = TIMEOUT,
        follow_redirects: bool = False,
        limits: httpx.Limits = LIMITS,
        max_redirects: int = 20,
        event_hooks: Mapping[str, list[EventHook]] | None = None,
        base_url: httpx.URL | str = "",
        transport: httpx.BaseTransport | None = None,
        default_encoding: str | Callable[[bytes], str] = "utf-8",
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
        self, *args: Any, transport: httpx.BaseTransport | None = None, **kwargs: Any
    ) -> httpx.BaseTransport:
        if transport is not None:
            return transport
        return Transport(*args, **kwargs, settings=self._settings)

    def send(
        self,
        request: httpx.Request,
        *,
        stream: bool = False,
        auth: AuthTypes | UseClientDefault | None = DEFAULT,
        follow_redirects: bool | UseClientDefault = DEFAULT,
    ) -> httpx.Response:
        token = FLOW.set(Flow(not stream and not self.event_hooks["response"]))
        try:
            return super().send(
                request, stream=stream, auth=auth, follow_redirects=follow_redirects
            )
        finally:
            FLOW.reset(token)


class AsyncClient(httpx.AsyncClient):
    """`httpx.AsyncClient` over an `AsyncTransport`.

    `settings`: a `resilient.Settings`, default the environment.  All other arguments are
    httpx's; times in seconds.  A request takes `extensions={"resilient": {...}}` (docs/http.md).
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
        mounts: Mapping[str, httpx.AsyncBaseTransport | None] | None = None,
        timeout: TimeoutTypes = TIMEOUT,
        follow_redirects: bool = False,
        limits: httpx.Limits = LIMITS,
        max_redirects: int = 20,
        event_hooks: Mapping[str, list[EventHook]] | None = None,
        base_url: httpx.URL | str = "",
        transport: httpx.AsyncBaseTransport | None = None,
        trust_env: bool = True,
        default_encoding: str | Callable[[bytes], str] = "utf-8",
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
        self, *args: Any, transport: httpx.AsyncBaseTransport | None = None, **kwargs: Any
    ) -> httpx.AsyncBaseTransport:
        if transport is not None:
            return transport
        return AsyncTransport(*args, **kwargs, settings=self._settings)

    async def send(
        self,
        request: httpx.Request,
        *,
        stream: bool = False,
        auth: AuthTypes | UseClientDefault | None = DEFAULT,
        follow_redirects: bool | UseClientDefault = DEFAULT,
    ) -> httpx.Response:
        token = FLOW.set(Flow(not stream and not self.event_hooks["response"]))
        try:
            return await super().send(
                request, stream=stream, auth=auth, follow_redirects=follow_redirects
            )
        finally:
            FLOW.reset(token)
