"""A drill on a system that is there: a canary's workload on it, and a command of the operator's
that forces the failover.

What the lab knows of its own faults is seen from outside here: when writes stopped (the longest
time without an acknowledgement), and when somebody else could write again (`outside`).
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import psycopg

from ..errors import ResilientError
from ..settings import Settings, from_environment
from .about import circumstances, moment, plain_command
from .checker import Facts, Finding, check
from .outside import Observer, Sight
from .places import Places, cause
from .plan import EXEC, Case, Endpoint
from .process import ClientFailed, ClientProcess
from .records import Record, Trace
from .timeline import Timeline, of_run
from .workload import TABLE, Job

__all__ = ["Command", "RealDrill"]

#: good load before the command, and after the recovery, in seconds
BEFORE_S, AFTER_S = 2.0, 2.0
READY_S, READ_ROWS_S = 30.0, 30.0
#: interrupted in the middle of a failover, it waits so long for a server that drops the table
CLEAN_UP_S = 60.0
#: of each shell; the threads and the tasks have as many
WRITERS, READERS = 2, 1
#: so many writes of the observer's in a row must have gone to one server
AGREEING = 3
#: between two writes of a session
PACE_S = 0.03
Say = Callable[[float, str], None]


@dataclass(frozen=True, slots=True)
class Command:
    """`text` is given to a shell; seconds.  `give_up_s`: no failover, or no recovery, by then."""

    text: str
    runs: int = 1
    give_up_s: float = 300.0


class RealDrill:
    """`say(at, text)` gets a line per phase, `log` the client's own warnings."""

    def __init__(
        self, dsn: str, command: Command, say: Say, log: Callable[[str], None],
        timelines: list[Timeline],
    ) -> None:  # fmt: skip
        self._dsn, self._command = dsn, command
        self._settings: Settings = from_environment()
        self._places = Places(dsn, self._settings)
        self._say, self._log = say, log
        self._timelines = timelines
        self._trace = Trace()
        self._events: list[tuple[float, str]] = []
        #: acknowledged in earlier runs, and still there
        self._earlier: set[int] = set()
        #: filled when it begins
        self.about: dict[str, Any] = {}

    def play(self, endpoint: Endpoint) -> Generator[Finding]:
        """A finding each run.  Raises `ResilientError` when it can't begin."""
        with self._places:
            yield from self._play(endpoint)

    def _play(self, endpoint: Endpoint) -> Generator[Finding]:
        self._prepare()
        # a canary, not a load test: so many sessions of each shell
        job = Job("", writers=WRITERS, readers=READERS, requesters=0, pace_s=PACE_S)
        # not as an argument, which everybody on the machine can read: it may hold a password
        environment = os.environ | {"RESILIENT_DATABASE_URL": self._dsn}
        try:
            client = ClientProcess(job, environment, self._take, self._log)
            try:
                client.wait("ready", READY_S)
                with Observer(self._places.conninfo) as observer:
                    for number in range(1, self._command.runs + 1):
                        case = Case(EXEC, endpoint, number, self._command.runs, 0.0, 0.0)
                        yield self._run(case, client, observer)
                client.close()
            finally:
                client.kill()
        finally:
            self._clean_up()

    def _take(self, record: Record) -> None:
        self._trace.add(record)

    def _event(self, text: str, at: float | None = None) -> float:
        at = time.monotonic() if at is None else at
        self._events.append((at, text))
        self._say(at, text)
        return at

    def _run(self, case: Case, client: ClientProcess, observer: Observer) -> Finding:
        self._trace, self._events = Trace(), []
        client.tell("go", "running", 5)
        known = self._healthy(client, observer)
        old = self._trace.snapshots[-1].writer if self._trace.snapshots else None
        self._pump(client, BEFORE_S)
        trouble = ""
        struck_at = self._event(f"forcing: {plain_command(self._command.text)}")
        process = _started(self._command.text)
        try:
            new = self._follow(client, observer, known, process)
        except ResilientError as error:
            new, trouble = None, str(error)
            self._event(trouble)
        finally:
            _end(process)
        client.tell("pause", "paused", 30)
        facts = self._facts(struck_at, known, new, old)
        present = self._present()
        finding = check(case, self._trace, facts, present, earlier=self._earlier)
        acked = {write.id for write in self._trace.writes if write.outcome == "ok"}
        self._earlier = (self._earlier | acked) & set(present)
        if new is not None and new.server == known.server:
            finding = replace(finding, late_acks=0)  # it came back in place: nobody is late
        finding = replace(finding, stuck=client.stuck, trouble=trouble)
        self._timelines.append(
            of_run(
                finding,
                self._trace,
                self._events,
                self._settings.window_s,
                at=moment(facts.fault_at).timestamp(),
                about=self.about,
            )
        )
        return finding

    def _healthy(self, client: ClientProcess, observer: Observer) -> Sight:
        """Both shells have written, and so has the observer; who it was.

        One write of the observer's isn't enough: a try that hung in an earlier run may end now,
        on the old primary, when that wakes up."""
        give_up_at = time.monotonic() + READY_S
        before = len(observer.sights)
        while True:
            shells = {write.shell for write in self._trace.writes if write.outcome == "ok"}
            seen = observer.sights[max(before, len(observer.sights) - AGREEING) :]
            agree = len(seen) == AGREEING and len({(s.server, s.since) for s in seen}) == 1
            if len(shells) == 2 and agree and self._trace.snapshots:
                return seen[-1]
            if time.monotonic() > give_up_at:
                why = observer.error or "no write was acknowledged"
                raise ClientFailed(f"before the command: {why}")
            client.pump(0.05)

    @staticmethod
    def _pump(client: ClientProcess, seconds: float) -> None:
        until = time.monotonic() + seconds
        while (left_s := until - time.monotonic()) > 0:
            client.pump(min(left_s, 0.05))

    def _follow(
        self,
        client: ClientProcess,
        observer: Observer,
        known: Sight,
        process: subprocess.Popen[bytes],
    ) -> Sight:
        """Until somebody else takes writes, the client has its own there, and the command is
        over."""
        give_up_at = time.monotonic() + self._command.give_up_s
        new: Sight | None = None
        done = False
        while True:
            client.pump(0.02)
            if not done and (code := process.poll()) is not None:
                done = True
                self._event(f"the command is over (exit {code})")
                if code:
                    raise ClientFailed(f"the command failed: exit {code}")
            if new is None and (new := observer.first_after(known)) is not None:
                self._event(f"{new.server or 'the server'} accepts writes", new.at)
            if new is not None and done and self._served(new):
                self._pump(client, AFTER_S)
                return new
            if time.monotonic() > give_up_at:
                what = "no recovery" if new else "no failover: the same server takes writes"
                raise ClientFailed(f"{what}, after {self._command.give_up_s:g} s")

    def _served(self, new: Sight) -> bool:
        good = (
            write.shell
            for write in self._trace.writes
            if write.outcome == "ok" and write.server == new.server and write.began_at >= new.at
        )
        return len(set(good)) == 2

    def _facts(self, struck_at: float, known: Sight, new: Sight | None, old: str | None) -> Facts:
        ended_at = max((write.ended_at for write in self._trace.writes), default=None)
        return Facts(
            fault_at=self._stopped_at(struck_at),
            writable_at=None if new is None else new.at,
            durable_at=None if new is None else new.at,
            ended_at=ended_at,
            old_primary=old,
            new_primary=None if new is None else new.server,
            synchronous=known.synchronous,
            deadline_s=self._settings.deadline_s,
        )

    def _stopped_at(self, struck_at: float) -> float:
        """Just behind the last acknowledgement before the longest time without one."""
        acked = sorted(w.ended_at for w in self._trace.writes if w.outcome == "ok")
        gaps = [(b - a, a) for a, b in pairwise(acked) if b > struck_at]
        return max(gaps)[1] + 1e-6 if gaps else struck_at

    # -- the table

    def _prepare(self) -> None:
        try:
            with self._admin() as conn:
                server = conn.info.parameter_status("server_version") or "?"
                self.about = circumstances(self._settings, sys.argv[1:], {"PostgreSQL": server})
                conn.execute(f"DROP TABLE IF EXISTS {TABLE}")
                conn.execute(f"CREATE TABLE {TABLE} (id bigint NOT NULL, server text)")
        except psycopg.Error as error:
            why = cause(error, self._settings)
            raise ClientFailed(f"{TABLE} can't be made: {why}") from None

    def _present(self) -> list[int]:
        query = f"SELECT id FROM {TABLE} WHERE id >= 0"  # noqa: S608  # a constant
        try:
            return [row[0] for row in self._patiently(query, READ_ROWS_S)]
        except (psycopg.Error, ResilientError) as error:
            why = cause(error, self._settings)
            raise ClientFailed(f"{TABLE} can't be read: {why}") from None

    def _clean_up(self) -> None:
        """Interrupted, there may be nobody who writes yet."""
        try:
            self._patiently(f"DROP TABLE IF EXISTS {TABLE}", CLEAN_UP_S)
        except (psycopg.Error, ResilientError, KeyboardInterrupt) as error:
            why = "interrupted again" if isinstance(error, KeyboardInterrupt) else str(error)
            self._say(
                time.monotonic(),
                f"{TABLE} is left behind ({' '.join(why.split())}): DROP TABLE {TABLE}",
            )

    def _patiently(self, query: str, patience_s: float) -> list[tuple[Any, ...]]:
        """Run it on whoever takes writes; while nobody does, again until then."""
        give_up_at = time.monotonic() + patience_s
        waits = False
        while True:
            try:
                with self._admin() as conn:
                    cursor = conn.execute(query.encode())
                    return cursor.fetchall() if cursor.description else []
            except (psycopg.Error, ResilientError) as error:
                lasting = isinstance(error, psycopg.Error) and not _passing(error)
                if lasting or time.monotonic() > give_up_at:
                    raise
                if not waits:
                    waits = True
                    self._say(time.monotonic(), f"waiting for a server that takes writes: {query}")
                time.sleep(0.2)

    def _admin(self) -> psycopg.Connection[tuple[Any, ...]]:
        return psycopg.connect(
            self._places.conninfo(),
            autocommit=True,
            connect_timeout=5,
            target_session_attrs="read-write",
            application_name="resilient drill",
        )


def _passing(error: psycopg.Error) -> bool:
    """Whether it may be another tale once somebody takes writes."""
    return isinstance(error, psycopg.OperationalError | psycopg.errors.ReadOnlySqlTransaction)


def _started(text: str) -> subprocess.Popen[bytes]:
    """Its output goes to standard error: standard output is the drill's own."""
    return subprocess.Popen(  # noqa: S602  # the operator's own words
        text, shell=True, stdin=subprocess.DEVNULL, stdout=2, start_new_session=True
    )


def _end(process: subprocess.Popen[bytes]) -> None:
    """With all that it has started, if it is still there."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
