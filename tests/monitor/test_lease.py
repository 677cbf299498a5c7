"""The lease: what Patroni's REST API says, and what becomes of it; on real servers at the end."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
import pytest_asyncio

from resilient.core.model import Endpoint, EndpointView, Health, Role, Topology
from resilient.core.topology_events import Leased
from resilient.errors import ConfigError, NoEndpointAvailable
from resilient.lab import Lab
from resilient.monitor import lease
from resilient.monitor.lease import Holder, LeaseWatch, holder_of
from resilient.postgres import ConnectionPool
from resilient.settings import Settings


def member(name: str, host: str, role: str = "replica", **more: Any) -> dict[str, Any]:
    return {"name": name, "host": host, "port": 5432, "role": role, "state": "running", **more}


def cluster(*members: dict[str, Any]) -> dict[str, Any]:
    """In the form that Patroni documents for GET /cluster."""
    return {"members": list(members), "scope": "shop"}


@pytest.mark.parametrize(
    ("told", "holder"),
    [
        (
            cluster(member("a", "10.0.1.5", "leader", timeline=5), member("b", "10.0.2.5")),
            Holder("10.0.1.5", 5432, 5),
        ),
        (cluster(member("a", "pg1.example", "leader")), Holder("pg1.example", 5432, None)),
        (cluster(member("a", "10.0.1.5", "leader", timeline="unknown")), ("10.0.1.5", 5432, None)),
        (cluster(member("a", "10.0.1.5"), member("b", "10.0.2.5")), None),
        (cluster(member("a", "10.0.1.5", "standby_leader")), None),
        (cluster(), None),
    ],
)
def test_who_holds_it(told: Any, holder: Holder | None) -> None:
    assert holder_of(told) == holder


@pytest.mark.parametrize("told", [[], {}, {"members": [1]}, {"members": [{"role": "leader"}]}, 5])
def test_what_isnt_patronis(told: Any) -> None:
    with pytest.raises(ValueError, match="not a Patroni cluster"):
        holder_of(told)


class Rest:
    """Patroni's REST API: a server that answers `GET /cluster`."""

    def __init__(self) -> None:
        self.told: Any = cluster()
        self.status = 200
        self.asked = 0
        rest = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                rest.asked += 1
                body = json.dumps(rest.told).encode()
                self.send_response(rest.status if self.path == "/cluster" else 404)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def rest() -> Iterator[Rest]:
    made = Rest()
    yield made
    made.close()


A, B = Endpoint("pg1.example", "10.0.1.5", 5432), Endpoint("pg2.example", "10.0.2.5", 5432)


def topology(writer: Endpoint | None = A) -> Topology:
    views = tuple(
        EndpointView(e, role=Role.PRIMARY if e == writer else Role.REPLICA, health=Health.UP)
        for e in (A, B)
    )
    return Topology(1, views, views[0] if writer == A else None, 1)


class Watched:
    """A watch on this test's loop, and what it has said."""

    def __init__(self, **settings: Any) -> None:
        self.said: list[Leased] = []
        self.asked: list[Endpoint] = []
        given = {"probe_interval_s": 0.05, "lease": "patroni", **settings}
        self.watch = LeaseWatch(Settings(**given), self.said.append, self.asked.append)
        self.watch.topology_changed(topology())
        self.watch.start(asyncio.get_running_loop())

    async def until(self, reached: Callable[[], object]) -> None:
        async with asyncio.timeout(10):
            while not reached():
                await asyncio.sleep(0.01)


Begin = Callable[..., Watched]


@pytest_asyncio.fixture
async def begin() -> AsyncIterator[Begin]:
    made: list[Watched] = []

    def begun(**settings: Any) -> Watched:
        made.append(Watched(**settings))
        return made[-1]

    yield begun
    for one in made:
        await one.watch.close()


async def test_the_holder_is_told_and_probed_when_it_changes(rest: Rest, begin: Begin) -> None:
    rest.told = cluster(member("a", "10.0.1.5", "leader", timeline=5))
    watched = begin(patroni_urls=[rest.url])
    await watched.until(lambda: watched.said == [Leased((A,), 5)])
    assert watched.asked == [A]
    rest.told = cluster(member("a", "10.0.1.5"), member("b", "pg2.example", "leader", timeline=6))
    await watched.until(lambda: watched.said[1:] == [Leased((B,), 6)])
    assert watched.asked == [A, B]
    before = rest.asked
    await watched.until(lambda: rest.asked > before + 3)
    assert len(watched.said) == 2  # the same thing isn't said again
    rest.told = cluster(member("a", "10.0.1.5"))
    await watched.until(lambda: watched.said[2:] == [Leased(())])


async def test_without_the_setting_it_is_news_and_no_rule(rest: Rest, begin: Begin) -> None:
    rest.told = cluster(member("b", "10.0.2.5", "leader", timeline=6))
    watched = begin(patroni_urls=[rest.url], lease="none")
    await watched.until(lambda: watched.asked == [B])
    assert watched.said == []


