"""Pools behind a name: what each trouble with the name does to them (FAULTS 19–22, 37)."""

from __future__ import annotations

import asyncio
import logging
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from typing import Any, Self

import httpx2
import psycopg
import pytest
from pg_servers import Pool, Servers

from resilient import Settings
from resilient.errors import NoEndpointAvailable
from resilient.http import AsyncClient
from resilient.lab import DnsFaults, DnsServer
from resilient.monitor import resolvers
from resilient.monitor.names import EVERY_S
from resilient.postgres import NullConnectionPool

WRITER = "writer.db.test"
A, B = "127.0.61.1", "127.0.62.1"

pytestmark = pytest.mark.lab


@pytest.fixture(scope="module")
def servers() -> Iterator[Servers]:
    with Servers([A, B]) as running:
        yield running


@pytest.fixture(autouse=True)
def leaves_nothing() -> None:
    """Descriptors are counted where resolvers are alone: here servers live in this process."""


@pytest.fixture(autouse=True)
def all_up(servers: Servers) -> Iterator[None]:
    yield
    for member in servers.members:
        if member.pid is None:
            member.start()


class Zone(DnsServer):
    """`db.test` with the writer on A."""

    def __init__(self, ttl_s: int = 1, absent_s: float = 1) -> None:
        super().__init__("db.test", negative_ttl_s=absent_s)
        for name, address in (("a", A), ("b", B)):
            self.set_records(f"{name}.db.test", "A", [address], 60)
        self.flip(WRITER, "a.db.test", ttl_s)
        self.settle()
        self.at = self.listen("127.0.0.1", 0)

    def settings(self, **given: Any) -> Settings:
        values: dict[str, Any] = {"dns_nameservers": "{}:{}".format(*self.at), "dns_search": []}
        return Settings(**{**values, **given})


@pytest.fixture
def zone() -> Iterator[Zone]:
    running = Zone()
    yield running
    running.close()


