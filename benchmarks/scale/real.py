"""Two hundred processes on one lab, a crash, and what the servers saw of it."""

from __future__ import annotations

import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psycopg
from psycopg.conninfo import make_conninfo

from resilient.lab import Lab, LabOptions, Member
from resilient.lab.processes import children_of

from ..failover.serverlog import ServerLogs
from ..failover.work import CREATE
from ..judge.checker import judge
from ..judge.history import Op
from ..progress import say

__all__ = ["measure"]

SIZE, RATE_S, PROMOTE_AFTER_S = 4, 2.0, 1.0
UP_S, QUIET_S, LOOK_S = 240.0, 3.0, 15.0
#: those that came first have heard by then how many came after them
SETTLE_S = 12.0
#: in a small crowd all pools are full again by then
AFTER_S = 3.0
#: looking at each thread of a larger crowd takes the machine from those who are looked at
WATCHED = 100
#: of a process beside its pool: the monitor's own, one for a suspicion, and the lab's
EXTRA, SPARE = 2, 100
#: a standby mustn't have room for fewer than its primary once had
LEAST = 200
#: connections opened and closed to see how quickly this machine can
TRIALS, AT_ONCE = 300, 8


def measure(counts: tuple[int, ...]) -> Iterator[dict[str, Any]]:
    """A row for each number of processes, in one lab."""
    with Lab(LabOptions(http=False)) as lab, contextlib.ExitStack() as stack:
        _make_room(lab, max(LEAST, max(counts) * (SIZE + EXTRA) + SPARE))
        logs = stack.enter_context(ServerLogs(lab).switched_on())
        for count in counts:
            rate_s = _accept_rate(lab)
            say(f"{count} processes with {SIZE} connections each; {rate_s:.0f} connects/s possible")
            yield _one(lab, logs, count) | {"accept_rate_s": round(rate_s, 1)}
            lab.rejoin()


def _make_room(lab: Lab, connections: int) -> None:
    for member in lab.members:
        member.execute(f"ALTER SYSTEM SET max_connections = {connections}")
    for member in (*lab.standbys, lab.primary):
        member.stop()
    for member in (lab.primary, *lab.standbys):
        member.start()
    lab.cluster.wait_streaming(lab.standbys, 30)


def _accept_rate(lab: Lab) -> float:
    """Connections per second that this machine can make, both ends included."""
    conninfo = f"host={lab.primary.address} port={lab.port} user=app dbname=app"
    began_at = time.monotonic()
    with ThreadPoolExecutor(AT_ONCE) as pool:
        list(pool.map(lambda _: psycopg.connect(conninfo).close(), range(TRIALS)))
    return TRIALS / (time.monotonic() - began_at)


# long: one run from beginning to end
def _one(lab: Lab, logs: ServerLogs, count: int) -> dict[str, Any]:
    with _admin(lab.primary) as connection:
        for statement in filter(None, map(str.strip, CREATE.split(";"))):
            connection.execute(statement.encode())
    with tempfile.TemporaryDirectory(prefix="resilient-bench-crowd-") as folder:
        job = {"conninfo": lab.dsn, "processes": count, "size": SIZE, "rate_s": RATE_S}
        crowd = _Crowd(job | {"folder": folder})
        try:
            crowd.wait_up(UP_S)
            time.sleep(SETTLE_S)
            busy = _Busy(lab, crowd if count <= WATCHED else None)
            time.sleep(QUIET_S)
            quiet_cores = busy.cores()
            logs.mark()
            run = lab.inject("crash", promote_after_s=PROMOTE_AFTER_S)
            fault_at = run.wait_struck()
            busy.lap()
            writable_at = run.wait_writable()
            busy_cores = busy.cores()
            time.sleep(AFTER_S)
            after_s, seconds = busy.lap()
            time.sleep(LOOK_S - AFTER_S)
            run.wait_done()
        finally:
            crowd.stop()
        told = [json.loads(path.read_text()) for path in Path(folder).glob("*.json")]
    accepted = logs.read()
    after = [at for at in logs.read(lab.primary).opened if at >= writable_at]
    needed = count * (SIZE - 1)  # one of each was warm
    with _admin(lab.primary) as connection:
        rows = [row[0] for row in connection.execute("SELECT id FROM public.bench_rows")]
    row = _figures(told, rows, fault_at, writable_at)
    return row | {
        "clients": count,
        "size": SIZE,
        "ops_rate_s": RATE_S,
        "promote_after_s": round(writable_at - fault_at, 4),
        "opened": len(accepted.opened),
        "opened_after": len(after),
        "peak_accepted_s": accepted.peak(),
        "peak_accepted_tenth": accepted.peak(0.1),
        "full_all_s": round(after[needed - 1] - writable_at, 4) if len(after) >= needed else None,
        "refused_53300": accepted.full,
        "busy_cores_quiet": round(quiet_cores, 3),
        "busy_cores": round(busy_cores, 3),
        "refill_s": round(after_s - quiet_cores * seconds, 4),
        "reported": len(told),
    }