async def test_a_stranger_is_nobody(rest: Rest, begin: Begin) -> None:
    rest.told = cluster(member("c", "10.0.9.9", "leader", timeline=6))
    watched = begin(patroni_urls=[rest.url])
    await watched.until(lambda: rest.asked > 2)
    assert [one.holders for one in watched.said] in ([], [()])
    # once it is among the known ones, it is told
    stranger = EndpointView(Endpoint("pg3.example", "10.0.9.9", 5432))
    watched.watch.topology_changed(Topology(2, (*topology().endpoints, stranger), None, 1))
    await watched.until(lambda: watched.said[-1:] == [Leased((stranger.endpoint,), 6)])


async def test_the_next_source_is_asked(rest: Rest, begin: Begin) -> None:
    rest.told = cluster(member("a", "10.0.1.5", "leader", timeline=5))
    other = Rest()
    try:
        other.status = 503
        watched = begin(patroni_urls=[other.url, "http://127.0.0.1:9", rest.url])
        await watched.until(lambda: watched.said == [Leased((A,), 5)])
        asked = other.asked
        await watched.until(lambda: rest.asked > 4)
        assert other.asked == asked  # whoever answered last is asked first
    finally:
        other.close()


async def test_a_source_that_is_silent_is_forgotten(
    rest: Rest, begin: Begin, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "resilient.monitor")
    monkeypatch.setattr(lease, "STALE_S", 0.4)
    rest.told = cluster(member("a", "10.0.1.5", "leader", timeline=5))
    watched = begin(patroni_urls=[rest.url])
    await watched.until(lambda: watched.said == [Leased((A,), 5)])
    rest.told, since = {"odd": 1}, time.monotonic()
    await watched.until(lambda: watched.said[1:] == [Leased(())])
    assert time.monotonic() - since > 0.3  # not at once: what it said holds for a while
    (line,) = caplog.messages
    assert line.startswith("event=lease.unknown reason=")
    rest.told = cluster(member("a", "10.0.1.5", "leader", timeline=5))
    await watched.until(lambda: watched.said[2:] == [Leased((A,), 5)])


async def test_trouble_is_asked_about_at_once(rest: Rest, begin: Begin) -> None:
    watched = begin(patroni_urls=[rest.url], probe_interval_s=60.0)
    await watched.until(lambda: rest.asked == 1)
    watched.watch.topology_changed(topology(writer=None))
    await watched.until(lambda: rest.asked >= 3)


def test_the_setting_needs_a_source() -> None:
    with pytest.raises(
        ConfigError, match=r"RESILIENT_LEASE='patroni' needs RESILIENT_PATRONI_URLS"
    ):
        Settings(lease="patroni")


@pytest.mark.lab
def test_a_tie_between_real_servers_is_settled(lab: Lab, rest: Rest) -> None:
    """Two standbys are promoted to the same timeline: nobody writes, until the lease names one."""
    one, two = lab.standbys
    lab.primary.kill()
    one.promote()
    two.promote()
    until(lambda: one.is_primary() and two.is_primary())
    timeline = one.execute("select substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8)")[0][0]

    def told(holder: Any) -> dict[str, Any]:
        members = [
            member(each.zone, each.address, "leader" if each is holder else "replica")
            | {"port": lab.port, "timeline": int(str(timeline), 16)}
            for each in (one, two)
        ]
        return cluster(*members)

    environment = {
        key.removeprefix("RESILIENT_").lower(): value
        for key, value in lab.env().items()
        if key != "RESILIENT_DATABASE_URL"
    }
    settings = Settings(
        **{**environment, "patroni_urls": [rest.url], "lease": "patroni", "deadline_s": 15.0}
    )
    options = {"options": "-c synchronous_commit=local"}
    with ConnectionPool(lab.dsn, min_size=1, open=True, settings=settings, kwargs=options) as pool:

        def where() -> str:
            with pool.connection() as conn:
                row = conn.execute("select host(inet_server_addr())").fetchone()
            assert row is not None
            return str(row[0])

        until(lambda: "two primaries" in pool.topology.conflict)
        until(lambda: _refused(pool))
        for holder, other in ((two, one), (one, two)):
            rest.told = told(holder)
            until(lambda h=holder: _writer(pool) == h.address)  # type: ignore[misc]
            assert where() == holder.address
            (view,) = [v for v in pool.topology.endpoints if v.address == other.address]
            assert view.fenced
            assert "holds the lease" in view.reason
        rest.told = told(None)
        until(lambda: "two primaries" in pool.topology.conflict)


def _refused(pool: Any) -> bool:
    try:
        with pool.connection(timeout=0.3):
            return False
    except NoEndpointAvailable:
        return True


def _writer(pool: Any) -> str | None:
    writer = pool.topology.writer
    return None if writer is None else str(writer.address)


def until(reached: Callable[[], object]) -> None:
    give_up_at = time.monotonic() + 15
    while not reached():
        assert time.monotonic() < give_up_at
        time.sleep(0.02)
