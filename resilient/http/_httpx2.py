"""The four drop-ins on httpx2: its constructors with `settings`, and nothing else of weight.

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

import httpcore2
import httpx2

from ..settings import Settings
from . import _pools, errors
from ._async import AsyncEngine
from ._engine import BUFFERED
from ._library import Library
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
TIMEOUT = httpx2.Timeout(timeout=5.0)
DEFAULT: Any = httpx2.USE_CLIENT_DEFAULT


class Transport(httpx2.HTTPTransport):
    """`httpx2.HTTPTransport` that knows its endpoints.  `settings`: the environment's."""

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
            context = _pools.ssl_context(self)
            plain = partial(
                httpx2.HTTPTransport, context, None, trust_env, http1, http2, limits, None, None,
                local_address, retries, options,
            )  # fmt: skip
            self._engine = SyncEngine(LIBRARY, settings, plain)

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        engine = self._engine
        response: httpx2.Response | None = None if engine is None else engine.handle(request)
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


class AsyncTransport(httpx2.AsyncHTTPTransport):
    """`httpx2.AsyncHTTPTransport` that knows its endpoints.  `settings`: the environment's."""

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
            context = _pools.ssl_context(self)
            plain = partial(
                httpx2.AsyncHTTPTransport, context, None, trust_env, http1, http2, limits, None,
                None, local_address, retries, options,
            )  # fmt: skip
            self._engine = AsyncEngine(LIBRARY, settings, plain)

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        engine = self._engine
        answer = None if engine is None else engine.handle(request)
        if answer is None:
            return await super().handle_async_request(request)
        response: httpx2.Response = await answer
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


class Client(httpx2.Client):
    """`httpx2.Client` over a `Transport`.  `settings`: the environment's."""

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
        self, *args: Any, transport: httpx2.BaseTransport | None = None, **kwargs: Any
    ) -> httpx2.BaseTransport:
        if transport is not None:
            return transport
        own = Transport(*args, **kwargs, settings=self._settings)
        if own._engine is not None:
            own._engine.buffers = self._quick
        return own

    def send(
        self,
        request: httpx2.Request,
        *,
        stream: bool = False,
        auth: AuthTypes | UseClientDefault | None = DEFAULT,
        follow_redirects: bool | UseClientDefault = DEFAULT,
    ) -> httpx2.Response:
        if self._quick and not stream:
            return httpx2.Client.send(self, request, auth=auth, follow_redirects=follow_redirects)
        token = BUFFERED.set(not stream)
        try:
            return httpx2.Client.send(
                self, request, stream=stream, auth=auth, follow_redirects=follow_redirects
            )
        finally:
            BUFFERED.reset(token)


class AsyncClient(httpx2.AsyncClient):
    """`httpx2.AsyncClient` over an `AsyncTransport`.  `settings`: the environment's."""

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
        self, *args: Any, transport: httpx2.AsyncBaseTransport | None = None, **kwargs: Any
    ) -> httpx2.AsyncBaseTransport:
        if transport is not None:
            return transport
        own = AsyncTransport(*args, **kwargs, settings=self._settings)
        if own._engine is not None:
            own._engine.buffers = self._quick
        return own

    async def send(
        self,
        request: httpx2.Request,
        *,
        stream: bool = False,
        auth: AuthTypes | UseClientDefault | None = DEFAULT,
        follow_redirects: bool | UseClientDefault = DEFAULT,
    ) -> httpx2.Response:
        if self._quick and not stream:
            return await httpx2.AsyncClient.send(
                self, request, auth=auth, follow_redirects=follow_redirects
            )
        token = BUFFERED.set(not stream)
        try:
            return await super().send(
                request, stream=stream, auth=auth, follow_redirects=follow_redirects
            )
        finally:
            BUFFERED.reset(token)