@pytest.fixture(params=["sync", "async"])
def shell(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def dsn(servers: Servers, host: str = WRITER) -> str:
    return f"host={host} port={servers.port} user=postgres dbname=postgres"


async def test_a_flip_drains_without_a_crash(
    shell: str, servers: Servers, zone: Zone, caplog: pytest.LogCaptureFixture
) -> None:
    async with Pool(shell, dsn(servers), zone.settings()) as pool:
        assert await pool.where() == A
        with caplog.at_level(logging.INFO, "resilient.dns"):
            zone.flip(WRITER, "b.db.test")
            assert await pool.arrives(B, 3) <= 1.3  # TTL + 300 ms
        for _ in range(6):  # none of the old connections is given out any more
            assert await pool.where() == B
        assert pool.addresses == {B}
    told = [r.getMessage() for r in caplog.records if "event=dns.changed" in r.getMessage()]
    assert len(told) == 1
    assert f"old_chain={WRITER}>a.db.test new_chain={WRITER}>b.db.test" in told[0]
    assert f"old_addresses={A} new_addresses={B}" in told[0]


async def test_nxdomain_keeps_who_answers_and_drops_who_never_did(
    shell: str, servers: Servers, zone: Zone
) -> None:
    """FAULTS 19: no error on live connections; nobody dials what only DNS knew."""
    with Silent("127.0.63.1", servers.port) as unheard:
        zone.set_records("a.db.test", "A", [A, unheard.address], 60)
        async with Pool(shell, dsn(servers), zone.settings(probe_interval_s=0.2)) as pool:
            assert await pool.where() == A
            assert pool.addresses == {A, unheard.address}
            zone.faults = DnsFaults(nxdomain=True)
            assert await _until(lambda: pool.addresses == {A}, 3)
            await asyncio.sleep(0.1)
            dialled = unheard.count
            for _ in range(20):
                assert await pool.where(0.5) == A
                await asyncio.sleep(0.03)
            assert unheard.count == dialled
            # Its own probes fail as well: there is nothing left to dial, and the error says why.
            servers.members[0].kill()
            assert await _gives_up(pool, "no such name", 3)
            assert await _until(lambda: pool.addresses == set(), 3)
            zone.faults = DnsFaults()
            zone.set_records("a.db.test", "A", [A], 1)
            servers.members[0].start()
            await pool.arrives(A, 5)


@pytest.mark.parametrize(("shell", "fault"), [("sync", "servfail"), ("async", "drop")])
async def test_silent_name_servers_cost_callers_nothing(
    shell: str, servers: Servers, zone: Zone, fault: str
) -> None:
    """FAULTS 20: who has an endpoint waits 0 ms, over several TTLs."""
    async with Pool(shell, dsn(servers), zone.settings(dns_timeout_s=0.2)) as pool:
        await pool.arrives(A, 3)
        zone.faults = DnsFaults(**{fault: True})
        slowest = 0.0
        end = time.monotonic() + 1.8
        while time.monotonic() < end:
            began = time.monotonic()
            assert await pool.where(0.5) == A
            slowest = max(slowest, time.monotonic() - began)
            await asyncio.sleep(0.02)
        assert slowest < 0.1
        assert pool.addresses == {A}


@pytest.mark.parametrize(
    ("shell", "faults"),
    [
        ("sync", DnsFaults(delay_s=0.1)),
        ("async", DnsFaults(wrong_id=True)),
        ("async", DnsFaults(truncate=True)),
    ],
    ids=["sync-delay", "async-wrong id", "async-truncation"],
)
async def test_a_crash_is_survived_with_a_sick_name_server(
    shell: str, servers: Servers, zone: Zone, faults: DnsFaults
) -> None:
    sick = Zone()
    try:
        sick.faults = faults
        given = "{}:{},{}:{}".format(*sick.at, *zone.at)
        settings = zone.settings(dns_nameservers=given, dns_timeout_s=0.2)
        async with Pool(shell, dsn(servers), settings) as pool:
            await pool.arrives(A, 3)
            servers.members[0].kill()
            for each in (sick, zone):
                each.flip(WRITER, "b.db.test")
            await pool.arrives(B, 3)
    finally:
        sick.close()


async def test_a_late_secondary(shell: str, servers: Servers, zone: Zone) -> None:
    """FAULTS 21: first write ≤ TTL + 300 ms after the server that we ask has the new record."""
    zone.at = zone.listen("127.0.0.1", 0, lag_s=1.0)
    async with Pool(shell, dsn(servers), zone.settings()) as pool:
        assert await pool.where() == A
        servers.members[0].kill()
        flipped_at = zone.flip(WRITER, "b.db.test")
        await pool.arrives(B, 5)
        assert 1.0 <= time.monotonic() - flipped_at <= 1.0 + 1.0 + 0.3


async def test_the_name_server_dies_with_the_zone(shell: str, servers: Servers, zone: Zone) -> None:
    """FAULTS 37: the first name server and the primary go at once; the other one has it."""
    other = Zone()
    try:
        given = "{}:{},{}:{}".format(*zone.at, *other.at)
        settings = zone.settings(dns_nameservers=given, dns_timeout_s=0.3, deadline_s=5)
        async with Pool(shell, dsn(servers), settings) as pool:
            assert await pool.where() == A
            zone.faults = DnsFaults(drop=True)
            servers.members[0].kill()
            other.flip(WRITER, "b.db.test")
            # one silent server (0.3 s) on the way to the one that knows
            assert await pool.arrives(B, 4) < 1.5
    finally:
        other.close()


async def test_a_service_gives_hosts_and_ports(shell: str, servers: Servers, zone: Zone) -> None:
    service = "_postgresql._tcp.db.test"
    zone.set_records(service, "SRV", [f"10 0 {servers.port} a.db.test."], 1)
    conninfo = dsn(servers, service).replace(f"port={servers.port}", "port=1")
    async with Pool(shell, conninfo, zone.settings()) as pool:
        assert await pool.where() == A
        (view,) = pool.inner.topology.endpoints
        assert (view.name, view.port) == ("db.test", servers.port)  # what TLS verifies
        zone.set_records(service, "SRV", [f"10 0 {servers.port} b.db.test."], 1)
        assert await pool.arrives(B, 4) <= 1.4
        assert pool.addresses == {B}


@pytest.mark.parametrize("shell", ["async"])
async def test_addresses_outside_the_allowed_networks_are_not_dialled(
    shell: str, servers: Servers, zone: Zone
) -> None:
    with Silent("127.0.64.1", servers.port) as outside:
        zone.set_records("a.db.test", "A", [A, outside.address], 1)
        settings = zone.settings(dns_allowed_networks=f"{A}/32")
        async with Pool(shell, dsn(servers), settings) as pool:
            assert await pool.where() == A
            zone.flip(WRITER, "b.db.test")
            await asyncio.sleep(1.2)
            assert await pool.where() == A
            assert pool.addresses == {A}
        assert outside.count == 0


@pytest.mark.parametrize("shell", ["sync"])
async def test_a_rotating_name_by_its_setting(shell: str, servers: Servers, zone: Zone) -> None:
    """Subsets that vary: nothing that answers is drained by one answer."""
    zone.set_records("a.db.test", "A", [A], 1)
    settings = zone.settings(dns_mode=f"{WRITER}=rotating")
    async with Pool(shell, dsn(servers), settings) as pool:
        assert await pool.where() == A
        moved_at = zone.flip(WRITER, "b.db.test")
        await asyncio.sleep(max(0.0, moved_at + 1.2 - time.monotonic()))
        assert A in pool.addresses
        assert B in pool.addresses


@pytest.fixture
def web(servers: Servers) -> Iterator[int]:
    """An HTTP server beside the database servers; its port."""

    class Hello(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer((A, 0), Hello) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


async def test_clusters_and_http_clients_ask_once(servers: Servers, zone: Zone, web: int) -> None:
    zone.flip(WRITER, "a.db.test", 60)
    zone.settle()
    settings = zone.settings(dns_ttl_ceiling_s=60)
    other = dsn(servers).replace("dbname=postgres", "dbname=template1")
    async with (
        Pool("sync", dsn(servers), settings) as pool,
        Pool("async", other, settings, min_size=1) as second,
        AsyncClient(base_url=f"http://{WRITER}:{web}", settings=settings) as client,
    ):
        assert pool.inner._core.cluster is not second.inner._core.cluster
        assert [await pool.where(), await second.where()] == [A, A]
        assert (await client.get("/")).status_code == 204
        await asyncio.sleep(0.5)  # no straggler
        asked = [(query.name, query.type) for query in zone.log]
        assert sorted(asked) == [(WRITER, "A"), (WRITER, "AAAA")]
        # The last user closes it, not the first.
        await second.inner.close()
        zone.flip(WRITER, "b.db.test")
    assert not resolvers._shared


async def test_trouble_asks_every_50_ms_over_all_callers(
    servers: Servers, zone: Zone, web: int
) -> None:
    """Past the cache, but once per name, type and 50 ms, however many follow it."""
    zone.flip(WRITER, "a.db.test", 60)
    zone.settle()
    settings = zone.settings(dns_ttl_ceiling_s=60, deadline_s=0.2)
    other = dsn(servers).replace("dbname=postgres", "dbname=template1")
    async with (
        Pool("sync", dsn(servers), settings) as pool,
        Pool("async", other, settings, min_size=1) as second,
        AsyncClient(base_url=f"http://{WRITER}:{web}", settings=settings) as client,
    ):
        assert [await pool.where(), await second.where()] == [A, A]
        servers.members[0].kill()
        end = time.monotonic() + 1.5
        while time.monotonic() < end:
            with suppress(httpx2.TransportError):  # nobody listens: a failed connect
                await client.get(f"http://{WRITER}:1/")
            await asyncio.sleep(0.02)
        for kind in ("A", "AAAA"):
            at = [query.at for query in zone.log if (query.name, query.type) == (WRITER, kind)]
            assert len(at) >= 15
            assert len(at) <= 3 + (at[-1] - at[0]) / EVERY_S


async def test_a_failed_connect_asks_four_times_a_second_over_all_callers(
    zone: Zone, web: int
) -> None:
    """HTTP clients alone: once per name, type and 250 ms."""
    zone.flip(WRITER, "a.db.test", 60)
    zone.settle()
    async with AsyncClient(settings=zone.settings(dns_ttl_ceiling_s=60, deadline_s=0.2)) as client:
        end = time.monotonic() + 1.5
        while time.monotonic() < end:
            with suppress(httpx2.TransportError):  # nobody listens: a failed connect
                await client.get(f"http://{WRITER}:1/")
            await asyncio.sleep(0.02)
        for kind in ("A", "AAAA"):
            at = [query.at for query in zone.log if (query.name, query.type) == (WRITER, kind)]
            assert len(at) >= 4
            assert min(b - a for a, b in pairwise(at)) > 0.24


async def test_a_service_is_asked_for_once(servers: Servers, zone: Zone) -> None:
    service = "_postgresql._tcp.db.test"
    zone.set_records(service, "SRV", [f"10 0 {servers.port} a.db.test."], 60)
    zone.settle()
    settings = zone.settings(dns_ttl_ceiling_s=60)
    conninfo = dsn(servers, service)
    other = conninfo.replace("dbname=postgres", "dbname=template1")
    async with (
        Pool("sync", conninfo, settings) as pool,
        Pool("async", other, settings, min_size=1) as second,
    ):
        assert [await pool.where(), await second.where()] == [A, A]
        assert zone.counts[service] == 1
        servers.members[0].kill()
        await asyncio.sleep(1.5)
        at = [query.at for query in zone.log if query.name == service]
        assert len(at) >= 4
        assert min(b - a for a, b in pairwise(at)) > 0.24


def test_addresses_of_a_name_are_dialled_one_at_a_time(servers: Servers, zone: Zone) -> None:
    """Each connect costs a server a process: PostgreSQL isn't raced (HTTP is)."""
    with (
        Silent("127.0.63.1", servers.port, 0.2) as one,
        Silent("127.0.64.1", servers.port, 0.2) as two,
        Silent("127.0.65.1", servers.port, 0.2) as three,
    ):
        silent = (one, two, three)
        zone.set_records("many.db.test", "A", [each.address for each in silent], 60)
        zone.settle()
        conninfo = dsn(servers, "many.db.test") + " sslmode=disable gssencmode=disable"
        with (
            NullConnectionPool(conninfo, settings=zone.settings(), max_size=1) as pool,
            pytest.raises(psycopg.OperationalError),
        ):
            pool.getconn(2.0)
    spans = sorted(span for each in silent for span in each.spans())
    assert len(spans) >= 3  # each address had its turn
    assert all(ended <= began + 0.02 for (_, ended), (began, _) in pairwise(spans))


class Silent:
    """Something that takes connections and never says a word; counts them."""

    def __init__(self, address: str, port: int, patience_s: float | None = None) -> None:
        self.address = address
        self._patience_s = patience_s
        self.count = 0
        self._listener = socket.create_server((address, port))
        self._taken: list[socket.socket] = []
        self._watchers: list[threading.Thread] = []
        self._spans: list[tuple[float, float, bytes]] = []
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                self._taken.append(self._listener.accept()[0])
            except OSError:
                return
            self.count += 1
            self._watchers.append(threading.Thread(target=self._watch, args=(self._taken[-1],)))
            self._watchers[-1].start()

    def _watch(self, sock: socket.socket) -> None:
        began, said = time.monotonic(), b""
        sock.settimeout(self._patience_s)
        with suppress(OSError):
            while heard := sock.recv(4096):
                said += heard
        with suppress(OSError):
            sock.shutdown(socket.SHUT_RDWR)
        self._spans.append((began, time.monotonic(), said))

    def spans(self) -> list[tuple[float, float]]:
        """From when until when each connection was there that isn't a probe's.  At the end."""
        assert all(not thread.is_alive() for thread in self._watchers)
        return [(a, b) for a, b, said in self._spans if b"resilient-probe" not in said]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        for sock in self._taken:
            with suppress(OSError):  # the client has left already
                sock.shutdown(socket.SHUT_RDWR)
        for thread in self._watchers:
            thread.join()
        for sock in (*self._taken, self._listener):
            sock.close()


async def _gives_up(pool: Pool, why: str, within_s: float) -> bool:
    """A checkout ends with `NoEndpointAvailable` that says why."""
    end = time.monotonic() + within_s
    while time.monotonic() < end:
        try:
            await pool.where(0.3)
        except NoEndpointAvailable as exc:
            if why in str(exc):
                return True
        except psycopg.Error:
            pass  # what an old connection says on its way out
        await asyncio.sleep(0.05)
    return False


async def _until(condition: Any, within_s: float) -> bool:
    end = time.monotonic() + within_s
    while not condition() and time.monotonic() < end:
        await asyncio.sleep(0.01)
    return bool(condition())


@pytest.mark.parametrize("known", [True, False], ids=["known before", "never known"])
@pytest.mark.parametrize("gone", ["nxdomain", "servfail"])
async def test_a_name_that_vanishes_and_comes_back(
    shell: str, servers: Servers, known: bool, gone: str
) -> None:
    """A bare connect has it with its first try after it is back; a SOA that allows 900 s of
    absence changes nothing."""
    zone = Zone(absent_s=900)
    try:
        here, away = DnsFaults(), DnsFaults(**{gone: True})
        zone.faults = here if known else away
        # stale addresses would be right here, and hide what is asked
        async with Pool(shell, dsn(servers), zone.settings(dns_stale_s=0)) as pool:
            if known:
                assert await pool.where() == A
                servers.members[0].kill()
                zone.faults = away
            waiting = asyncio.create_task(pool.where(10))
            await asyncio.sleep(1.5)
            if known:
                await asyncio.to_thread(servers.members[0].start)
            zone.faults = here
            back = time.monotonic()
            assert await waiting == A
            assert time.monotonic() - back <= 0.5
    finally:
        zone.close()
