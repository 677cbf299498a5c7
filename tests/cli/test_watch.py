"""`resilient watch` beside a real failover: as lines, as JSON, and as a table on a terminal."""

from __future__ import annotations

import io
import json
import logging
import os
import pty
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest
from rich.console import Console
from typer.testing import CliRunner

from resilient._logs import Line
from resilient.cli.app import app
from resilient.cli.watch import _Lines, _Screen, table
from resilient.core.model import Endpoint, EndpointView, Health, Role, Topology
from resilient.lab import Lab

COMMAND = [sys.executable, "-m", "resilient.cli", "watch"]


#: has the command asked for the number while a session is in a transaction; and asked again since,
#: so that the answer before was read?
COUNTED = """\
select exists (select from pg_stat_activity w, pg_stat_activity t
 where w.application_name = 'resilient watch' and w.query like '%pg_stat_activity%'
 and w.state = 'idle' and t.state = 'idle in transaction' and w.query_start > t.state_change)"""
COUNTED_AGAIN = COUNTED.replace("w.query_start >", "w.query_start - interval '0.4 s' >")


class Watching:
    """The command in a process of its own, and what it has printed so far."""

    def __init__(self, lab: Lab, *argv: str, terminal: bool = False) -> None:
        self.text = ""
        environment = {**os.environ, **lab.env(), "TERM": "xterm", "COLUMNS": "160"}
        out: int = subprocess.PIPE
        if terminal:
            self._read, out = pty.openpty()
        self.process = subprocess.Popen(
            [*COMMAND, "--dsn", lab.dsn, *argv], env=environment, stdout=out
        )
        if terminal:
            os.close(out)
        else:
            assert self.process.stdout is not None
            self._read = self.process.stdout.fileno()
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def _listen(self) -> None:
        while True:
            try:
                heard = os.read(self._read, 65536)
            except OSError:  # a terminal's end
                return
            if not heard:
                return
            self.text += heard.decode()

    def until(self, reached: Callable[[str], object]) -> None:
        give_up_at = time.monotonic() + 20
        while not reached(self.text):
            assert time.monotonic() < give_up_at, self.text
            assert self.process.poll() is None, self.text
            time.sleep(0.02)

    def interrupt(self) -> int:
        self.process.send_signal(signal.SIGINT)
        code = self.process.wait(20)
        self._thread.join(5)
        return code


@pytest.fixture
def watching(lab: Lab) -> Iterator[Callable[..., Watching]]:
    made: list[Watching] = []

    def begin(*argv: str, terminal: bool = False) -> Watching:
        made.append(Watching(lab, *argv, terminal=terminal))
        return made[-1]

    yield begin
    for one in made:
        if one.process.poll() is None:
            one.process.kill()
            one.process.wait()
        if one.process.stdout is not None:
            one.process.stdout.close()


@pytest.mark.lab
def test_lines_of_a_failover(lab: Lab, watching: Callable[..., Watching]) -> None:
    watch = watching()
    old = f"{lab.primary.address}:{lab.port}"
    watch.until(lambda text: f"endpoint={old} role=primary" in text)
    lab.inject("crash", promote_after_s=0.3).wait_done()
    watch.until(lambda text: f"step=over old={old} new=" in text)
    assert re.search(r"^\d\d:\d\d:\d\d\.\d{3} step=lost endpoint=", watch.text, re.MULTILINE)
    assert watch.interrupt() == 0


@pytest.mark.lab
def test_json_of_a_failover(lab: Lab, watching: Callable[..., Watching]) -> None:
    watch = watching("--json")

    def told() -> list[dict[str, Any]]:
        return [json.loads(line) for line in watch.text.splitlines(keepends=True) if "\n" in line]

    def writers() -> list[str]:
        return [one["writer"] for one in told() if one.get("writer")]

    old = f"{lab.primary.address}:{lab.port}"
    watch.until(lambda _: old in writers())
    conn = psycopg.connect(f"{lab.dsn} target_session_attrs=read-write")
    conn.execute("select 1")  # in a transaction: in flight
    # the numbers are told with the next version: once the command has counted this session
    watch.until(lambda _: lab.primary.execute(COUNTED) == [(True,)])
    watch.until(lambda _: lab.primary.execute(COUNTED_AGAIN) == [(True,)])
    lab.inject("switchover", promote_after_s=0.3).wait_done()
    conn.close()
    watch.until(lambda _: [one for one in told() if one.get("step") == "over"])
    seen = told()
    counts = [e["in_flight"] for one in seen for e in one.get("endpoints", ())]
    assert 1 in counts
    (promoted,) = [one for one in seen if one.get("step") == "promoted"]
    assert promoted["endpoint"] == writers()[-1]
    (over,) = [one for one in seen if one.get("step") == "over"]
    assert over["old"] == old
    assert isinstance(over["total_s"], float)
    (last,) = [one for one in seen if "version" in one][-1:]
    assert {e["role"] for e in last["endpoints"]} >= {"primary"}
    assert {e["zone"] for e in last["endpoints"]} == {"az1", "az2", "az3"}
    assert watch.interrupt() == 0


