"""Plays one round: a client under full load, its failovers, the judgement."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg

from resilient.errors import ResilientError
from resilient.lab import Lab
from resilient.postgres.commit import ledger

from ..failover.clients import CLIENTS
from ..failover.figures import told_errors
from ..failover.runner import Runner, pump_for
from ..failover.serverlog import ServerLogs
from ..failover.sessions import Sizes
from ..failover.subject import Job
from ..judge.checker import judge
from ..judge.history import Op, to_wire
from ..subject.parent import Subject, SubjectFailed
from .plan import TOLD_LOST, Round

__all__ = ["TASKS", "THREADS", "LoopRunner", "sizes_of", "steps_of"]

THREADS, TASKS = 4, 20
#: when the fault comes within this, promotion and a zombie's return after it
STRIKE_S, PROMOTE_S, RESUME_S = 0.3, 0.5, 0.5
#: our library tells here what it did about a block that was struck
STEPS = "resilient.failover"


def sizes_of(client: str) -> Sizes:
    """As many sessions as the shell has in the closed loop; none of them ever pauses.

    Each appends in transactions of three statements, to lists of its own, and reads them back.
    """
    threads = not CLIENTS[client].load().asynchronous
    return Sizes(inserters=0, appenders=THREADS if threads else TASKS, readers=0, append_pace_s=0)


class LoopRunner(Runner):
    """`give_up_s`: how long all sessions have to come back, before the repair and after it."""

    def __init__(
        self, lab: Lab, client: str, *, give_up_s: float = 10.0, histories: Path | None = None
    ) -> None:
        logs = ServerLogs(lab)  # connections aren't counted here
        super().__init__(
            lab, logs, give_up_s=give_up_s, sizes=sizes_of(client), histories=histories
        )

    def play_round(self, case: Round) -> dict[str, Any]:
        """The round's row."""
        row: dict[str, Any] = {"key": case.key, "client": case.client, "way": case.way}
        row |= {"faults": list(case.faults), "replication": case.replication}
        row |= {"sessions": self._sizes.sessions, "at": time.strftime("%Y-%m-%dT%H:%M:%S")}
        row["versions"] = CLIENTS[case.client].versions()
        self._recreate()
        subject = Subject("benchmarks.failover.subject", self._job(case).to_json())
        trouble = ""
        moments: list[dict[str, Any]] = []
        chance = random.Random(case.number)  # the same moments for every client
        try:
            self._warm_up(subject)
            for fault in case.faults:
                moments.append(self._fail_over(subject, fault, chance.random() * STRIKE_S))
            subject.tell("stop", "stopped", 10)
        except (SubjectFailed, ResilientError, psycopg.Error) as error:
            trouble = f"{type(error).__name__}: {error}"
        subject.kill()
        self.lab.rejoin()
        row |= {"moments": moments, "stalled": sum(not told["back"] for told in moments)}
        return row | self._judged(case, subject) | {"trouble": trouble}

    def _job(self, case: Any) -> Job:
        job = super()._job(case)
        return replace(job, listen=STEPS) if CLIENTS[case.client].ours else job

    def _recreate(self) -> None:
        super()._recreate()
        with self._admin() as connection:
            connection.execute(ledger.DDL.encode())

    def _fail_over(self, subject: Subject, fault: str, strike_s: float) -> dict[str, Any]:
        """What happened when; `back`: all sessions had written again before the repair."""
        pump_for(subject, strike_s)
        run = self.lab.inject(
            fault, promote_after_s=PROMOTE_S, dns_after_s=0, resume_after_s=RESUME_S
        )
        while not run.done:
            subject.pump(0.02)
        run.wait_done()
        assert run.writable_at is not None
        back = self._all_back(subject, run.writable_at)
        self.lab.rejoin()
        self._all_back(subject, time.monotonic())
        return {"fault": fault, "at": run.fault_at, "writable_at": run.writable_at, "back": back}

    def _all_back(self, subject: Subject, since: float) -> bool:
        """Wait until each session had a write acknowledged after `since`; whether it did."""
        give_up_at = time.monotonic() + self._give_up_s
        missing = set(self._sizes.writers)
        # what arrives late may have ended after `since`: look back a little
        seen = max(0, len(subject.ops) - 5_000)
        while missing:
            for op in subject.ops[seen:]:
                if op.is_write and op.outcome == "ok" and op.ended_at > since:
                    missing.discard(op.session)
            seen = len(subject.ops)
            if missing and time.monotonic() > give_up_at:
                return False
            subject.pump(0.02)
        return True

    def _judged(self, case: Round, subject: Subject) -> dict[str, Any]:
        ops: list[Op] = subject.ops
        rows, lists = self._present()
        verdict = judge(ops, [n for n, servers in rows.items() for _ in servers], lists)
        if verdict.broken:
            what = {"rows": rows, "lists": lists, "ops": [*map(to_wire, ops)]}
            self._keep(f"continuity/{case.key}", what)
        return {
            **verdict.as_dict(),
            **told_errors(ops, 0.0),
            "unknown_all": sum(op.outcome == "unknown" for op in ops),
            "steps": dict(steps_of(text for _, text in subject.log)),
        }


def steps_of(lines: Iterable[str]) -> Counter[str]:
    """How often each step was told; `resolved` by its outcome; and how many commits were lost."""
    found: Counter[str] = Counter()
    for line in lines:
        words = dict(word.split("=", 1) for word in line.split() if "=" in word)
        if step := words.get("step"):
            found[words.get("outcome", step) if step == "resolved" else step] += 1
        if step == "commits-lost":
            found[TOLD_LOST] += int(words["count"])
    return found
