"""Plays a plan on a lab: workload on, fault, recovery, workload off, judgement, repair."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import replace
from typing import Any

import psycopg
from psycopg.conninfo import make_conninfo

from ..errors import ResilientError
from ..lab import FaultRun, Lab
from ..settings import from_environment
from .about import circumstances, moment
from .checker import DEADLINE_S, Facts, Finding, check
from .live import Live
from .plan import Case, Endpoint
from .process import ClientFailed, ClientNotStarted, ClientProcess
from .records import Record, Trace
from .timeline import Timeline, of_run
from .workload import TABLE, Job

__all__ = ["Drill"]

#: good load before the fault, and after the recovery, in seconds
BEFORE_S, AFTER_S = 0.6, 0.4
#: how long the load goes on after a fault that promotes nobody
WATCH_S = {"dns-flip": 3.0, "upstream-down": 2.5, "upstream-hang": 4.0, "upstream-gone": 3.0}
#: a client that hasn't recovered this long after everything planned has happened never will
GIVE_UP_S = 30.0
READY_S = 15.0
#: the client's own zone
ZONE = "az2"
#: settings of the environment that would lead the client out of the lab
FOREIGN = ("DATABASE_READERS", "HTTP_FALLBACKS", "PATRONI_URLS", "DNS_ALLOWED_NETWORKS", "LEASE")


def _circumstances(lab: Lab) -> dict[str, Any]:
    ((server,),) = lab.admin(None, "SHOW server_version")
    found = circumstances(from_environment(), sys.argv[1:], {"PostgreSQL": str(server)})
    options = lab.options
    # the lab's own stand in their place
    elsewhere = {f"RESILIENT_{name}" for name in FOREIGN} | lab.env(ZONE).keys()
    kept = {name: value for name, value in found["settings"].items() if name not in elsewhere}
    found["settings"] = kept | {
        "client's zone": ZONE,
        "replication": "synchronous, any one standby" if options.sync else "asynchronous",
        "TTL of the writer's name": f"{options.dns_ttl_s:g} s",
    }
    found["skipped"] = dict(lab.skipped_faults)
    return found


class Drill:
    """A lab, the client under test on it, and what has been found so far.

    `say(at, text)` gets a line per phase; `log` gets the client's own warnings.  `timelines`: the
    timeline of each run that was judged.
    """

    def __init__(
        self,
        lab: Lab,
        say: Callable[[float, str], None],
        log: Callable[[str], None],
        timelines: list[Timeline] | None = None,
    ) -> None:
        self.lab = lab
        self._say = say
        self._log = log
        self._client: ClientProcess | None = None
        self._kind: Endpoint | None = None
        self._trace = Trace()
        self._live = Live(say)
        self.timelines = [] if timelines is None else timelines
        #: acknowledged in earlier runs of this client, and still there
        self._earlier: set[int] = set()
        self.about = _circumstances(lab)

    def play(self, cases: Sequence[Case]) -> Generator[Finding]:
        """Run after run; a finding each."""
        done = False
        try:
            for case in cases:
                yield self._play(case)
            done = True
        finally:  # interrupted: the client may wait for a primary that will never come
            self._stop(kill=not done)

    def _play(self, case: Case) -> Finding:
        known = "several hosts known" if case.endpoint == "multi" else "one CNAME known"
        later = f", promotion after {case.promote_after_s:g} s" if case.is_failover else ""
        self._say(time.monotonic(), f"── {case.fault}, {known}{later} ({case.number}/{case.of})")
        self._trace, self._live = Trace(), Live(self._say)
        trouble = ""
        stuck: tuple[str, ...] = ()
        run: FaultRun | None = None
        try:
            client = self._ready(case.endpoint)
            run = self._strike(case)
            self._follow(case, run, client)
            client.tell("pause", "paused", 15)
            stuck = client.stuck
        except ClientNotStarted:
            raise
        except ResilientError as error:
            trouble = f"{type(error).__name__}: {error}"
            self._say(time.monotonic(), trouble)
        facts, present = self._facts(case, run), self._present()
        finding = check(case, self._trace, facts, present, earlier=self._earlier)
        acked = {write.id for write in self._trace.writes if write.outcome == "ok"}
        self._earlier = (self._earlier | acked) & set(present)
        finding = replace(finding, stuck=stuck, trouble=trouble)
        events = run.events if run is not None else ()
        self.timelines.append(
            of_run(
                finding,
                self._trace,
                events,
                from_environment().window_s,
                at=moment(facts.fault_at).timestamp(),
                about=self.about,
            )
        )
        if stuck or trouble:
            self._stop(kill=True)
        self._repair(case)
        return finding

    # ---- the client under test -------------------------------------------------------

    def _ready(self, kind: Endpoint) -> ClientProcess:
        """The client of this kind, its workload running, everything seen healthy."""
        if self._client is None or self._kind != kind:
            self._stop()
            self._client, self._kind = self._start(kind), kind
            try:
                self._client.wait("ready", 30)
            except ClientFailed as error:
                raise ClientNotStarted(str(error)) from error
        self._client.tell("go", "running", 5)
        give_up_at = time.monotonic() + READY_S
        while not self._healthy(kind):
            if time.monotonic() > give_up_at:
                seen = self._trace.snapshots[-1:]
                raise ClientFailed(f"before the fault: not all healthy for the client: {seen}")
            self._client.pump(0.02)
        self._run_for(self._client, BEFORE_S)
        return self._client

    def _start(self, kind: Endpoint) -> ClientProcess:
        lab = self.lab
        self._recreate()
        env = dict(os.environ) | {f"RESILIENT_{name}": "" for name in FOREIGN}
        env |= lab.env(ZONE)
        dsn = lab.dsn if kind == "multi" else lab.writer_dsn
        env["RESILIENT_DATABASE_URL"] = dsn
        job = Job(dsn, lab.upstream_url if lab.upstreams else "")
        return ClientProcess(job, env, self._take, self._log)

    def _take(self, record: Record) -> None:
        self._trace.add(record)
        self._live.record(record)

    def _healthy(self, kind: Endpoint) -> bool:
        """Both shells have written to the primary and the topology shows all members up."""
        primary = self.lab.primary.address
        shells = {write.shell for write in self._trace.writes if write.server == primary}
        if len(shells) < 2 or not self._trace.snapshots:
            return False
        seen = self._trace.snapshots[-1]
        up = sum(health == "up" for health in seen.health.values())
        wanted = len(self.lab.members) if kind == "multi" else 1
        return seen.writer == primary and up >= wanted

    @staticmethod
    def _run_for(client: ClientProcess, seconds: float) -> None:
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            client.pump(min(left, 0.05))

    def _stop(self, kill: bool = False) -> None:
        client, self._client = self._client, None
        if client is not None:
            if kill:
                client.kill()
            else:
                client.close()

    # ---- the fault -------------------------------------------------------------------

    def _strike(self, case: Case) -> FaultRun:
        live = self._live
        live.old_primary = None if case.is_http else self.lab.primary.address
        run = self.lab.inject(
            case.fault,
            promote_after_s=case.promote_after_s,
            dns_after_s=case.dns_after_s,
            zone=self._served_from() if case.is_http else None,
        )
        while run.fault_at is None and not run.done:
            time.sleep(0.0005)
        live.fault_at = run.fault_at
        return run

    def _served_from(self) -> str:
        """The zone whose upstream serves the client: one that it doesn't use is no loss."""
        zones = (request.zone for request in reversed(self._trace.requests))
        return next((zone for zone in zones if zone), ZONE)

    def _follow(self, case: Case, run: FaultRun, client: ClientProcess) -> None:
        """Tell what happens until everything planned has, and the client has recovered."""
        told = 0
        settled_at: float | None = None
        give_up_at: float | None = None
        while settled_at is None or time.monotonic() < settled_at + AFTER_S:
            client.pump(0.005)
            for at, text in run.events[told:]:
                self._say(at, text)
                told += 1
            if run.new_primary and run.writable_at and self._live.new_primary is None:
                new = self.lab.cluster.member(run.new_primary).address
                self._live.promoted(new, run.writable_at)
            if not run.done:
                continue
            run.wait_done()
            give_up_at = give_up_at or time.monotonic() + GIVE_UP_S
            if settled_at is None:
                settled_at = self._settled(case, run)
            if settled_at is None and time.monotonic() > give_up_at:
                raise ClientFailed(f"no recovery within {GIVE_UP_S:g} s of the last event")

    def _settled(self, case: Case, run: FaultRun) -> float | None:
        """From when on all is well; None: not yet."""
        now = time.monotonic()
        if case.is_failover:
            if len(self._live.good) < 2:
                return None
            # a zombie must have the time to do harm
            return max(now, run.resumed_at + 1.0) if run.resumed_at is not None else now
        assert run.fault_at is not None
        return now if now > run.fault_at + WATCH_S[case.fault] else None

    def _facts(self, case: Case, run: FaultRun | None) -> Facts:
        options = self.lab.options
        if run is None or run.fault_at is None:
            return Facts(time.monotonic(), synchronous=options.sync, ttl_s=options.dns_ttl_s)

        def address(zone: str | None) -> str | None:
            return self.lab.cluster.member(zone).address if zone else None

        return Facts(
            fault_at=run.fault_at,
            writable_at=run.writable_at,
            durable_at=run.durable_at,
            dns_changed_at=run.dns_changed_at,
            ended_at=max((write.ended_at for write in self._trace.writes), default=None),
            old_primary=None if case.is_http else address(run.old_primary),
            new_primary=address(run.new_primary) if run.writable_at is not None else None,
            synchronous=options.sync,
            ttl_s=options.dns_ttl_s,
            deadline_s=DEADLINE_S,
        )

    def _repair(self, case: Case) -> None:
        if case.is_failover:
            self.lab.rejoin()
        else:
            self.lab.heal()

    # ---- the rows --------------------------------------------------------------------

    def _present(self) -> list[int]:
        """Ids that the primary has, through the lab's own socket."""
        with self._admin() as connection:
            if connection.execute(f"SELECT to_regclass('{TABLE}')").fetchone() == (None,):
                return []
            rows = connection.execute(f"SELECT id FROM {TABLE}").fetchall()  # noqa: S608
        return [row[0] for row in rows]

    def _recreate(self) -> None:
        """No table, so that a new client's ids are unique; the client makes it."""
        self._earlier.clear()
        with self._admin() as connection:
            connection.execute(f"DROP TABLE IF EXISTS {TABLE}")

    @contextlib.contextmanager
    def _admin(self) -> Iterator[psycopg.Connection[tuple[Any, ...]]]:
        conninfo = make_conninfo(self.lab.primary.conninfo, dbname="app")
        options = "-c synchronous_commit=local"
        with psycopg.connect(conninfo, autocommit=True, options=options) as connection:
            yield connection
