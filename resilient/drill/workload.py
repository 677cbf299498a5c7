"""What the client under test does, sync: a service that writes, reads and calls another one.

Writers insert ids that no other write has; the table has no unique constraint, so a write that
is applied twice shows.  Workers pause between two operations, never within one: when the gate is
closed and nobody is inside, every operation has its outcome.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import psycopg

from ..errors import CommitOutcomeUnknown
from ..http import Client
from ..postgres import ConnectionPool
from .records import Outcome, Read, Record, Request, Shell, Way, Write

__all__ = ["TABLE", "Gate", "Job", "SyncWorkload", "outcome_of"]

TABLE = "public.resilient_drill"
CREATE = f"CREATE TABLE IF NOT EXISTS {TABLE} (id bigint NOT NULL, server text)"
INSERT = f"INSERT INTO {TABLE} VALUES (%s, host(inet_server_addr()))"  # noqa: S608  # a constant
READ = "SELECT host(inet_server_addr())"
#: a worker looks this often whether the gate is open again, in seconds
LOOK_S = 0.02


@dataclass(frozen=True, slots=True)
class Job:
    """The size of the workload.  Times in seconds; counts are per shell."""

    dsn: str
    http_url: str = ""
    writers: int = 4
    plain_writers: int = 1
    readers: int = 1
    plain_readers: int = 1
    requesters: int = 2
    pace_s: float = 0.010
    slow_pace_s: float = 0.025
    http_deadline_s: float = 2.0


class Gate:
    """Lets operations begin, or not, and knows which ones are under way.  Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open = False
        self._inside: dict[str, float] = {}
        self.ending = False

    def enter(self, name: str) -> bool:
        """May `name` begin an operation now?  Then `leave` must follow."""
        with self._lock:
            if self._open:
                self._inside[name] = time.monotonic()
            return self._open

    def leave(self, name: str) -> None:
        """The operation has its outcome, and it is recorded."""
        with self._lock:
            self._inside.pop(name, None)

    def set(self, is_open: bool) -> None:
        """Open or close it."""
        with self._lock:
            self._open = is_open

    def end(self) -> None:
        """Close it for good: workers return."""
        self.ending = True
        self.set(False)

    def inside(self) -> dict[str, float]:
        """Operations under way → when they began."""
        with self._lock:
            return dict(self._inside)


@dataclass(slots=True)
class Shared:
    """What both shells use: the ids, the gate, and where records go."""

    job: Job
    gate: Gate = field(default_factory=Gate)
    records: deque[Record] = field(default_factory=deque)
    ids: itertools.count[int] = field(default_factory=lambda: itertools.count(1))


def outcome_of(error: BaseException | None) -> tuple[Outcome, str]:
    """What the caller was told, and its words."""
    if error is None:
        return "ok", ""
    text = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
    return ("unknown" if isinstance(error, CommitOutcomeUnknown) else "error"), text


def insert(conn: psycopg.Connection[Any], number: int) -> psycopg.Connection[Any]:
    """The write; the connection that it was made on."""
    conn.execute(INSERT, [number])
    return conn


def acknowledged_by(conn: psycopg.Connection[Any] | psycopg.AsyncConnection[Any]) -> str | None:
    """The address of the server that acknowledged the last COMMIT: of one whose reply was lost,
    the next primary, to which the connection has moved."""
    try:
        return conn.info.hostaddr
    except psycopg.OperationalError:
        return None  # the session has ended since


def read(conn: psycopg.Connection[Any]) -> str | None:
    """The read; the address of the server that answered."""
    row = conn.execute(READ).fetchone()
    return row[0] if row else None


class SyncWorkload:
    """Threads on a `ConnectionPool` and a `Client`."""

    shell: Shell = "sync"

    def __init__(self, shared: Shared) -> None:
        self._shared = shared
        job = shared.job
        size = job.writers + job.plain_writers
        self.pool = ConnectionPool(job.dsn, min_size=size, max_size=size, open=False)
        self.client = Client()
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        """Open the pool, make the table, start the workers (who wait at the gate)."""
        job = self._shared.job
        self.pool.open(wait=True, timeout=20)
        self.pool.run(lambda conn: conn.execute(CREATE))
        jobs: list[tuple[str, Callable[[], None], int, float]] = [
            ("run", lambda: self._write("run"), job.writers, job.pace_s),
            ("plain", lambda: self._write("plain"), job.plain_writers, job.slow_pace_s),
            ("reader", lambda: self._read("run"), job.readers, job.slow_pace_s),
            ("plain reader", lambda: self._read("plain"), job.plain_readers, job.slow_pace_s),
            ("http", self._request, job.requesters if job.http_url else 0, job.slow_pace_s),
        ]
        for name, operation, count, pace_s in jobs:
            for n in range(count):
                args = (f"sync {name} {n + 1}", operation, pace_s)
                thread = threading.Thread(target=self._work, args=args, name=args[0], daemon=True)
                thread.start()
                self._threads.append(thread)

    def stop(self) -> None:
        """End the workers, close pool and client."""
        for thread in self._threads:
            thread.join(2)
        self.client.close()
        self.pool.close(timeout=2)

    def _work(self, name: str, operation: Callable[[], None], pace_s: float) -> None:
        gate = self._shared.gate
        while not gate.ending:
            if not gate.enter(name):
                time.sleep(LOOK_S)
                continue
            try:
                operation()
            finally:
                gate.leave(name)
            time.sleep(pace_s)

    def _write(self, way: Way) -> None:
        number = next(self._shared.ids)
        server, error, began_at = None, None, time.monotonic()
        try:
            if way == "run":
                conn = self.pool.run(insert, number)
            else:
                with self.pool.connection() as conn:
                    insert(conn, number)
            server = acknowledged_by(conn)
        except Exception as exc:  # whatever a caller would see is what we are here to count
            error = exc
        ended_at = time.monotonic()
        outcome, text = outcome_of(error)
        self._record(Write(number, self.shell, way, began_at, ended_at, outcome, server, text))

    def _read(self, way: Way) -> None:
        server, error, began_at = None, None, time.monotonic()
        try:
            if way == "run":
                server = self.pool.reader.run(read)
            else:
                with self.pool.reader.connection() as conn:
                    server = read(conn)
        except Exception as exc:
            error = exc
        ended_at = time.monotonic()
        self._record(Read(self.shell, way, began_at, ended_at, server, outcome_of(error)[1]))

    def _request(self) -> None:
        job = self._shared.job
        zone, error, began_at = None, None, time.monotonic()
        try:
            response = self.client.get(
                f"{job.http_url}/whoami",
                extensions={"resilient": {"deadline_s": job.http_deadline_s}},
            )
            response.raise_for_status()
            zone = response.json()["zone"]
        except Exception as exc:
            error = exc
        ended_at = time.monotonic()
        text, limit_s = outcome_of(error)[1], job.http_deadline_s
        self._record(Request(self.shell, began_at, ended_at, limit_s, zone, text))

    def _record(self, record: Record) -> None:
        self._shared.records.append(record)
