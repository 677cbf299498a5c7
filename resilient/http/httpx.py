"""The same four drop-ins on httpx: its constructors with `settings`, and nothing else of weight.

Proxied requests (`proxy=`, `mounts=`, the environment's), Unix sockets and a user's own
`transport=` go the library's own way: there the proxy, the path or the transport decides
where a request ends up.
"""

from __future__ import annotations

import ssl
from collections.abc import Iterable
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any

import httpcore
import httpx

from ..settings import Settings
from . import _httpx_errors as errors
from . import _pools
from ._async import AsyncEngine
from ._engine import BUFFERED
from ._library import Library
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
TIMEOUT = httpx.Timeout(timeout=5.0)
DEFAULT: Any = httpx.USE_CLIENT_DEFAULT


class Transport(httpx.HTTPTransport):
    """`httpx.HTTPTransport` that knows its endpoints.  `settings`: the environment's."""

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
            context = _pools.ssl_context(self)
            plain = partial(
                httpx.HTTPTransport, context, None, trust_env, http1, http2, limits, None, None,
                local_address, retries, options,
            )  # fmt: skip
            self._engine = SyncEngine(LIBRARY, settings, plain)

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        engine = self._engine
        response: httpx.Response | None = None if engine is None else engine.handle(request)
        return super().handle_request(request) if response is None else response

    def close(self) -> None:
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
    """`httpx.AsyncHTTPTransport` that knows its endpoints.  `settings`: the environment's."""

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
            context = _pools.ssl_context(self)
            plain = partial(
                httpx.AsyncHTTPTransport, context, None, trust_env, http1, http2, limits, None,
                None, local_address, retries, options,
            )  # fmt: skip
            self._engine = AsyncEngine(LIBRARY, settings, plain)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        engine = self._engine
        answer = None if engine is None else engine.handle(request)
        if answer is None:
            return await super().handle_async_request(request)
        response: httpx.Response = await answer
        return response

    async def aclose(self) -> None:
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
    """`httpx.Client` over a `Transport`.  `settings`: the environment's."""

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
        self._quick = transport is None and not mounts
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

    def _init_transport(
        self, *args: Any, transport: httpx.BaseTransport | None = None, **kwargs: Any
    ) -> httpx.BaseTransport:
        if transport is not None:
            return transport
        own = Transport(*args, **kwargs, settings=self._settings)
        if own._engine is not None:
            own._engine.buffers = self._quick
        return own

    def send(
        self,
        request: httpx.Request,
        *,
        stream: bool = False,
        auth: AuthTypes | UseClientDefault | None = DEFAULT,
        follow_redirects: bool | UseClientDefault = DEFAULT,
    ) -> httpx.Response:
        if self._quick and not stream:
            return httpx.Client.send(self, request, auth=auth, follow_redirects=follow_redirects)
        token = BUFFERED.set(not stream)
        try:
            return httpx.Client.send(
                self, request, stream=stream, auth=auth, follow_redirects=follow_redirects
            )
        finally:
            BUFFERED.reset(token)


class AsyncClient(httpx.AsyncClient):
    """`httpx.AsyncClient` over an `AsyncTransport`.  `settings`: the environment's."""

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
        self._quick = transport is None and not mounts
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

    def _init_transport(
        self, *args: Any, transport: httpx.AsyncBaseTransport | None = None, **kwargs: Any
    ) -> httpx.AsyncBaseTransport:
        if transport is not None:
            return transport
        own = AsyncTransport(*args, **kwargs, settings=self._settings)
        if own._engine is not None:
            own._engine.buffers = self._quick
        return own

    async def send(
        self,
        request: httpx.Request,
        *,
        stream: bool = False,
        auth: AuthTypes | UseClientDefault | None = DEFAULT,
        follow_redirects: bool | UseClientDefault = DEFAULT,
    ) -> httpx.Response:
        if self._quick and not stream:
            return await httpx.AsyncClient.send(
                self, request, auth=auth, follow_redirects=follow_redirects
            )
        token = BUFFERED.set(not stream)
        try:
            return await super().send(
                request, stream=stream, auth=auth, follow_redirects=follow_redirects
            )
        finally:
            BUFFERED.reset(token)
