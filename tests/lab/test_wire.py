"""The proxy that cuts conversations, between psycopg and a real server."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator

import psycopg
import pytest

from resilient.lab import Lab
from resilient.lab.wire import Cut, Kind, Side, Watch, WireProxy

pytestmark = pytest.mark.lab

Connection = psycopg.Connection[tuple[object, ...]]


#: of the test that runs
OPENED: list[Connection] = []


@pytest.fixture
def proxy(lab: Lab) -> Iterator[WireProxy]:
    with WireProxy(lab.primary.address, lab.port) as running:
        yield running
        while OPENED:  # a cut that psycopg's wait meets, and not libpq, leaves it open
            OPENED.pop().close()


def connect(proxy: WireProxy, **options: object) -> Connection:
    host, port = proxy.address
    conn = psycopg.connect(
        host=host, port=port, user="app", dbname="app", autocommit=True, **options
    )
    OPENED.append(conn)
    return conn


def pid_of(conn: Connection) -> int:
    return conn.info.backend_pid


def eventually(check: object, timeout_s: float = 5.0) -> None:
    assert callable(check)
    give_up_at = time.monotonic() + timeout_s
    while not check():
        assert time.monotonic() < give_up_at, "it never came to that"
        time.sleep(0.005)


def sessions(lab: Lab, pid: int) -> int:
    rows = lab.admin(None, f"select 1 from pg_stat_activity where pid = {pid}")
    return len(rows)


# -- framing and listing


def test_everything_passes_and_is_listed(proxy: WireProxy) -> None:
    watch = proxy.watch()
    with connect(proxy) as conn:
        assert conn.execute("select 1").fetchone() == (1,)
        assert conn.execute("select %s::int", (2,)).fetchone() == (2,)
    proxy.unwatch(watch)
    assert watch.client[0] == "ssl", "libpq asks for encryption first"
    assert watch.client[1:8] == ["startup", "Q", "P", "B", "D", "E", "S"]
    assert watch.server[0] == "R"
    assert "".join(watch.server).endswith("ZTDCZ12TDCZ")


def test_counting_starts_when_asked_for(proxy: WireProxy) -> None:
    with connect(proxy) as conn, connect(proxy) as other:
        whole = proxy.watch()
        mine = proxy.watch(pid=pid_of(conn))
        late = proxy.watch(only_after="needle")
        conn.execute("select 1")
        other.execute("select 'needle'")
        other.execute("select 3")
        assert whole.client == ["Q", "Q", "Q"]
        assert mine.client == ["Q"]
        assert mine.server == ["T", "D", "C", "Z"]
        assert late.client == ["Q", "Q"]
        for watch in (whole, mine, late):
            proxy.unwatch(watch)
        conn.execute("select 1")
        assert mine.client == ["Q"]


def test_large_messages_come_whole_and_slowly_read_ones_too(proxy: WireProxy) -> None:
    big = "x" * 3_000_000
    with connect(proxy) as conn:
        assert conn.execute("select %s::text", (big,)).fetchone() == (big,)
        rows = conn.execute("select repeat('y', 1000) from generate_series(1, 5000)")
        assert sum(len(str(row[0])) for row in rows) == 5_000_000
        with conn.cursor().copy("copy (select generate_series(1, 1000)) to stdout") as copy:
            assert sum(1 for _ in copy.rows()) == 1000


def test_a_message_in_single_bytes(proxy: WireProxy) -> None:
    watch = proxy.watch()
    startup = b"\x00\x03\x00\x00user\0app\0database\0app\0\0"
    with socket.create_connection(proxy.address, 5) as sock:
        for byte in (len(startup) + 4).to_bytes(4, "big") + startup:
            sock.sendall(bytes([byte]))
        got = b""
        while not got.endswith(b"Z\0\0\0\x05I"):
            got += sock.recv(4096)
    assert watch.client[:1] == ["startup"]
    assert "K" in watch.server


def test_a_cancel_request_is_passed_on(proxy: WireProxy) -> None:
    watch = proxy.watch()
    with connect(proxy) as conn:
        timer = threading.Timer(0.1, conn.cancel_safe)
        timer.start()
        with pytest.raises(psycopg.errors.QueryCanceled):
            conn.execute("select pg_sleep(5)")
        timer.join()
    assert "cancel" in watch.client


def test_encryption_is_refused_here_or_by_the_server(lab: Lab, proxy: WireProxy) -> None:
    with pytest.raises(psycopg.OperationalError, match="SSL"):
        connect(proxy, sslmode="require")
    passing = WireProxy(lab.primary.address, lab.port, pass_ssl=True)
    with passing, connect(passing, sslmode="prefer") as conn:
        assert conn.execute("select 1").fetchone() == (1,)


def test_what_is_encrypted_is_passed_on_as_it_is(proxy: WireProxy) -> None:
    proxy.pass_ssl = True
    with socket.create_server(("127.0.0.1", 0)) as server:
        proxy.backend = server.getsockname()
        watch = proxy.watch()
        with socket.create_connection(proxy.address, 5) as client:
            client.sendall(bytes.fromhex("0000000804d2162f"))
            with server.accept()[0] as other:
                assert other.recv(100) == bytes.fromhex("0000000804d2162f")
                other.sendall(b"S")
                assert client.recv(100) == b"S"
                for one, two in ((client, other), (other, client)):
                    one.sendall(b"no protocol at all")
                    assert two.recv(100) == b"no protocol at all"
    assert watch.client == ["ssl"]
    assert watch.server == []


def test_an_upstream_that_is_not_there(lab: Lab, proxy: WireProxy) -> None:
    proxy.backend = ("127.0.0.1", 1)
    with pytest.raises(psycopg.OperationalError):
        connect(proxy)
    proxy.backend = (lab.primary.address, lab.port)
    connect(proxy).close()


# -- cutting


@pytest.fixture
def table(lab: Lab, proxy: WireProxy) -> str:
    with connect(proxy) as conn:
        conn.execute("create table if not exists wire_test (id int)")
        conn.execute("truncate wire_test")
    return "wire_test"


def rows(lab: Lab) -> list[object]:
    host = f"host={lab.primary.address} port={lab.port} user=app dbname=app"
    with psycopg.connect(host) as conn:
        return [row[0] for row in conn.execute("select id from wire_test order by id")]


@pytest.mark.parametrize("kind", ["reset", "close"])
@pytest.mark.parametrize(("side", "there"), [("before", False), ("within", False), ("after", True)])
def test_a_statement_that_is_cut(
    lab: Lab, proxy: WireProxy, table: str, kind: Kind, side: Side, there: bool
) -> None:
    """Cut at the client's message, the server saw it or not; the client never knows."""
    conn = connect(proxy)
    pid = pid_of(conn)
    cut = proxy.cut("client", 1, side=side, kind=kind, pid=pid)
    with pytest.raises(psycopg.OperationalError):
        conn.execute("insert into wire_test values (1)")
    assert conn.broken
    assert cut.fired.is_set()
    assert cut.client == ["Q"]
    eventually(lambda: not sessions(lab, pid))
    assert rows(lab) == ([1] if there else [])


