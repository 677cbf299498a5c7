"""`sslmode=verify-full` behind a name that moves: real servers, a real authority.

Three copies of one cluster: two with a certificate for the configured name, one with a
certificate of the same authority for another name.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import psycopg
import pytest
import trustme
from pg_servers import Pool, Servers

from resilient import Settings
from resilient.core.model import FailureKind
from resilient.errors import NoEndpointAvailable
from resilient.lab import DnsServer
from resilient.postgres.classify import statement_failure

pytestmark = pytest.mark.lab

NAME, OTHER = "writer.tls.test", "other.tls.test"
A, B, WRONG, FAKE = "127.0.81.1", "127.0.82.1", "127.0.83.1", "127.0.84.1"
SSL_REQUEST = bytes.fromhex("0000000804d2162f")


def pair(authority: trustme.CA, name: str) -> tuple[bytes, bytes]:
    issued = authority.issue_cert(name)
    chain = b"".join(blob.bytes() for blob in issued.cert_chain_pems)
    return chain, issued.private_key_pem.bytes()


@pytest.fixture(scope="module")
def servers(authority: trustme.CA) -> Iterator[Servers]:
    pairs = [pair(authority, name) for name in (NAME, NAME, OTHER)]
    with Servers([A, B, WRONG], pairs) as running:
        yield running


@pytest.fixture(autouse=True)
def all_up(servers: Servers) -> Iterator[None]:
    yield
    for member in servers.members:
        if member.pid is None:
            member.start()


@pytest.fixture
def zone() -> Iterator[DnsServer]:
    running = DnsServer("tls.test")
    for label, address in (("a", A), ("b", B), ("wrong", WRONG), ("fake", FAKE)):
        running.set_records(f"{label}.tls.test", "A", [address], 60)
    running.flip(NAME, "a.tls.test", 1)
    running.settle()
    yield running
    running.close()


@pytest.fixture(scope="module")
def roots(authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tls") / "root.crt"
    authority.cert_pem.write_to_path(path)
    return path


def settings(zone: DnsServer, **given: Any) -> Settings:
    at = "{}:{}".format(*zone.listen("127.0.0.1", 0))
    return Settings(dns_nameservers=at, dns_search=[], **given)


def dsn(servers: Servers, roots: Path, host: str = NAME) -> str:
    return (
        f"host={host} port={servers.port} user=postgres dbname=postgres"
        f" sslmode=verify-full sslrootcert={roots}"
    )


def encrypted(pool: Pool) -> bool:
    """What the pool's idle connections are."""
    return all(conn.pgconn.ssl_in_use for conn in pool.inner._pool)


async def test_a_flip_is_verified_by_the_configured_name(
    shell: str, servers: Servers, zone: DnsServer, roots: Path
) -> None:
    async with Pool(shell, dsn(servers, roots), settings(zone)) as pool:
        assert await pool.where() == A
        zone.flip(NAME, "b.tls.test")
        assert await pool.arrives(B, 3) <= 1.3
        servers.members[1].kill()
        zone.flip(NAME, "a.tls.test")
        await pool.arrives(A, 3)
        assert encrypted(pool)


async def test_a_server_with_another_name_gets_nothing(
    shell: str, servers: Servers, zone: DnsServer, roots: Path
) -> None:
    """Fails closed, names the reason, and recovers once the record is right again."""
    async with Pool(shell, dsn(servers, roots), settings(zone)) as pool:
        assert await pool.where() == A
        servers.members[0].kill()
        zone.flip(NAME, "wrong.tls.test")
        assert await refused(pool, "does not match host name", 4)
        (view,) = [v for v in pool.inner.topology.endpoints if v.address == WRONG]
        assert view.health == "dead"  # counts as the endpoint's failure
        assert "does not match host name" in view.reason
        zone.flip(NAME, "b.tls.test")
        await pool.arrives(B, 3)
    log = servers.members[2].log.read_text()
    assert "connection authorized" not in log
    assert "no pg_hba.conf entry" not in log  # nobody came without TLS