@pytest.mark.lab
def test_a_table_on_a_terminal(lab: Lab, watching: Callable[..., Watching]) -> None:
    watch = watching(terminal=True)
    watch.until(lambda text: f"writes go to {lab.primary.address}:{lab.port}" in text)
    watch.until(lambda text: f"{lab.primary.address}:{lab.port} *" in text)
    assert watch.interrupt() == 0


@pytest.mark.lab
def test_nobody_who_may_write_is_a_finding(lab: Lab) -> None:
    dsn = f"host={lab.standbys[0].address} port={lab.port} user=app dbname=app"
    done = subprocess.run(
        [*COMMAND, "--dsn", dsn, "--for", "1"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (1, "")
    assert "role=replica" in done.stdout


@pytest.mark.lab
def test_what_a_restart_wont_mend_is_an_event_with_its_fix(lab: Lab) -> None:
    dsn = f"host={lab.primary.address} port={lab.port} user=app dbname=nowhere"
    done = subprocess.run(
        [*COMMAND, "--dsn", dsn, "--for", "1", "--json"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (1, "")
    told = [json.loads(line) for line in done.stdout.splitlines()]
    (failed,) = [one for one in told if one.get("event") == "connect.failed"]
    assert "nowhere" in failed["reason"]
    assert "database" in failed["fix"]


@pytest.mark.parametrize("dsn", ["nonsense=", "host=a,b,c port=1,2"])
def test_wrong_use(dsn: str) -> None:
    done = CliRunner().invoke(app, ["watch", "--dsn", dsn])
    assert (done.exit_code, done.stdout) == (2, "")
    assert "accepted: " in done.stderr


class NoNumbers:
    def at(self, endpoint: Endpoint) -> int | None:
        return 3 if endpoint.port == 1 else None


def test_the_table() -> None:
    one, two = (Endpoint("db.example", "10.0.0.1", port) for port in (1, 2))
    views = (
        EndpointView(one, "az1", Role.PRIMARY, Health.UP, timeline=4),
        EndpointView(two, None, Role.PRIMARY, Health.DEAD, lag_s=1.25, fenced=True, reason="old"),
    )
    shown = table(Topology(7, views, views[0], 4), NoNumbers())  # type: ignore[arg-type]
    cells = [[str(cell) for cell in column.cells] for column in shown.columns]
    assert [column[0] for column in cells] == [
        *("10.0.0.1:1 (db.example) *", "az1", "primary", "up", "4", "–", "3", ""),
    ]
    assert [column[1] for column in cells] == [
        *("10.0.0.1:2 (db.example)", "–", "primary (fenced)", "dead", "–", "1.2", "–", "old"),
    ]
    assert str(shown.title) == "version 7: writes go to 10.0.0.1:1 (db.example)"
    nobody = table(Topology(8, views, None, 4, "two primaries"), NoNumbers())  # type: ignore[arg-type]
    assert str(nobody.title) == "version 8: two primaries"


def test_eighty_columns_show_what_matters() -> None:
    """Role, health, writer and reason; newest lines win on a screen of 24 lines."""
    reason = "connection failed: connection to server at 10.0.0.1 failed: Connection refused"
    places = [Endpoint("orders.db.example", f"10.0.{n}.5", 5432) for n in range(3)]
    views = tuple(
        EndpointView(place, f"az{n}", Role.PRIMARY if n else Role.UNKNOWN,
                     Health.UP if n else Health.DEAD, timeline=4, reason="" if n else reason)
        for n, place in enumerate(places)
    )  # fmt: skip
    seen = Topology(7, views, views[1], 4)
    console = Console(file=io.StringIO(), width=80, height=24, force_terminal=True)
    with _Screen(console) as screen:
        for number in range(60):
            line = Line(step="lost", number=number, reason=reason, pool="orders")
            args = ("resilient.failover", logging.INFO, "", 0, "%s", (line,), None)
            screen.line(logging.LogRecord(*args))
        screen.topology(seen, NoNumbers())  # type: ignore[arg-type]
        shown = screen._live.renderable
    plain = Console(file=io.StringIO(), width=80, height=24)
    plain.print(shown)
    lines = plain.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert len(lines) <= 24
    assert max(map(len, lines)) <= 80
    assert "number=59" in lines[-1]
    text = "\n".join(lines)
    for word in (
        "10.0.0.5:5432",
        "10.0.1.5:5432 *",
        "unknown",
        "primary",
        "dead",
        "connection fai",
    ):
        assert word in text


def screen(width: int, height: int, seen: Topology, told: list[tuple[int, Line]]) -> list[str]:
    """What is on a terminal of this size."""
    console = Console(file=io.StringIO(), width=width, height=height, force_terminal=True)
    with _Screen(console) as live:
        for level, line in told:
            args = ("resilient.failover", level, "", 0, "%s", (line,), None)
            live.line(logging.LogRecord(*args))
        live.topology(seen, NoNumbers())  # type: ignore[arg-type]
        shown = live._live.renderable
    plain = Console(file=io.StringIO(), width=width, height=height)
    plain.print(shown)
    return plain.file.getvalue().splitlines()  # type: ignore[attr-defined,no-any-return]


STORY = [
    (logging.WARNING, Line(step="lost", endpoint="10.0.0.5:5432", cause="refused", reason="r" * 90,
                           pool="orders", database="shop", failover="69cc2a5a2c6f9d65")),
    (logging.WARNING, Line(step="promoted", endpoint="10.0.1.5:5432", reason="timeline 5",
                           pool="orders", database="shop", failover="69cc2a5a2c6f9d65")),
    (logging.WARNING, Line(step="over", old="10.0.0.5:5432", new="10.0.1.5:5432", total_s=0.728,
                           detect_s=0.056, promote_s=0.656, reconnect_s=0.017, pool="orders",
                           database="shop", failover="69cc2a5a2c6f9d65")),
]  # fmt: skip
#: libpq's own words, which name the place twice
REFUSED = (
    'connection failed: connection to server at "10.0.0.5", port 5432 failed: Connection refused'
    " Is the server running on that host and accepting TCP/IP connections?"
)


def cluster(size: int) -> Topology:
    views = tuple(
        EndpointView(Endpoint("orders.db.example", f"10.0.{n}.5", 5432), f"az{n}",
                     Role.UNKNOWN if n == 0 else Role.PRIMARY if n == size - 1 else Role.REPLICA,
                     Health.UP if n else Health.DEAD, timeline=4, reason="" if n else REFUSED)
        for n in range(size)
    )  # fmt: skip
    return Topology(7, views, views[-1], 4)


@pytest.mark.parametrize(
    "size", [(160, 50), (100, 30), (80, 24), (60, 24), (50, 20), (40, 16), (32, 16)]
)
def test_role_health_writer_and_reason_are_shown_whatever_the_size(size: tuple[int, int]) -> None:
    width, height = size
    lines = screen(width, height, cluster(3), STORY)
    assert len(lines) <= height
    assert max(map(len, lines)) <= width
    text = "\n".join(lines)
    for place, role, health in (
        ("10.0.0.5:5432", "unknown", "dead"),
        ("10.0.1.5:5432", "replica", "up"),
        ("10.0.2.5:5432", "primary", "up"),
    ):
        (row,) = [line for line in lines if place in line and role in line and health in line]
        assert ("*" in row) is (role == "primary")
    assert "connection" in text
    assert "step=over" in text
    assert "pool=" not in text  # all of them are one pool's


def test_eighty_columns_tell_all_of_a_failover() -> None:
    text = " ".join(line.strip() for line in screen(80, 24, cluster(3), STORY))
    assert "connection failed:" in text
    assert "Connection refused" in text.replace("  ", " ")
    assert "total_s=0.728 detect_s=0.056 promote_s=0.656 reconnect_s=0.017" in text


def test_more_endpoints_than_rows_hide_no_line() -> None:
    lines = screen(80, 24, cluster(40), STORY)
    assert len(lines) <= 24
    text = "\n".join(lines)
    assert "10.0.39.5:5432 *" in text
    assert "10.0.0.5:5432 " in text
    assert "dead" in text
    assert "more" in text
    assert "step=over" in text


HOSTILE = "bye\x1b[2J\x9b31m [red]x[/red]\nforged\u202e"
SHOWN = "bye\\x1b[2J\\x9b31m [red]x[/red]\\nforged\\u202e"


def test_what_a_server_says_moves_no_cursor(capsys: pytest.CaptureFixture[str]) -> None:
    view = EndpointView(Endpoint("db.example", "10.0.0.1", 1), "az1", reason=HOSTILE)
    shown = table(Topology(7, (view,), None, 4, HOSTILE), NoNumbers())  # type: ignore[arg-type]
    assert str(next(iter(shown.columns[-1].cells))) == SHOWN
    assert str(shown.title) == f"version 7: {SHOWN}"
    record = logging.LogRecord("x", logging.WARNING, "", 0, "error=%s", (HOSTILE,), None)
    for as_json in (False, True):
        lines = _Lines(as_json)
        lines.line(record)
        lines.topology(Topology(7, (view,), None, 4, HOSTILE), NoNumbers())  # type: ignore[arg-type]
    said = capsys.readouterr().out
    assert said.count("\n") == 3
    assert said.replace("\n", "").isprintable()
    assert SHOWN in said
