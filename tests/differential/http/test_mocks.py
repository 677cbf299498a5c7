"""What has no network isn't resolved: mocks work offline, as with the plain clients."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest
from side_by_side import Names

import resilient.http.httpx as ours

URL = "https://api.example.invalid/x"
KINDS = pytest.mark.parametrize("home", [httpx, ours], ids=["plain", "ours"])


@KINDS
def test_respx(names: Names, home: Any) -> None:
    respx = pytest.importorskip("respx", reason="respx isn't installed")
    with respx.mock:
        respx.get(URL).respond(json={"a": 1})
        with home.Client() as client:
            assert client.get(URL).json() == {"a": 1}

        async def main() -> Any:
            async with home.AsyncClient() as client:
                return (await client.get(URL)).json()

        assert asyncio.run(main()) == {"a": 1}


@KINDS
def test_a_transport_that_is_patched(
    names: Names, home: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As pytest-httpx does it."""

    def handle(transport: Any, request: Any) -> Any:
        if request.url.path == "/late":
            raise httpx.ReadTimeout("late")
        return httpx.Response(200, json={"a": 1})

    monkeypatch.setattr(httpx.HTTPTransport, "handle_request", handle)
    with home.Client() as client:
        assert client.get(URL).json() == {"a": 1}
        with pytest.raises(httpx.ReadTimeout):
            client.post("https://api.example.invalid/late")


@KINDS
def test_mock_and_asgi_transports(names: Names, home: Any) -> None:
    mock = httpx.MockTransport(lambda request: httpx.Response(200, json={"a": 1}))
    with home.Client(transport=mock) as client:
        assert client.get(URL).json() == {"a": 1}

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async def main() -> Any:
        async with home.AsyncClient(transport=httpx.ASGITransport(app)) as client:
            return (await client.get(URL)).status_code

    assert asyncio.run(main()) == 204


def test_what_only_watches_is_no_mock(names: Names, monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenTelemetry wraps the transport by wrapt: names are resolved by us as ever."""
    wrapt = pytest.importorskip("wrapt", reason="wrapt isn't installed")
    seen: list[str] = []

    def watch(wrapped: Any, instance: Any, args: Any, kwargs: Any) -> Any:
        seen.append(str(args[0].url))
        return wrapped(*args, **kwargs)

    own = httpx.HTTPTransport.handle_request
    monkeypatch.setattr(httpx.HTTPTransport, "handle_request", wrapt.FunctionWrapper(own, watch))
    with ours.Client() as client, pytest.raises(httpx.ConnectError) as caught:
        client.get(URL)
    assert type(caught.value) is ours.errors.NameNotFound
