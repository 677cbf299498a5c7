"""`resilient doctor` on real servers and names: what is planted is found, all of it."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from typer.testing import CliRunner

from resilient import Settings
from resilient.cli.app import app
from resilient.doctor import gather
from resilient.lab import Lab
from resilient.lab.dns_real import Knot, Unbound, missing
from resilient.lab.namespace import inside

pytestmark = pytest.mark.lab

TIMEOUTS = "options='-c statement_timeout=30s -c idle_in_transaction_session_timeout=60s'"


def checks(told: dict[str, Any]) -> dict[str, str]:
    return {finding["check"]: finding["where"] for finding in told["findings"]}


def test_a_healthy_client_has_no_finding(lab: Lab, run: Any) -> None:
    readers = f"{lab.READER}:{lab.port}"
    give_up_at = time.monotonic() + 10  # a lab that has just begun: a standby may be behind
    while not all(standby.execute("select 1 from pg_database where datname = 'app'")
                  for standby in lab.standbys):  # fmt: skip
        assert time.monotonic() < give_up_at
        time.sleep(0.05)
    code, told = run("--dsn", f"{lab.writer_dsn} {TIMEOUTS}", RESILIENT_DATABASE_READERS=readers)
    assert told["findings"] == []
    assert code == 0
    assert [server["role"] for server in told["servers"]] == ["primary", "replica"]
    assert [server["zone"] for server in told["servers"]] == ["az1", "az2"]


def test_what_a_fire_drill_finds_is_found(lab: Lab, run: Any) -> None:
    """A pinned address, a connection string past the CNAME, a record with a long TTL."""
    pinned = f"host={lab.primary.address} port={lab.port} user=app dbname=app {TIMEOUTS}"
    code, told = run("--dsn", pinned)
    assert (code, checks(told)) == (1, {"pinned-address": lab.primary.address})
    past = f"host=az1-db.db.test port={lab.port} user=app dbname=app {TIMEOUTS}"
    code, told = run("--dsn", past, RESILIENT_DATABASE_URL=lab.writer_dsn)
    # its address record has a TTL of a minute
    assert checks(told) == dict.fromkeys(("bypasses-cname", "long-ttl"), "az1-db.db.test")
    causes = {finding["check"]: finding["cause"] for finding in told["findings"]}
    assert "writer.db.test (RESILIENT_DATABASE_URL)" in causes["bypasses-cname"]
    assert "60 s" in causes["long-ttl"]


def test_two_primaries_and_a_server_that_is_gone(lab: Lab, run: Any) -> None:
    second, third = lab.standbys
    second.promote()
    third.kill()
    give_up_at = time.monotonic() + 20
    while not second.is_primary():
        assert time.monotonic() < give_up_at
        time.sleep(0.05)
    code, told = run("--dsn", f"{lab.dsn} {TIMEOUTS}")
    found = checks(told)
    assert code == 1
    assert found["two-primaries"] == (
        f"{lab.members[0].address}:{lab.port} on timeline"
        f" {told['servers'][0]['timeline']}; {second.address}:{lab.port} on timeline"
        f" {told['servers'][1]['timeline']}"
    )
    assert found["unreachable"] == f"{third.address}:{lab.port}"


def test_a_replica_that_lags(lab: Lab, run: Any) -> None:
    standby = lab.standbys[0]
    standby.execute("select pg_wal_replay_pause()")
    try:
        with psycopg.connect(f"{lab.dsn} target_session_attrs=read-write") as conn:
            conn.execute("create table if not exists doctor_test (i int)")
        give_up_at = time.monotonic() + 20
        found: dict[str, str] = {}
        while "lag" not in found:  # once it has received what it doesn't replay
            assert time.monotonic() < give_up_at
            time.sleep(0.2)
            _, told = run("--dsn", f"{lab.dsn} {TIMEOUTS}", RESILIENT_MAX_STALENESS_S="0.2")
            found = checks(told)
        assert found["lag"] == f"{standby.address}:{lab.port}"
    finally:
        standby.execute("select pg_wal_replay_resume()")


def test_what_is_missing(lab: Lab, run: Any) -> None:
    """No deadline, no zone, no health path."""
    _, told = run("--dsn", lab.writer_dsn, "--url", lab.upstream_url, RESILIENT_ZONE="")
    assert set(checks(told)) == {"missing-deadline", "no-zone", "shallow-health"}
    assert told["urls"] == [lab.upstream_url]


def fix_of(told: dict[str, Any], check: str) -> str:
    (finding,) = [f for f in (*told["findings"], *told["notes"]) if f["check"] == check]
    return str(finding["fix"])


def test_what_each_fix_says_makes_its_finding_go(lab: Lab, run: Any) -> None:
    """The texts are taken at their word: SQL is executed, options and variables are set."""
    plain = f"host={lab.WRITER} port={lab.port} user=app dbname=app"
    _, told = run("--dsn", plain)
    fix = fix_of(told, "missing-deadline")
    statements, _, options = fix.partition("; or in the connection string: ")
    _, told = run("--dsn", f"{plain} {options}")
    assert "missing-deadline" not in checks(told)
    try:
        for statement in statements.split("; "):
            lab.primary.execute(statement)
        _, told = run("--dsn", plain)
        assert "missing-deadline" not in checks(told)
    finally:
        lab.primary.execute("ALTER ROLE app RESET ALL")
    plain = f"{plain} {options}"

    every = f"{lab.dsn} {options}"
    standby = lab.standbys[0]
    standby.execute("SELECT pg_wal_replay_pause()")
    try:
        _, told = run("--dsn", every)
        (check,) = {"paused", "lag"} & set(checks(told))
        assert checks(told)[check] == f"{standby.address}:{lab.port}"
        standby.execute(fix_of(told, check).removesuffix(" there"))
        _, told = run("--dsn", every)
        assert not {"paused", "lag"} & set(checks(told))
    finally:
        standby.execute("SELECT pg_wal_replay_resume()")

    _, told = run("--dsn", plain, RESILIENT_ZONE="")
    assert checks(told) == {"no-zone": "RESILIENT_ZONE"}
    assert "RESILIENT_ZONE=auto" in fix_of(told, "no-zone")
    _, told = run("--dsn", plain, RESILIENT_ZONE="auto")
    assert told["findings"] == []

    notes = {note["check"] for note in told["notes"]}
    if "late-timeline" in notes:
        grant, _, _ = fix_of(told, "late-timeline").partition(" TO ")
        lab.primary.execute(f"{grant} TO app")
        _, told = run("--dsn", every)
        assert "late-timeline" not in {note["check"] for note in told["notes"]}


def test_a_url_that_refuses_is_reported(lab: Lab, run: Any) -> None:
    """Also where no health path is configured; once somebody listens there it isn't."""
    dsn = ("--dsn", f"{lab.writer_dsn} {TIMEOUTS}")
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        _, told = run(*dsn, "--url", url)
        assert checks(told)["unreachable"] == f"{url} at {url.removeprefix('http://')}"
        assert "shallow-health" not in checks(told)
        listener.listen()
        _, told = run(*dsn, "--url", url)
        assert "unreachable" not in checks(told)


