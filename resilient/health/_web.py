"""The two endpoints as an ASGI and as a WSGI application, to be mounted or served alone."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping
from http import HTTPStatus
from typing import Any

from ._readiness import Readiness, live
from ._report import Report

__all__ = ["asgi_app", "wsgi_app"]

LIVE, READY = "/health/live", "/health/ready"
METHODS = ("GET", "HEAD")

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Asgi = Callable[[Scope, Receive, Send], Awaitable[None]]
Wsgi = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]
Headers = list[tuple[str, str]]


def asgi_app(checks: Readiness | Mapping[str, Any] | None = None, /, **named: Any) -> Asgi:
    """`GET /health/live` and `GET /health/ready` (ASGI 3).

    `checks` and `named` are those of `Readiness`, or `checks` is one.  Answers 200 or 503 with
    JSON, 404 and 405.  The application raises `ValueError` for scopes other than `http` and
    `lifespan`.
    """
    readiness = _readiness(checks, named)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await _lifespan(receive, send)
            return
        if scope["type"] != "http":
            raise ValueError(f"scope type {scope['type']!r}: only http and lifespan are served")
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        status, headers, body = _refusal(scope["method"], path)
        if status == HTTPStatus.OK:
            report = live() if path == LIVE else await readiness.check_async()
            status, headers, body = _answer(report)
        if scope["method"] == "HEAD":
            body = b""
        raw = [(name.lower().encode(), value.encode()) for name, value in headers]
        await send({"type": "http.response.start", "status": int(status), "headers": raw})
        await send({"type": "http.response.body", "body": body})

    return app


def wsgi_app(checks: Readiness | Mapping[str, Any] | None = None, /, **named: Any) -> Wsgi:
    """The same for WSGI (PEP 3333); `checks` and `named` as in `asgi_app`.

    Raises `ConfigError` for coroutine functions and asyncio's pools.
    """
    readiness = _readiness(checks, named)
    readiness.refuse_coroutines()

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        method, path = environ["REQUEST_METHOD"], environ.get("PATH_INFO", "")
        status, headers, body = _refusal(method, path)
        if status == HTTPStatus.OK:
            status, headers, body = _answer(live() if path == LIVE else readiness.check())
        start_response(f"{int(status)} {status.phrase}", headers)
        return [b"" if method == "HEAD" else body]

    return app


def _readiness(checks: Readiness | Mapping[str, Any] | None, named: dict[str, Any]) -> Readiness:
    if isinstance(checks, Readiness) and not named:
        return checks
    given = checks.checks if isinstance(checks, Readiness) else checks
    return Readiness(given, **named)


def _refusal(method: str, path: str) -> tuple[HTTPStatus, Headers, bytes]:
    """What is wrong with a request; OK when it is served."""
    if path not in (LIVE, READY):
        return _plain(HTTPStatus.NOT_FOUND, f"{LIVE} and {READY} are served here\n")
    if method not in METHODS:
        status, headers, body = _plain(HTTPStatus.METHOD_NOT_ALLOWED, "GET and HEAD\n")
        return status, [*headers, ("Allow", ", ".join(METHODS))], body
    return HTTPStatus.OK, [], b""


def _plain(status: HTTPStatus, text: str) -> tuple[HTTPStatus, Headers, bytes]:
    return status, _headers("text/plain; charset=utf-8", text.encode()), text.encode()


def _answer(report: Report) -> tuple[HTTPStatus, Headers, bytes]:
    body = report.body()
    return HTTPStatus(report.status), _headers("application/json", body), body


def _headers(kind: str, body: bytes) -> Headers:
    # a state of a moment: nobody between may keep it
    return [
        ("Content-Type", kind),
        ("Content-Length", str(len(body))),
        ("Cache-Control", "no-store"),
    ]


async def _lifespan(receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        kind = message["type"]
        await send({"type": f"{kind}.complete"})
        if kind == "lifespan.shutdown":
            return
