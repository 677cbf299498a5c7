"""The stock instrumentations on our pools and clients: as many spans as on the bare ones."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import httpx
import psycopg
import psycopg_pool
import pytest

from resilient.http.httpx import Client
from resilient.lab import Lab
from resilient.postgres import ConnectionPool

from ..seen import Seen
from .conftest import settings_of

WHY = "the instrumentation isn't installed"


def work(pool: Any) -> None:
    with pool.connection() as conn:
        conn.execute("select 1")
        conn.cursor().execute("select 2")
    with pool.connection() as conn, conn.transaction():
        conn.execute("select 3")


@pytest.mark.lab
def test_psycopg(lab: Lab, seen: Seen, monkeypatch: pytest.MonkeyPatch) -> None:
    stock = pytest.importorskip("opentelemetry.instrumentation.psycopg", reason=WHY)
    for owner in (psycopg.Connection, psycopg.AsyncConnection):
        # What it leaves there when it goes is bound to the class, whatever calls it.
        monkeypatch.setattr(owner, "connect", vars(owner)["connect"])
    instrumentor = stock.PsycopgInstrumentor()
    instrumentor.instrument(tracer_provider=seen.tracers)
    dsn = f"host={lab.primary.address} port={lab.port} user=app dbname=app"
    counts = []
    try:
        for kind, more in (
            (psycopg_pool.ConnectionPool, {}),
            (ConnectionPool, {"settings": settings_of(lab)}),
        ):
            seen.exporter.clear()
            with kind(dsn, min_size=1, max_size=1, open=True, **more) as pool:  # type: ignore[arg-type]
                pool.wait()
                work(pool)
            counts.append(_counts(seen))
    finally:
        instrumentor.uninstrument()
    assert counts[0] == counts[1]


@pytest.mark.lab
def test_sqlalchemy(lab: Lab, seen: Seen) -> None:
    stock = pytest.importorskip("opentelemetry.instrumentation.sqlalchemy", reason=WHY)
    sqlalchemy = pytest.importorskip("sqlalchemy", reason="SQLAlchemy isn't installed")
    instrumentor = stock.SQLAlchemyInstrumentor()
    dsn = f"host={lab.primary.address} port={lab.port} user=app dbname=app"
    counts = []
    try:
        instrumentor.instrument(tracer_provider=seen.tracers, skip_dep_check=True)
        for kind, more in (
            (psycopg_pool.ConnectionPool, {}),
            (ConnectionPool, {"settings": settings_of(lab)}),
        ):
            seen.exporter.clear()
            with kind(dsn, min_size=1, open=True, close_returns=True, **more) as pool:  # type: ignore[arg-type]
                engine = sqlalchemy.create_engine(
                    "postgresql+psycopg://", creator=pool.getconn, poolclass=sqlalchemy.NullPool
                )
                with engine.connect() as conn:
                    conn.execute(sqlalchemy.text("select 1"))
                engine.dispose()
            counts.append(_counts(seen))
    finally:
        instrumentor.uninstrument()
    assert counts[0] == counts[1]
    assert sum(counts[0].values()) >= 1


@pytest.fixture
def url() -> Iterator[str]:
    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        thread = Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("one", [True, False], ids=["one client", "all of them"])
def test_httpx(seen: Seen, url: str, one: bool) -> None:
    stock = pytest.importorskip("opentelemetry.instrumentation.httpx", reason=WHY)
    instrumentor = stock.HTTPXClientInstrumentor()
    counts = []
    if not one:
        instrumentor.instrument(tracer_provider=seen.tracers)
    try:
        for kind in (httpx.Client, Client):
            seen.exporter.clear()
            with kind() as client:
                if one:
                    instrumentor.instrument_client(client, tracer_provider=seen.tracers)
                for _ in range(3):
                    assert client.get(url).status_code == 200
            counts.append(_counts(seen))
    finally:
        if not one:
            instrumentor.uninstrument()
    assert counts[0] == counts[1] == {"GET": 3}


def _counts(seen: Seen) -> Counter[str]:
    return Counter(span.name for span in seen.exporter.get_finished_spans())
