"""Plays one case: a client under load, the fault, the recovery, the judgement, the repair."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg
from psycopg.conninfo import make_conninfo

from resilient.errors import ResilientError
from resilient.lab import Lab

from ..judge.checker import Verdict, judge
from ..judge.history import Op, to_wire
from ..subject.parent import Subject, SubjectFailed
from .clients import CLIENTS
from .faults import Play, Story
from .figures import figures
from .plan import Case
from .serverlog import Accepted, ServerLogs
from .sessions import Sizes
from .subject import Job
from .work import CREATE

__all__ = ["Runner", "pump_for"]

READY_S = 25.0
#: good load before the fault, and after the recovery
WARM_S, AFTER_S = 1.0, 0.5
#: acknowledgements that a session needs before it counts as running
RUNNING = 3
#: a zombie must have the time to do harm
HARM_S = 1.0


class Runner:
    """A lab, and the settings that all cases share.

    `give_up_s`: a client that hasn't recovered this long after the new primary takes writes (and
    all that was planned has happened) never will.  `histories`: where to keep the operations of
    runs that break something.
    """

    def __init__(
        self,
        lab: Lab,
        logs: ServerLogs,
        *,
        give_up_s: float = 30.0,
        sizes: Sizes | None = None,
        histories: Path | None = None,
    ) -> None:
        self.lab = lab
        self._logs = logs
        self._give_up_s = give_up_s
        self._sizes = sizes or Sizes()
        self._histories = histories

    def play(self, case: Case) -> dict[str, Any]:
        """The case's row."""
        row = {**case.as_dict(), "key": case.key, "versions": CLIENTS[case.client].versions()}
        row["at"] = time.strftime("%Y-%m-%dT%H:%M:%S")
        self._recreate()
        subject = Subject("benchmarks.failover.subject", self._job(case).to_json())
        play = Play(self.lab, case.fault, case.promote_after_s)
        story, trouble = play.story, ""
        try:
            self._warm_up(subject)
            self._logs.mark()
            story = play.start()
            self._follow(case, subject, play)
            subject.tell("stop", "stopped", 10)
        except (SubjectFailed, ResilientError, psycopg.Error) as error:
            trouble = f"{type(error).__name__}: {error}"
        ended_at = time.monotonic()
        subject.kill()
        if story.fault_at is not None:
            play.join()
            accepted = self._logs.read()
            rows, lists = self._present()
            ops = [replace(op, server=rows.get(op.id, [None])[0]) for op in subject.ops]
            verdict = judge(ops, [n for n, servers in rows.items() for _ in servers], lists)
            row |= _row(case, ops, subject.log, story, accepted, verdict, ended_at)
            if verdict.broken:
                self._keep(case.key, {"rows": rows, "lists": lists, "ops": [*map(to_wire, ops)]})
        self.lab.rejoin()
        return row | {"trouble": trouble}

    # ---- the client ------------------------------------------------------------------

    def _job(self, case: Case) -> Job:
        lab = self.lab
        several = tuple(member.address for member in lab.members)
        hosts = several if case.endpoint == "multi" else (lab.WRITER,)
        return Job(case.client, case.way, hosts, lab.port, self._sizes)

    def _warm_up(self, subject: Subject) -> None:
        subject.wait("loaded", READY_S)
        subject.tell("open", "ready", READY_S)
        subject.tell("go", "running", 5)
        wanted = set(self._sizes.writers)
        give_up_at = time.monotonic() + READY_S
        while wanted:
            if time.monotonic() > give_up_at:
                texts = {op.error for op in subject.ops if op.error}
                raise SubjectFailed(f"before the fault: {sorted(wanted)} not running; {texts}")
            subject.pump(0.02)
            good = [op.session for op in subject.ops if op.outcome == "ok"]
            wanted = {name for name in wanted if good.count(name) < RUNNING}
        pump_for(subject, WARM_S)

    def _follow(self, case: Case, subject: Subject, play: Play) -> None:
        """Until all has happened that was planned, and the client has recovered or never will."""
        settled_at: float | None = None
        give_up_at = float("inf")
        seen = len(subject.ops)
        missing = set(self._sizes.writers)
        story = play.story
        while settled_at is None or time.monotonic() < settled_at + AFTER_S:
            subject.pump(0.02)
            if not play.done:
                continue
            assert story.done_at is not None
            since = story.writable_at if story.writable_at is not None else story.done_at
            give_up_at = max(since + self._give_up_s, story.done_at + AFTER_S)
            for op in subject.ops[seen:]:
                # by the clock alone: who took it is known when the rows are read
                if op.is_write and op.outcome == "ok" and op.ended_at >= since:
                    missing.discard(op.session)
            seen = len(subject.ops)
            now = time.monotonic()
            harm = case.fault == "zombie" and now < story.done_at + HARM_S
            if settled_at is None and not missing and not harm:
                settled_at = now
            if now > give_up_at:
                return

    # ---- the rows --------------------------------------------------------------------

    def _present(self) -> tuple[dict[int, list[str]], dict[int, list[int]]]:
        """id → the servers that wrote it, one a row; key → its list."""
        rows: dict[int, list[str]] = {}
        with self._admin() as connection:
            _quiesce(connection)
            for number, server in connection.execute("SELECT * FROM public.bench_rows"):
                rows.setdefault(number, []).append(server)
            lists = connection.execute("SELECT key, items FROM public.bench_lists").fetchall()
        return rows, dict(lists)

    def _keep(self, key: str, what: dict[str, Any]) -> None:
        if self._histories is not None:
            self._histories.mkdir(parents=True, exist_ok=True)
            path = self._histories / f"{key.replace('/', '_')}.json"
            path.write_text(json.dumps(what))

    def _recreate(self) -> None:
        with self._admin() as connection:
            _quiesce(connection)
            for statement in filter(None, map(str.strip, CREATE.split(";"))):
                connection.execute(statement.encode())

    @contextlib.contextmanager
    def _admin(self) -> Iterator[psycopg.Connection[tuple[Any, ...]]]:
        conninfo = make_conninfo(self.lab.primary.conninfo, dbname="app")
        options = "-c synchronous_commit=local"
        with psycopg.connect(conninfo, autocommit=True, options=options) as connection:
            yield connection


def _quiesce(connection: psycopg.Connection[tuple[Any, ...]], patience_s: float = 3.0) -> None:
    """No client's backend works any more: what a killed client left under way is over."""
    give_up_at = time.monotonic() + patience_s
    query = "SELECT pid FROM pg_stat_activity WHERE usename = 'app'"
    while connection.execute(query).fetchall():
        if time.monotonic() > give_up_at:
            connection.execute(query.replace("pid", "pg_terminate_backend(pid)", 1).encode())
            give_up_at += patience_s
        time.sleep(0.01)


def _row(
    case: Case,
    ops: list[Op],
    log: list[tuple[float, str]],
    story: Story,
    accepted: Accepted,
    verdict: Verdict,
    ended_at: float,
) -> dict[str, Any]:
    opened = [at for at in accepted.opened if story.fault_at and story.fault_at <= at <= ended_at]
    return {
        **figures(case.fault, ops, log, story, ended_at),
        **verdict.as_dict(),
        "connections": len(opened),
        "connections_peak": Accepted(tuple(opened), 0).peak(),
        "refused_53300": accepted.full,
    }


def pump_for(subject: Subject, seconds: float) -> None:
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
        subject.pump(min(left, 0.05))