@pytest.mark.parametrize("side", ["before", "within", "after"])
def test_a_reply_that_is_cut(lab: Lab, proxy: WireProxy, table: str, side: Side) -> None:
    """C then Z: the statement is done in any case."""
    conn = connect(proxy)
    cut = proxy.cut("server", 1, side=side, pid=pid_of(conn))
    with pytest.raises(psycopg.OperationalError):
        conn.execute("insert into wire_test values (1)")
    assert cut.server == ["C"]
    assert rows(lab) == [1]


def test_the_reply_to_commit(lab: Lab, proxy: WireProxy, table: str) -> None:
    conn = connect(proxy)
    conn.autocommit = False
    conn.execute("insert into wire_test values (1)")
    proxy.cut("server", 1, side="before", pid=pid_of(conn))
    with pytest.raises(psycopg.OperationalError):
        conn.commit()
    assert rows(lab) == [1]


def test_silence(lab: Lab, proxy: WireProxy, table: str) -> None:
    conn = connect(proxy)
    pid = pid_of(conn)
    cut = proxy.cut("client", 1, side="before", kind="silence", pid=pid)
    conn.pgconn.send_query(b"insert into wire_test values (1)")
    assert cut.fired.wait(5)
    conn.pgconn.finish()
    time.sleep(0.1)
    assert sessions(lab, pid) == 1, "the server hears nothing of its client's end"
    proxy.end_silent()
    eventually(lambda: not sessions(lab, pid))
    assert rows(lab) == []


