"""`GET /health/live` and `GET /health/ready`, served by either kind of application."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any
from wsgiref.validate import validator

import httpx2
import pytest

from resilient.health import Readiness, asgi_app, wsgi_app

Get = Callable[..., Any]


def broken() -> None:
    raise RuntimeError("secret detail")


@pytest.fixture(params=["asgi", "wsgi"])
def serve(request: pytest.FixtureRequest) -> Callable[..., Get]:
    """Make an application of checks; what is returned asks it."""

    def made(*args: Any, **checks: Any) -> Get:
        if request.param == "wsgi":
            wsgi = httpx2.WSGITransport(validator(wsgi_app(*args, **checks)))

            async def ask(method: str, path: str) -> httpx2.Response:
                with httpx2.Client(transport=wsgi, base_url="http://app.test") as client:
                    return client.request(method, path)

        else:
            asgi = httpx2.ASGITransport(asgi_app(*args, **checks))

            async def ask(method: str, path: str) -> httpx2.Response:
                async with httpx2.AsyncClient(transport=asgi, base_url="http://app.test") as client:
                    return await client.request(method, path)

        return ask

    return made


async def test_ready(serve: Callable[..., Get]) -> None:
    response = await serve(db=lambda: None, cache=lambda: None)("GET", "/health/ready")
    assert response.status_code == 200
    body = response.json()
    assert list(body) == ["db", "cache", "latency_ms"]
    assert body | {"latency_ms": 0} == {"db": "ok", "cache": "ok", "latency_ms": 0}
    assert isinstance(body["latency_ms"], int)
    assert response.headers["content-type"] == "application/json"
    assert response.headers["cache-control"] == "no-store"


async def test_not_ready_but_alive(serve: Callable[..., Get]) -> None:
    ask = serve({"db": broken}, cache=lambda: None)
    response = await ask("GET", "/health/ready")
    assert response.status_code == 503
    assert response.json()["db"] == "error"
    assert "secret" not in response.text
    response = await ask("GET", "/health/live")
    assert (response.status_code, response.json()["live"]) == (200, "ok")


async def test_alive_touches_nothing(serve: Callable[..., Get]) -> None:
    called = []
    assert (await serve(db=lambda: called.append(1))("GET", "/health/live")).status_code == 200
    assert called == []


async def test_a_readiness_may_be_shared(serve: Callable[..., Get]) -> None:
    readiness = Readiness(db=lambda: None)
    assert (await serve(readiness)("GET", "/health/ready")).json()["db"] == "ok"
    both = (await serve(readiness, cache=broken)("GET", "/health/ready")).json()
    assert (both["db"], both["cache"]) == ("ok", "error")


async def test_other_requests(serve: Callable[..., Get]) -> None:
    ask = serve(db=broken)
    response = await ask("HEAD", "/health/ready")
    assert (response.status_code, response.content) == (503, b"")
    assert int(response.headers["content-length"]) > 10
    response = await ask("POST", "/health/ready")
    assert (response.status_code, response.headers["allow"]) == (405, "GET, HEAD")
    for path in ("/", "/health", "/health/readyz"):
        response = await ask("GET", path)
        assert response.status_code == 404
        assert "/health/ready" in response.text


async def test_mounted_below_a_path() -> None:
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        raise AssertionError

    app = asgi_app(db=lambda: None)
    scope = {"type": "http", "method": "GET", "root_path": "/api", "path": "/api/health/ready"}
    await app(scope, receive, send)
    assert sent[0]["status"] == 200
    assert json.loads(sent[1]["body"])["db"] == "ok"


async def test_a_server_may_start_and_stop_it() -> None:
    messages = [{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}]
    sent: list[str] = []

    async def receive() -> Any:
        return messages.pop(0)

    async def send(message: Any) -> None:
        sent.append(message["type"])

    app = asgi_app(db=lambda: None)
    await app({"type": "lifespan"}, receive, send)
    assert sent == ["lifespan.startup.complete", "lifespan.shutdown.complete"]
    with pytest.raises(ValueError, match="websocket"):
        await app({"type": "websocket"}, receive, send)