async def test_the_reason_is_told_although_the_old_link_was_cut_first(
    servers: Servers, zone: DnsServer, roots: Path
) -> None:
    """A busy event loop hears of the loss after the monitor, so the monitor's deadline for the old
    link passes before that of the call."""
    async with Pool("async", dsn(servers, roots), settings(zone, deadline_s=2)) as pool:
        assert await pool.where() == A
        pool.WHERE = "select host(inet_server_addr()) from pg_sleep(5)"  # type: ignore[misc]
        call = asyncio.create_task(pool.where())
        await asyncio.sleep(0.2)
        servers.members[0].kill()
        zone.flip(NAME, "wrong.tls.test")
        time.sleep(1.2)
        with pytest.raises(NoEndpointAvailable, match="does not match host name"):
            await call


async def test_a_planned_flip_to_a_wrong_server_leaves_the_old_one_in_use(
    shell: str, servers: Servers, zone: DnsServer, roots: Path
) -> None:
    async with Pool(shell, dsn(servers, roots), settings(zone)) as pool:
        assert await pool.where() == A
        zone.flip(NAME, "wrong.tls.test")
        end = time.monotonic() + 1.6
        while time.monotonic() < end:
            assert await pool.where(1) == A
            await asyncio.sleep(0.05)
        assert {A, WRONG} == pool.addresses


async def test_a_wrong_server_is_passed_over_for_another(
    shell: str, servers: Servers, zone: DnsServer, roots: Path
) -> None:
    """Of two addresses one proves to be right: callers never meet the other."""
    zone.set_records("both.tls.test", "A", [WRONG, B], 1)
    zone.flip(NAME, "both.tls.test")
    async with Pool(shell, dsn(servers, roots), settings(zone)) as pool:
        for _ in range(5):
            assert await pool.where() == B


async def test_a_tls_name_for_an_alias_of_our_own(
    shell: str, servers: Servers, zone: DnsServer, roots: Path
) -> None:
    """TLS_NAMES: the certificate says `other`, the conninfo an alias without one."""
    zone.flip("alias.tls.test", "wrong.tls.test", 1)
    given = settings(zone, tls_names=f"Alias.tls.test.={OTHER}")
    async with Pool(shell, dsn(servers, roots, "alias.tls.test"), given) as pool:
        assert await pool.where() == WRONG
        assert encrypted(pool)
        # The name that the alias leads to was never verified: another one is refused.
        servers.members[2].kill()
        zone.flip("alias.tls.test", "a.tls.test")
        assert await refused(pool, "does not match host name", 4)


async def test_a_service_is_verified_by_its_domain(
    shell: str, servers: Servers, zone: DnsServer, roots: Path
) -> None:
    service = f"_postgresql._tcp.{NAME}"
    zone.set_records(service, "SRV", [f"1 0 {servers.port} b.tls.test."], 1)
    async with Pool(shell, dsn(servers, roots, service), settings(zone)) as pool:
        assert await pool.where() == B
        assert encrypted(pool)


ANSWERS = pytest.mark.parametrize(
    "answer", [b"N", b"S", b""], ids=["no TLS", "a stranger's certificate", "hangs up"]
)


@ANSWERS
async def test_a_call_outlives_a_server_of_no_use(
    shell: str, servers: Servers, zone: DnsServer, roots: Path, answer: bytes
) -> None:
    """Somebody's call is under way, and the name leads to such a server before the right one."""
    with Impostor(FAKE, servers.port, answer) as impostor:
        async with Pool(shell, dsn(servers, roots), settings(zone)) as pool:
            assert await pool.where() == A
            pool.WHERE = "select host(inet_server_addr()) from pg_sleep(0.5)"  # type: ignore[misc]
            call = asyncio.create_task(pool.where())
            await asyncio.sleep(0.25)
            servers.members[0].kill()
            zone.flip(NAME, "fake.tls.test")
            while impostor.asked < 2:
                await asyncio.sleep(0.02)
            zone.flip(NAME, "b.tls.test")
            assert await call == B
        assert impostor.plain == b""


