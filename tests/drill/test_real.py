"""`resilient drill --exec`: a lab stands for the system, a file for the operator's command."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import psycopg
import pytest
from typer.testing import CliRunner

from resilient.cli.app import app
from resilient.drill import outside
from resilient.drill.timeline import Timeline
from resilient.drill.workload import TABLE
from resilient.lab import Lab

DRILL = [sys.executable, "-m", "resilient.cli", "drill", "--json"]


def force(
    lab: Lab,
    tmp_path: Path,
    strike: Callable[[], None],
    *argv: str,
    command: str = "touch {}",
    dsn: str = "",
) -> tuple[int, list[dict[str, Any]], str]:
    """Run the drill; `strike` happens when its command does."""
    flag = tmp_path / "now"
    argv = (*DRILL, "--dsn", dsn or lab.dsn, "--exec", command.format(flag), *argv)
    environment = {**os.environ, **lab.env("az2"), "RESILIENT_DATABASE_URL": ""}
    errors = tmp_path / "errors"
    with errors.open("w") as stderr:
        process = subprocess.Popen(
            argv, env=environment, stdout=subprocess.PIPE, stderr=stderr, text=True
        )
        give_up_at = time.monotonic() + 30
        while not flag.exists() and process.poll() is None:
            assert time.monotonic() < give_up_at
            time.sleep(0.01)
        strike()
        out, _ = process.communicate(timeout=60)
    return process.returncode, [json.loads(line) for line in out.splitlines()], errors.read_text()


def table(lab: Lab) -> object:
    with psycopg.connect(f"{lab.dsn} target_session_attrs=read-write") as conn:
        row = conn.execute("select to_regclass('public.resilient_drill')").fetchone()
    assert row is not None
    return row[0]


@pytest.mark.lab
def test_a_failover_is_forced_and_judged(lab: Lab, tmp_path: Path) -> None:
    old = lab.primary

    seen: list[str] = []

    def strike() -> None:
        for process in Path("/proc").glob("[0-9]*/cmdline"):
            with suppress(OSError):  # it has ended
                seen.append(process.read_text().replace("\0", " "))
        lab.inject("crash", promote_after_s=0.5).wait_done()

    record = tmp_path / "drill.jsonl"
    code, rows, err = force(lab, tmp_path, strike, "--record", str(record))
    (told,) = rows
    assert (told["fault"], told["endpoint"], told["runs"]) == ("exec", "multi", 1), err
    assert (told["lost"], told["duplicated"], told["late_acks"], told["errors"]) == (0, 0, 0, 0)
    assert told["acked"] > 50
    assert 0.4 < told["outage_s"] < 30
    # the observer outside tries ten times a second
    assert told["after_writable_s"] < told["outage_s"]
    assert None not in told["phases"].values()
    assert (code, told["broken"]) == (0, []), err
    assert "forcing: touch" in err
    assert f"{lab.primary.address} accepts writes" in err
    assert lab.primary is not old
    assert table(lab) is None  # what it made is gone
    # a connection string may hold a password: it is in no other process's arguments
    (client,) = [line for line in seen if "resilient.drill.client" in line]
    assert lab.dsn not in client
    assert "host=" not in client
    drawn = Timeline.from_dict(json.loads(record.read_text()))
    assert {old.address, "writer", "writes, sync", "writes, async"} <= {*drawn.lanes}
    assert [phase.planned_s for phase in drawn.phases] == [None] * 4


@pytest.mark.lab
def test_a_restart_in_place_is_one_too(lab: Lab, tmp_path: Path) -> None:
    def strike() -> None:
        lab.primary.stop("immediate")
        lab.primary.start()

    # by a name that only the lab's name server knows, not this machine's resolver
    code, (told,), err = force(lab, tmp_path, strike, "--rto", "20", dsn=lab.writer_dsn)
    assert told["endpoint"] == "cname", err
    assert told["limits"] == {"outage_s": 20.0}
    assert (told["lost"], told["duplicated"], told["late_acks"]) == (0, 0, 0), err
    assert told["outage_s"] is not None
    assert code == (0 if told["ok"] else 1)
    assert "accepts writes" in err


@pytest.mark.lab
@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("touch {}; exit 3", "the command failed: exit 3"),
        ("touch {}; sleep 600", "no failover: the same server takes writes, after 2 s"),
    ],
)
def test_a_command_that_forces_nothing(lab: Lab, tmp_path: Path, command: str, words: str) -> None:
    more = ("--give-up", "2")
    code, (told,), _ = force(lab, tmp_path, lambda: None, *more, command=command)
    assert code == 1
    assert words in told["broken"]
    assert told["lost"] == 0
    assert table(lab) is None


@pytest.mark.lab
def test_tries_that_hang_leave_room_for_others(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are as many as there is room for, and wait for what doesn't end: a lock."""
    monkeypatch.setattr(outside, "MOST", 2)
    monkeypatch.setattr(outside, "PATIENCE_S", 0.3)
    dsn = f"{lab.dsn} target_session_attrs=read-write"
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute(f"create table {TABLE} (id bigint, server text)")
        try:
            with outside.Observer(lab.dsn) as observer:
                until(lambda: observer.sights)
                with conn.transaction():
                    conn.execute(f"lock table {TABLE}")
                    # who is cut off leaves a server process that waits: more than there is room
                    until(lambda: waiting(lab) > 4)
                seen = len(observer.sights)
                until(lambda: len(observer.sights) > seen + 2)
        finally:
            conn.execute(f"drop table {TABLE}")