def test_a_health_path_that_says_nothing(lab: Lab, run: Any) -> None:
    url = ("--url", lab.upstream_url)
    _, told = run("--dsn", f"{lab.writer_dsn} {TIMEOUTS}", *url, RESILIENT_HTTP_HEALTH_PATH="/no")
    (finding,) = told["findings"]
    assert (finding["check"], finding["where"]) == ("shallow-health", f"{lab.upstream_url}/no")
    assert "404" in finding["cause"]


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--dsn", "nonsense="], "--dsn is malformed"),
        (["--dsn", "host=a,b,c port=1,2"], "accepted: as many of each"),
        (["--url", "pay.example"], "--url 'pay.example' isn't a URL"),
        ([], "nothing to look at"),
    ],
)
def test_wrong_use(argv: list[str], words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RESILIENT_DATABASE_URL", "DATABASE_URL", "PGHOST", "PGSERVICE"):
        monkeypatch.delenv(name, raising=False)
    done = CliRunner().invoke(app, ["doctor", *argv])
    assert (done.exit_code, done.stdout) == (2, "")
    assert words in done.stderr


def test_for_people(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in lab.env().items():
        monkeypatch.setenv(name, value)
    secret = f"{lab.writer_dsn} password=hunter2"
    done = CliRunner().invoke(app, ["doctor", "--dsn", secret])
    assert done.exit_code == 1
    assert "missing-deadline: " in done.stdout
    assert "\n  fix     ALTER ROLE app SET statement_timeout" in done.stdout
    assert "1 finding, " in done.stdout
    assert "asking name writer.db.test\n" in done.stderr
    assert "hunter2" not in done.stdout + done.stderr
    quiet = CliRunner().invoke(app, ["doctor", "--dsn", secret, "--quiet"])
    assert (quiet.stdout, quiet.stderr) == (done.stdout, "")


@pytest.fixture
def bouncer(lab: Lab, tmp_path: Path) -> Iterator[str]:
    """PgBouncer, pooling transactions, in front of the primary; its connection string."""
    program = shutil.which("pgbouncer", path="/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin")
    if program is None:
        pytest.skip("not installed: pgbouncer (Debian: apt-get install pgbouncer)")
    server = f"host={lab.primary.address} port={lab.port}"
    (tmp_path / "ini").write_text(
        f"[databases]\napp = {server} user=app dbname=app\n[pgbouncer]\n"
        "listen_addr = 127.0.9.9\nlisten_port = 6432\nunix_socket_dir =\nauth_type = any\n"
        "pool_mode = transaction\nignore_startup_parameters = options\n"
    )
    tmp_path.chmod(0o755)
    for folder in (tmp_path, *tmp_path.parents[:2]):
        folder.chmod(0o755)
    process = subprocess.Popen([program, "-q", "-u", "nobody", tmp_path / "ini"])
    dsn = "host=127.0.9.9 port=6432 user=app dbname=app"
    try:
        give_up_at = time.monotonic() + 10
        while True:
            try:
                psycopg.connect(dsn).close()
                break
            except psycopg.OperationalError:
                assert time.monotonic() < give_up_at
                assert process.poll() is None
                time.sleep(0.05)
        yield dsn
    finally:
        process.terminate()
        process.wait()


def test_a_pooler_is_found(lab: Lab, run: Any, bouncer: str) -> None:
    _, told = run("--dsn", f"{bouncer} {TIMEOUTS}")
    assert {note["check"]: note["where"] for note in told["notes"]}["pooler"] == "127.0.9.9:6432"
    assert fix_of(told, "pooler").startswith("name the servers themselves; or, behind the pooler, ")
    _, told = run("--dsn", f"{lab.dsn} {TIMEOUTS}")
    assert "pooler" not in {note["check"] for note in told["notes"]}


@pytest.mark.skipif(bool(missing()), reason=missing() or "-")
@pytest.mark.skipif(not inside(), reason="a name server on port 53 needs a namespace")
def test_a_long_ttl_is_seen_through_a_cache() -> None:
    """What a cache tells has counted down; the zone's own server says what it is."""
    with (
        Knot("127.0.0.61", 53, "doc.test") as knot,
        Unbound("127.0.0.62", 53, {"doc.test": knot}) as unbound,
    ):
        knot.set_records("a.doc.test", "A", ["127.0.1.10"], 60)
        knot.flip("db.doc.test", "a.doc.test", 3600)
        settings = Settings(dns_nameservers=str(unbound), dns_search=[])
        dsn = "host=db.doc.test port=1 user=app"
        for _ in range(2):
            (name,) = gather(dsn, (), settings).names
            ttls = {link.rdtype: (link.ttl_s, link.exact) for link in name.chain}
            assert ttls == {"CNAME": (3600.0, True), "A": (60.0, True)}
            time.sleep(1.1)