async def test_a_session_that_ends_is_lost(servers: Servers, roots: Path) -> None:
    """What OpenSSL says of the end of a socket isn't a refusal."""
    told = f"{dsn(servers, roots)} hostaddr={A}"
    async with await psycopg.AsyncConnection.connect(told, autocommit=True) as conn:
        call = asyncio.create_task(conn.execute("select pg_sleep(5)"))
        await asyncio.sleep(0.2)
        servers.members[0].kill()
        with pytest.raises(psycopg.OperationalError) as caught:
            await call
    assert statement_failure(None, True, str(caught.value)) is FailureKind.LOST


@pytest.mark.parametrize("answer", [b"N", b"S"], ids=["no TLS", "a stranger's certificate"])
async def test_no_byte_in_plain_text(
    shell: str, servers: Servers, zone: DnsServer, roots: Path, answer: bytes
) -> None:
    """FAULTS 30: an impostor hears the request for TLS and no more."""
    with Impostor(FAKE, servers.port, answer) as impostor:
        async with Pool(shell, dsn(servers, roots), settings(zone, deadline_s=1)) as pool:
            assert await pool.where() == A
            servers.members[0].kill()
            zone.flip(NAME, "fake.tls.test")
            why = "SSL was required" if answer == b"N" else "certificate verify failed"
            assert await refused(pool, why, 4)
            zone.flip(NAME, "b.tls.test")
            await pool.arrives(B, 3)
        assert impostor.asked > 0
        assert impostor.plain == b""


async def refused(pool: Pool, why: str, within_s: float) -> bool:
    """A checkout fails with that reason; nothing else than failures on the way."""
    end = time.monotonic() + within_s
    failure: Exception | None = None
    while time.monotonic() < end:
        try:
            said = await pool.where(0.3)
        except NoEndpointAvailable as exc:
            failure = exc
            if why in str(exc) or any(why in text for text in exc.reasons.values()):
                return True
        except psycopg.OperationalError as exc:
            failure = exc
            if why in str(exc):
                return True
        else:
            assert said == A  # the last checkout of an old connection
        await asyncio.sleep(0.05)
    raise AssertionError(f"{failure!r} and not {why!r} after {within_s} s") from failure


class Impostor:
    """Answers the request for TLS with `answer`; keeps what else comes in plain text.

    Empty: it lets the client begin, and hangs up in the middle of the handshake.
    """

    def __init__(self, address: str, port: int, answer: bytes) -> None:
        self.asked = 0
        self.plain = b""
        self._answer = answer
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        trustme.CA().issue_cert(NAME).configure_cert(self._context)
        self._listener = socket.create_server((address, port))
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                sock = self._listener.accept()[0]
            except OSError:
                return
            sock.settimeout(2)
            # Each for itself: who only connects holds nobody up.
            threading.Thread(target=self._meet, args=(sock,), daemon=True).start()

    def _meet(self, sock: socket.socket) -> None:
        with sock:
            self._talk(sock)

    def _talk(self, sock: socket.socket) -> None:
        try:
            head = sock.recv(8, socket.MSG_WAITALL)
            if head != SSL_REQUEST:
                self.plain += head + sock.recv(4096)
                return
            self.asked += 1
            sock.sendall(self._answer or b"S")
            if not self._answer:
                sock.recv(4096)
                return
            if self._answer == b"N":
                self.plain += sock.recv(4096)
                return
            with self._context.wrap_socket(sock, server_side=True) as secured:
                self.plain += secured.recv(4096)  # it was believed: as bad as plain text
        except OSError:
            pass

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listener.close()