def _figures(
    told: list[dict[str, Any]], rows: list[int], fault_at: float, writable_at: float
) -> dict[str, Any]:
    ops = [
        Op("", "insert", began, ended, _outcome(text), id=number, error=text)
        for process in told
        for number, began, ended, text in process["operations"]
    ]
    good = [op for op in ops if op.outcome == "ok"]
    held = [op.ended_at - writable_at for op in good if op.began_at < writable_at <= op.ended_at]
    after = [op for op in ops if op.ended_at >= fault_at]
    verdict = judge(ops, rows)
    return {
        "held": len(held),
        "held_median_s": round(statistics.median(held), 4) if held else None,
        "held_longest_s": round(max(held), 4) if held else None,
        "errors": sum(op.outcome == "error" for op in after),
        "unknown": verdict.unknown,
        "acked": verdict.acked,
        "lost": verdict.lost,
        "duplicated": verdict.duplicated,
        "ghosts": verdict.ghosts,
        "cpu_s": round(sum(process["cpu_s"] for process in told), 2),
    }


def _outcome(text: str) -> Any:
    return "unknown" if text.startswith("CommitOutcomeUnknown") else "error" if text else "ok"


class _Crowd:
    """The processes."""

    def __init__(self, job: dict[str, Any]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.scale.crowd", json.dumps(job)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
        )

    def wait_up(self, timeout_s: float) -> None:
        """All of them write."""
        timer = threading.Timer(timeout_s, self._process.kill)
        timer.start()
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        timer.cancel()
        if line.strip() != "up":
            raise RuntimeError(f"the processes were not up after {timeout_s:g} s")

    @property
    def pid(self) -> int:
        """Of the one that forked the others."""
        return self._process.pid

    def stop(self) -> None:
        """Let them report and end."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.communicate(timeout=30)
        self._process.kill()
        self._process.wait()


class _Busy:
    """Processor time of the crowd and the servers, nobody else's work; 0 without a crowd."""

    def __init__(self, lab: Lab, crowd: _Crowd | None) -> None:
        servers = [member.pid for member in lab.members if member.pid]
        self._parents = [crowd.pid, *servers] if crowd else []
        self._at, self._before = time.monotonic(), self._seconds()

    def _seconds(self) -> dict[int, float]:
        """Of each process of the families, to the nanosecond: many are young and do little."""
        pids = {pid for parent in self._parents for pid in (parent, *children_of(parent))}
        return {pid: _run_s(pid) for pid in pids}

    def lap(self) -> tuple[float, float]:
        """(processor time, time) in seconds since the last lap; of who ended meanwhile, none."""
        at, before = self._at, self._before
        self._at, self._before = time.monotonic(), self._seconds()
        used = sum(max(0.0, s - before.get(pid, 0.0)) for pid, s in self._before.items())
        return used, self._at - at

    def cores(self) -> float:
        """On average, since the last lap."""
        used_s, seconds = self.lap()
        return used_s / seconds


def _run_s(pid: int) -> float:
    total = 0
    with contextlib.suppress(OSError):
        for task in os.scandir(f"/proc/{pid}/task"):
            with contextlib.suppress(OSError):
                total += int(Path(task.path, "schedstat").read_text().split()[0])
    return total / 1e9


@contextlib.contextmanager
def _admin(member: Member) -> Iterator[psycopg.Connection[tuple[Any, ...]]]:
    conninfo = make_conninfo(member.conninfo, dbname="app")
    options = "-c synchronous_commit=local"
    with psycopg.connect(conninfo, autocommit=True, options=options) as connection:
        yield connection
