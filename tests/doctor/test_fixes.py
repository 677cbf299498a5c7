"""The fix of every finding and note, applied on a real system: then it is gone.

What a text says is done as an operator would: SQL is executed, servers are started, stopped or
rebuilt, records and variables are changed, the connection string is written anew.
"""

from __future__ import annotations

import ast
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, TypeVar
from wsgiref.simple_server import WSGIRequestHandler, make_server

import pytest
import trustme
from pg_servers import Servers

import resilient.doctor
from resilient.health import wsgi_app
from resilient.lab import Lab
from resilient.lab.balancer import Balancer

pytestmark = pytest.mark.lab

TIMEOUTS = "options='-c statement_timeout=30s -c idle_in_transaction_session_timeout=60s'"
#: every check that has a fix of its own below, filled in as the tests are read
FIXED = {"missing-deadline", "paused", "late-timeline", "pooler"}  # in test_doctor_lab.py
Test = TypeVar("Test", bound=Callable[..., None])
Run = Callable[..., tuple[int, dict[str, Any]]]


def fixes(*checks: str) -> Callable[[Test], Test]:
    """The test applies the fixes of these."""
    FIXED.update(checks)
    return lambda test: test


def found(told: dict[str, Any], check: str) -> str:
    """The fix of the only finding or note of this check."""
    (one,) = [each for each in (*told["findings"], *told["notes"]) if each["check"] == check]
    return str(one["fix"])


def gone(told: dict[str, Any], check: str) -> bool:
    return all(each["check"] != check for each in (*told["findings"], *told["notes"]))


def until(run: Callable[[], dict[str, Any]], reached: Callable[[dict[str, Any]], object]) -> None:
    give_up_at = time.monotonic() + 30
    while not reached(told := run()):
        assert time.monotonic() < give_up_at, told
        time.sleep(0.2)


def at(lab: Lab, host: str) -> str:
    return f"host={host} port={lab.port} user=app dbname=app {TIMEOUTS}"


def servers_by_name(lab: Lab) -> str:
    return ",".join(lab.member_name(zone) for zone in lab.options.zone_names)


@fixes("pinned-address")
@pytest.mark.parametrize("pinned", ["address", "socket"])
def test_an_address_becomes_a_name(lab: Lab, run: Run, pinned: str) -> None:
    host = lab.primary.address if pinned == "address" else str(lab.primary.sockets)
    fix = found(run("--dsn", at(lab, host))[1], "pinned-address")
    assert "name" in fix
    for name in (lab.WRITER, servers_by_name(lab)):
        assert gone(run("--dsn", at(lab, name))[1], "pinned-address")


@fixes("pinned-address")
def test_a_urls_address_becomes_a_name(lab: Lab, run: Run) -> None:
    url = f"http://127.0.1.10:{lab.http_port}"
    assert "name" in found(run("--dsn", at(lab, lab.WRITER), "--url", url)[1], "pinned-address")
    assert gone(run("--dsn", at(lab, lab.WRITER), "--url", lab.upstream_url)[1], "pinned-address")


@fixes("unknown-name")
def test_a_name_is_corrected(lab: Lab, run: Run) -> None:
    assert "correct the name" in found(run("--dsn", at(lab, "wirter.db.test"))[1], "unknown-name")
    assert gone(run("--dsn", at(lab, lab.WRITER))[1], "unknown-name")


@fixes("bypasses-cname", "long-ttl")
def test_the_name_that_moves(lab: Lab, run: Run) -> None:
    host = lab.member_name("az1")
    _, told = run("--dsn", at(lab, host), RESILIENT_DATABASE_URL=lab.writer_dsn)
    fix = found(told, "bypasses-cname")
    assert fix == f"use {lab.WRITER}, or the names of all hosts: host=a,b,c"
    for name in (lab.WRITER, servers_by_name(lab)):
        assert gone(run("--dsn", at(lab, name))[1], "bypasses-cname")

    assert "lower it to 30 s or less" in found(told, "long-ttl")
    (address,) = {m.address for m in lab.members if m.zone == "az1"}
    try:
        lab.dns.set_records(host, "A", [address], 30)
        until(lambda: run("--dsn", at(lab, host))[1], lambda told: gone(told, "long-ttl"))
    finally:
        lab.dns.set_records(host, "A", [address], lab.options.address_ttl_s)