def test_once_or_on_every_connection(proxy: WireProxy) -> None:
    def failures(cut: Cut) -> int:
        failed = 0
        for _ in range(4):
            try:
                with connect(proxy) as conn:
                    conn.execute("select 'needle'")
            except psycopg.OperationalError:
                failed += 1
        proxy.unwatch(cut)
        return failed

    assert failures(proxy.cut("client", 1, only_after="needle")) == 1
    assert failures(proxy.cut("client", 1, only_after="needle", once=False)) == 4
    assert failures(proxy.cut("client", 2, only_after="needle", once=False)) == 0, (
        "X comes second, and its client doesn't wait"
    )


def test_every_position_of_a_transaction(lab: Lab, proxy: WireProxy, table: str) -> None:
    """The dry run lists the messages; each cut leaves all or nothing."""

    def work(conn: Connection, number: int) -> None:
        with conn.transaction():
            conn.execute("insert into wire_test values (%s)", (number,))

    with connect(proxy) as conn:
        dry: Watch = proxy.watch(pid=pid_of(conn))
        work(conn, 0)
        proxy.unwatch(dry)
    assert dry.client == ["Q", "P", "B", "D", "E", "S", "Q"]
    assert "".join(dry.server) == "CZ12nCZCZ"
    positions = [("client", k, side) for k in range(1, 8) for side in ("before", "after")]
    positions += [("server", k, side) for k in range(1, 10) for side in ("before", "after")]
    pids, expected = [], [0]
    for number, (direction, k, side) in enumerate(positions, 1):
        conn = connect(proxy)
        pids.append(pid_of(conn))
        cut = proxy.cut(direction, k, side=side, pid=pids[-1])  # type: ignore[arg-type]
        try:
            work(conn, number)
        except psycopg.OperationalError:
            assert (direction, k, side) != ("server", 9, "after")
        assert cut.fired.wait(5)
        proxy.unwatch(cut)
        conn.close()
        if (direction, k, side) == ("client", 7, "after") or (direction, k) >= ("server", 8):
            expected.append(number)
    eventually(lambda: not any(sessions(lab, pid) for pid in pids))
    assert rows(lab) == expected


def test_thousands_of_cuts_are_affordable(proxy: WireProxy) -> None:
    began_at = time.monotonic()
    for _ in range(100):
        conn = connect(proxy)
        cut = proxy.cut("client", 1, pid=pid_of(conn))
        with pytest.raises(psycopg.OperationalError):
            conn.execute("select 1")
        proxy.unwatch(cut)
    assert time.monotonic() - began_at < 3.0


# -- up and down


def test_stopping_leaves_nothing(lab: Lab) -> None:
    proxy = WireProxy(lab.primary.address, lab.port).start()
    conn = connect(proxy)
    pid = pid_of(conn)
    proxy.stop()
    proxy.stop()
    with pytest.raises(psycopg.OperationalError):
        conn.execute("select 1")
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(proxy.address, 1)
    eventually(lambda: not sessions(lab, pid))
    assert not [t for t in threading.enumerate() if t.name == "wire-proxy"]
    with pytest.raises(RuntimeError):
        proxy.start()


def test_a_position_before_the_first(proxy: WireProxy) -> None:
    with pytest.raises(ValueError, match="from 1"):
        proxy.cut("client", 0)