@pytest.mark.lab
def test_an_interrupt_in_the_middle_waits_for_a_server_that_drops_the_table(
    lab: Lab, tmp_path: Path
) -> None:
    flag, html = tmp_path / "now", tmp_path / "drill.html"
    argv = (*DRILL, "--dsn", lab.dsn, "--exec", f"touch {flag}", "--html", str(html))
    environment = {**os.environ, **lab.env("az2"), "RESILIENT_DATABASE_URL": ""}
    with subprocess.Popen(
        argv, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            until(flag.exists, 60)
            run = lab.inject("crash", promote_after_s=1.5)
            run.wait_struck()
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=60)
        finally:
            process.kill()
    run.wait_done()
    assert (process.returncode, out) == (1, ""), err
    assert "waiting for a server that takes writes: DROP TABLE" in err
    assert "interrupted" in err
    assert "Nothing was measured" in err
    assert table(lab) is None
    assert not html.exists()  # a page about nothing would say that every limit held


@pytest.mark.lab
def test_a_preview_touches_nothing(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in lab.env("az2").items():
        monkeypatch.setenv(name, value)
    files = sorted(str(path) for path in Path.cwd().iterdir())
    command = f"touch {Path.cwd() / 'ran'}"
    dsn = f"{lab.writer_dsn} password=secret"
    argv = ["drill", "--dry-run", "--json", "--exec", command, "--runs", "1", "--dsn", dsn]
    done = CliRunner().invoke(app, argv)
    told = json.loads(done.stdout)
    assert (done.exit_code, told["ok"], told["problems"]) == (0, True, [])
    (server,) = [text for text in told["touches"] if text.startswith("server ")]
    assert f"{lab.primary.address}:{lab.port} (writer.db.test): primary" in server
    assert any("public.resilient_drill: made anew" in text for text in told["touches"])
    assert any(command in text for text in told["touches"])
    assert "secret" not in done.stdout
    assert table(lab) is None
    assert sorted(str(path) for path in Path.cwd().iterdir()) == files


def waiting(lab: Lab) -> int:
    query = "select count(*) from pg_stat_activity where wait_event_type = 'Lock'"
    return int(str(lab.primary.execute(query)[0][0]))


def until(reached: Callable[[], object], patience_s: float = 15.0) -> None:
    give_up_at = time.monotonic() + patience_s
    while not reached():
        assert time.monotonic() < give_up_at
        time.sleep(0.02)


@pytest.mark.lab
def test_a_system_that_cant_be_used(lab: Lab, tmp_path: Path) -> None:
    argv = (*DRILL, "--dsn", lab.dsn.replace("user=app", "user=nobody"), "--exec", "true")
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert "public.resilient_drill can't be made" in done.stderr
    assert "user=…" in done.stderr  # what to change


@pytest.mark.lab
def test_a_name_that_nobody_knows_is_an_error_that_says_what_to_set(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RESILIENT_DNS_NAMESERVERS", lab.dns_address)
    record, html = tmp_path / "drill.jsonl", tmp_path / "drill.html"
    argv = ["drill", "--dsn", "host=nobody.db.test user=app", "--exec", "true"]
    argv += ["--record", str(record), "--html", str(html)]
    done = CliRunner().invoke(app, argv)
    assert done.exit_code == 1
    assert "nobody.db.test" in done.stderr
    assert f"set RESILIENT_DNS_NAMESERVERS (now {lab.dns_address}) to name servers" in done.stderr
    assert not record.exists()
    assert not html.exists()
    done = CliRunner().invoke(app, [*argv, "--dry-run", "--json"])
    told = json.loads(done.stdout)
    assert (done.exit_code, told["ok"]) == (1, False)
    assert any("RESILIENT_DNS_NAMESERVERS" in problem for problem in told["problems"])


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--dsn", "host=a"], "--dsn needs --exec"),
        (["--exec", "true", "--dsn", "host=a", "--fault", "crash"], "--fault"),
        (["--exec", "true", "--dsn", "nonsense="], "--dsn is malformed"),
        (["--exec", "true"], "--exec needs --dsn"),
    ],
)
def test_wrong_use(argv: list[str], words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RESILIENT_DATABASE_URL", "DATABASE_URL"):
        monkeypatch.delenv(name, raising=False)
    done = CliRunner().invoke(app, ["drill", *argv])
    assert (done.exit_code, done.stdout) == (2, "")
    assert words in done.stderr