@fixes("long-ttl")
def test_records_of_one_server_each(lab: Lab, run: Run) -> None:
    _, told = run("--dsn", at(lab, servers_by_name(lab)))
    assert "lower it to 30 s or less" in found(told, "long-ttl")
    try:
        for member in lab.members:
            lab.dns.set_records(lab.member_name(member.zone), "A", [member.address], 30)
        until(
            lambda: run("--dsn", at(lab, servers_by_name(lab)))[1],
            lambda told: gone(told, "long-ttl"),
        )
    finally:
        for member in lab.members:
            lab.dns.set_records(lab.member_name(member.zone), "A", [member.address], 60)


@fixes("service-file")
def test_a_services_hosts_are_named(
    lab: Lab, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "services"
    file.write_text(f"[shop]\nhost={lab.primary.address}\nport={lab.port}\nuser=app\ndbname=app\n")
    monkeypatch.setenv("PGSERVICEFILE", str(file))
    _, told = run("--dsn", f"service=shop {TIMEOUTS}")
    assert "name the hosts in the connection string" in found(told, "service-file")
    assert gone(run("--dsn", at(lab, lab.WRITER))[1], "service-file")


@fixes("one-endpoint", "unreachable")
def test_servers_are_started_and_added(lab: Lab, run: Run) -> None:
    for standby in lab.standbys:
        standby.stop("immediate")
    until(lambda: run("--dsn", at(lab, lab.WRITER))[1], lambda told: not gone(told, "one-endpoint"))
    _, told = run("--dsn", at(lab, lab.WRITER))
    findings = [each for each in told["findings"] if each["check"] == "one-endpoint"]
    assert "add a standby in another zone" in findings[0]["fix"]
    _, told = run("--dsn", at(lab, f"{lab.primary.address},{lab.standbys[0].address}"))
    assert found(told, "unreachable").startswith("start it")
    for standby in lab.standbys:
        standby.start()
    _, told = run("--dsn", at(lab, ",".join(member.address for member in lab.members)))
    assert gone(told, "unreachable")
    assert not [each for each in told["findings"] if each["check"] == "one-endpoint"]


@fixes("unreachable")
@pytest.mark.parametrize("wrong", ["dbname=nowhere", "user=nobody", "port=1"])
def test_a_connection_string_is_corrected(lab: Lab, run: Run, wrong: str) -> None:
    _, told = run("--dsn", f"{at(lab, lab.primary.address)} {wrong}")
    assert "correct the connection string" in found(told, "unreachable")
    assert gone(run("--dsn", at(lab, lab.primary.address))[1], "unreachable")


@fixes("one-endpoint")
def test_a_second_name_server(lab: Lab, run: Run) -> None:
    _, told = run("--dsn", at(lab, lab.WRITER))
    assert "configure a second one" in found(told, "one-endpoint")
    address, port = lab.dns.listen("127.0.0.54", 53)
    both = f"{lab.dns_address},{address}:{port}"
    _, told = run("--dsn", at(lab, lab.WRITER), RESILIENT_DNS_NAMESERVERS=both)
    assert gone(told, "one-endpoint")


@fixes("one-endpoint")
@pytest.mark.parametrize("how", ["address", "fallback"])
def test_a_second_address_of_a_service(lab: Lab, run: Run, how: str) -> None:
    lab.dns.set_records("lone.db.test", "A", ["127.0.1.10"], 1)
    argv = ("--dsn", at(lab, lab.WRITER), "--url", f"http://lone.db.test:{lab.http_port}")

    def lone(told: dict[str, Any]) -> list[str]:
        return [one["fix"] for one in told["findings"] if one["check"] == "one-endpoint"]

    env = {}
    (fix,) = lone(run(*argv)[1])
    if how == "address":
        assert "one address for each instance" in fix
        lab.dns.set_records("lone.db.test", "A", ["127.0.1.10", "127.0.2.10"], 1)
        time.sleep(1.1)
    else:
        assert "RESILIENT_HTTP_FALLBACKS" in fix
        env = {"RESILIENT_HTTP_FALLBACKS": lab.upstream_url}
    assert lone(run(*argv, **env)[1]) == []


@fixes("one-zone", "no-zone")
def test_zones_are_told(lab: Lab, run: Run) -> None:
    dsn = ("--dsn", at(lab, servers_by_name(lab)))
    _, told = run(*dsn, RESILIENT_ZONES="az1=127.0.0.0/8")
    assert "in another zone" in found(told, "one-zone")
    _, told = run(*dsn, RESILIENT_ZONES="az1=127.0.1.0/24,az2=127.0.2.0/24")
    assert gone(told, "one-zone")
    assert found(told, "no-zone") == "add its network, or a host pattern"
    for more in ("az3=127.0.3.0/24", f"az3={lab.member_name('az3')}"):
        zones = f"az1=127.0.1.0/24,az2=127.0.2.0/24,{more}"
        assert gone(run(*dsn, RESILIENT_ZONES=zones)[1], "no-zone")


@fixes("no-primary")
def test_the_primary_is_named(lab: Lab, run: Run) -> None:
    standbys = ",".join(lab.member_name(member.zone) for member in lab.standbys)
    fix = found(run("--dsn", at(lab, standbys))[1], "no-primary")
    assert fix == "promote one, or name the primary"
    both = f"{lab.member_name(lab.primary.zone)},{standbys}"
    assert gone(run("--dsn", at(lab, both))[1], "no-primary")


@fixes("two-primaries")
def test_the_lower_timeline_is_stopped_and_rebuilt(lab: Lab, run: Run) -> None:
    second = lab.standbys[0]
    second.promote()
    dsn = ("--dsn", at(lab, servers_by_name(lab)))
    until(lambda: run(*dsn)[1], lambda told: not gone(told, "two-primaries"))
    fix = found(run(*dsn)[1], "two-primaries")
    assert fix == "stop the one with the lower timeline and rebuild it (pg_rewind)"
    lab.primary.stop("immediate")
    assert gone(run(*dsn)[1], "two-primaries")
    lab.rejoin()
    assert gone(run(*dsn)[1], "two-primaries")


@fixes("lag")
def test_a_standby_follows_again(lab: Lab, run: Run) -> None:
    standby = lab.standbys[0]
    standby.execute("ALTER SYSTEM SET primary_conninfo = ''")
    try:
        standby.stop()
        standby.start()
        dsn = ("--dsn", at(lab, servers_by_name(lab)))
        until(lambda: run(*dsn)[1], lambda told: not gone(told, "lag"))
        assert "primary_conninfo" in found(run(*dsn)[1], "lag")
        standby.execute("ALTER SYSTEM RESET primary_conninfo")
        standby.execute("SELECT pg_reload_conf()")
        lab.primary.execute("SELECT txid_current()")
        until(lambda: run(*dsn)[1], lambda told: gone(told, "lag"))
    finally:
        standby.execute("ALTER SYSTEM RESET primary_conninfo")
        standby.execute("SELECT pg_reload_conf()")


@fixes("asynchronous")
def test_commits_wait_for_a_standby(lab: Lab, run: Run) -> None:
    dsn = ("--dsn", at(lab, lab.WRITER))
    lab.primary.execute("ALTER SYSTEM SET synchronous_standby_names = ''")
    try:
        lab.primary.execute("SELECT pg_reload_conf()")
        until(lambda: run(*dsn)[1], lambda told: not gone(told, "asynchronous"))
        fix = found(run(*dsn)[1], "asynchronous")
        said = fix.partition(" where")[0].replace("…", "*").replace(" = ", " TO ")
        lab.primary.execute(f"ALTER SYSTEM SET {said}")
        lab.primary.execute("SELECT pg_reload_conf()")
        until(lambda: run(*dsn)[1], lambda told: gone(told, "asynchronous"))
    finally:
        lab.primary.execute("ALTER SYSTEM RESET synchronous_standby_names")
        lab.primary.execute("SELECT pg_reload_conf()")


@fixes("balancer", "two-clusters", "sslmode")
def test_other_servers(lab: Lab, run: Run, tmp_path: Path) -> None:
    """Behind an address, of another cluster, and one that offers TLS."""
    authority = trustme.CA()
    issued = authority.issue_cert("writer.tls.test")
    chain = b"".join(blob.bytes() for blob in issued.cert_chain_pems)
    authority.cert_pem.write_to_path(str(roots := tmp_path / "roots.pem"))
    other = "127.0.81.1"
    backends = [(member.address, lab.port) for member in lab.members]
    with ExitStack() as stack:
        running = stack.enter_context(Servers([other], [(chain, issued.private_key_pem.bytes())]))
        stack.enter_context(Balancer.round_robin("127.0.9.8", lab.port, *backends))

        fix = found(run("--dsn", at(lab, "127.0.9.8"))[1], "balancer")
        assert fix == "list the servers themselves, or names that lead to one server each"
        assert gone(run("--dsn", at(lab, servers_by_name(lab)))[1], "balancer")

        port = running.members[0].port
        two = f"host={lab.primary.address},{other} port={lab.port},{port} user=postgres"
        fix = found(run("--dsn", f"{two} dbname=postgres {TIMEOUTS}")[1], "two-clusters")
        assert fix == "name hosts of one cluster"
        assert gone(run("--dsn", at(lab, servers_by_name(lab)))[1], "two-clusters")

        for mode in ("disable", "allow", "prefer", "require", "verify-ca"):
            dsn = f"host={other} port={port} user=postgres dbname=postgres {TIMEOUTS}"
            said = f"{dsn} sslmode={mode}" + (f" sslrootcert={roots}" if "verify" in mode else "")
            fix = found(run("--dsn", said)[1], "sslmode")
            assert fix.startswith("sslmode=verify-full and sslrootcert in the connection string")
        named = dsn.replace(f"host={other}", f"host=writer.tls.test hostaddr={other}")
        _, told = run("--dsn", f"{named} sslmode=verify-full sslrootcert={roots}")
        assert gone(told, "sslmode")
        assert gone(told, "unreachable"), told


class Quiet(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        pass


@contextmanager
def serving(app: Any) -> Iterator[str]:
    with make_server("127.0.0.1", 0, app, handler_class=Quiet) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def alive(environ: dict[str, Any], start: Any) -> list[bytes]:
    """A shallow path, and nothing else."""
    ok = environ["PATH_INFO"] == "/ping"
    start("200 OK" if ok else "404 Not Found", [("Content-Type", "application/json")])
    return [b'{"status": "ok"}']


@fixes("shallow-health", "unreachable")
def test_a_health_path_that_tells(lab: Lab, run: Run) -> None:
    """None, a wrong one, one that says nothing, and the one that the texts ask for."""
    dsn = ("--dsn", at(lab, lab.WRITER))
    with serving(wsgi_app(db=lambda: None)) as deep, serving(alive) as shallow:
        assert "name it here" in found(run(*dsn, "--url", deep)[1], "shallow-health")
        path = {"RESILIENT_HTTP_HEALTH_PATH": "/health/ready"}
        assert gone(run(*dsn, "--url", deep, **path)[1], "shallow-health")
        fix = found(run(*dsn, "--url", shallow, **path)[1], "shallow-health")
        assert fix == "correct RESILIENT_HTTP_HEALTH_PATH"
        _, told = run(*dsn, "--url", shallow, RESILIENT_HTTP_HEALTH_PATH="/ping")
        assert "resilient.health" in found(told, "shallow-health")
        assert gone(run(*dsn, "--url", deep, **path)[1], "shallow-health")


def test_every_fix_is_applied_somewhere() -> None:
    checks = set()
    for file in Path(resilient.doctor.__file__).parent.glob("rules_*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "Finding":
                assert isinstance(node.args[0], ast.Constant)
                checks.add(node.args[0].value)
    assert checks == FIXED
