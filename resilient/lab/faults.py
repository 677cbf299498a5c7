"""Faults, each a short script that a thread of the lab plays.

    fault_at ─ promote_after_s ─► promote_begin_at ──► writable_at ─ dns_after_s ─► dns_changed_at

All moments are `time.monotonic()`, which every process of the machine shares.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .options import HTTP_FAULTS, POSTGRES_FAULTS, LabError

if TYPE_CHECKING:
    from .embedded import Lab
    from .postgres import Member

__all__ = ["FaultRun", "Plan", "play"]

#: how long a promotion may take before the run is called failed
PROMOTION_TIMEOUT_S = 30.0
#: how long after the promotion a synchronous standby may need to be back
DURABLE_TIMEOUT_S = 15.0
#: a standby that doesn't stream by then, after a promotion, won't by itself
STREAM_PATIENCE_S = 2.0


@dataclass(frozen=True, slots=True)
class Plan:
    """What shall happen when; seconds.  `zone` is the one that is hit."""

    fault: str
    zone: str
    promote_after_s: float
    dns_after_s: float
    resume_after_s: float


class FaultRun:
    """A fault under way, and at the end its record.  Moments are None until they have come.

    `writable_at`: an observer on the new primary's own socket had its first write accepted.
    `durable_at`: a standby had flushed that write, so synchronous commits are acknowledged again
    (equal to `writable_at` without synchronous replication).
    """

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.fault = plan.fault
        self.zone = plan.zone
        self.old_primary: str | None = None
        self.new_primary: str | None = None
        self.fault_at: float | None = None
        self.promote_begin_at: float | None = None
        self.writable_at: float | None = None
        self.durable_at: float | None = None
        self.dns_changed_at: float | None = None
        self.resumed_at: float | None = None
        self.events: list[tuple[float, str]] = []
        self.error: BaseException | None = None
        self._struck = threading.Event()
        self._writable = threading.Event()
        self._done = threading.Event()
        self._cancelled = threading.Event()

    def __repr__(self) -> str:
        return f"<FaultRun {self.fault} {self.zone}{' done' if self.done else ''}>"

    @property
    def done(self) -> bool:
        """Whether nothing more will happen."""
        return self._done.is_set()

    def wait_struck(self, timeout_s: float = 30.0) -> float:
        """Return when the fault has taken effect; `fault_at`."""
        return self._wait(self._struck, timeout_s, "fault_at")

    def wait_writable(self, timeout_s: float = 30.0) -> float:
        """Return when the new primary takes writes; `writable_at`."""
        return self._wait(self._writable, timeout_s, "writable_at")

    def wait_done(self, timeout_s: float = 60.0) -> None:
        """Return when everything planned has happened; raises what went wrong on the way."""
        if not self._done.wait(timeout_s):
            raise LabError(f"{self.fault}: not done after {timeout_s:g} s; {self.events}")
        if self.error is not None:
            raise LabError(f"{self.fault}: {self.error}") from self.error

    def cancel(self) -> None:
        """Let what is planned and hasn't begun not happen."""
        self._cancelled.set()

    def note(self, text: str, at: float | None = None) -> float:
        """Add an event; its moment, now if not given."""
        at = time.monotonic() if at is None else at
        self.events.append((at, text))
        return at

    def sleep_until(self, at: float) -> None:
        """Wait for the moment; raises `Cancelled` when the run is called off."""
        if self._cancelled.wait(max(0.0, at - time.monotonic())):
            raise Cancelled

    def struck(self) -> None:
        """The fault has taken effect."""
        self._struck.set()

    def writable(self, at: float) -> None:
        """The new primary takes writes."""
        self.writable_at = at
        self._writable.set()

    def finish(self, error: BaseException | None = None) -> None:
        """Nothing more will happen: wake everyone who waits."""
        self.error = error
        for event in (self._done, self._struck, self._writable):
            event.set()

    def _wait(self, event: threading.Event, timeout_s: float, name: str) -> float:
        if not event.wait(timeout_s):
            raise LabError(f"{self.fault}: no {name} after {timeout_s:g} s; {self.events}")
        if self.error is not None:
            raise LabError(f"{self.fault}: {self.error}") from self.error
        value: float | None = getattr(self, name)
        if value is None:
            raise LabError(f"{self.fault}: this fault has no {name}, or it was called off")
        return value


class Cancelled(Exception):
    """The run was called off by heal(), rejoin() or close()."""


def play(lab: Lab, run: FaultRun) -> None:
    """Play the run's plan to its end; meant for a thread of its own."""
    script = _SCRIPTS[run.fault]
    try:
        script(lab, run)
    except Cancelled:
        run.note("called off")
        run.finish()
    except BaseException as error:  # the run carries it to whoever waits
        run.note(f"failed: {error}")
        run.finish(error)
    else:
        run.finish()


def _primary_fault(lab: Lab, run: FaultRun) -> None:
    plan, old = run.plan, lab.cluster.member(run.zone)
    run.old_primary = old.zone
    run.fault_at = run.note(f"{run.fault}: {old.zone} is hit")
    _STRIKES[run.fault](lab, old)
    run.note("in effect")
    run.struck()
    run.sleep_until(run.fault_at + plan.promote_after_s)
    writable_at = _promote(lab, run, old)
    _await_durable(lab, run, until=writable_at + plan.dns_after_s)
    run.sleep_until(writable_at + plan.dns_after_s)
    run.dns_changed_at = lab.flip_writer(avoid=old.zone)
    run.note(f"writer name points to {run.new_primary}", run.dns_changed_at)
    _await_durable(lab, run, until=writable_at + STREAM_PATIENCE_S)
    if run.durable_at is None and lab.options.sync:
        _repair(lab, run)
    _await_durable(lab, run, until=writable_at + DURABLE_TIMEOUT_S)
    if run.fault == "switchover":
        run.note(f"{old.zone} follows by {lab.cluster.rejoin(old, diverged=False)}")
    elif run.fault == "zombie":
        run.sleep_until(writable_at + plan.resume_after_s)
        run.resumed_at = run.note(f"{old.zone} is back and believes it is the primary")
        old.resume()


def _promote(lab: Lab, run: FaultRun, old: Member) -> float:
    promotion = lab.cluster.begin_promotion(old)
    run.promote_begin_at = run.note(f"promoting {promotion.member.zone}", promotion.begin_at)
    run.new_primary = promotion.member.zone
    try:
        writable_at = promotion.observer.wait_writable(PROMOTION_TIMEOUT_S)
        run.note(f"{promotion.member.zone} accepts writes", writable_at)
        lab.observe(promotion.observer)
    except BaseException:
        promotion.observer.close()
        raise
    # all that follows may take its time: whoever waits is told first
    lab.cluster.finish_promotion(promotion)
    if not lab.options.sync:
        run.durable_at = writable_at
    run.writable(writable_at)
    return writable_at


def _repair(lab: Lab, run: FaultRun) -> None:
    """Bring back the standbys that can't follow.

    A primary that dies in the middle of a record at the end of a WAL segment leaves its
    standbys with half of it; the new timeline begins before that, and the other standby asks
    for what the new primary never had.
    """
    for standby in lab.standbys:
        hit = standby.zone == run.old_primary or not standby.is_standby
        if not hit and not lab.cluster.is_streaming(standby):
            run.note(f"{standby.zone} follows by {lab.cluster.rejoin(standby)}")


def _await_durable(lab: Lab, run: FaultRun, *, until: float) -> None:
    observer = lab.observer
    while run.durable_at is None and observer is not None and time.monotonic() < until:
        if observer.is_durable():
            run.durable_at = run.note("a standby confirms writes")
        else:
            run.sleep_until(min(until, time.monotonic() + 0.002))


def _dns_flip(lab: Lab, run: FaultRun) -> None:
    """The name moves to a standby, the role doesn't: DNS is ahead of the truth, or wrong."""
    run.old_primary = lab.primary.zone
    run.fault_at = run.note("the writer name is about to move")
    run.struck()
    run.sleep_until(run.fault_at + run.plan.dns_after_s)
    target = next(m.zone for m in lab.standbys if lab.cluster.is_streaming(m))
    run.dns_changed_at = lab.dns.flip(lab.WRITER, lab.member_name(target))
    run.note(f"writer name points to {target}", run.dns_changed_at)


def _upstream_fault(lab: Lab, run: FaultRun) -> None:
    upstream = lab.upstream(run.zone)
    run.fault_at = run.note(f"{run.fault}: {upstream.zone} is hit")
    if run.fault == "upstream-down":
        upstream.kill()
    elif run.fault == "upstream-hang":
        upstream.pause()
    run.struck()
    run.sleep_until(run.fault_at + run.plan.dns_after_s)
    if run.fault == "upstream-gone":
        run.dns_changed_at = lab.dns.remove_address(lab.UPSTREAM, upstream.address)
        run.note(f"{upstream.address} is gone from DNS", run.dns_changed_at)


def _blackhole(lab: Lab, old: Member) -> None:
    lab.blackhole(old.zone)


_STRIKES: dict[str, Callable[[Lab, Member], None]] = {
    "switchover": lambda _, old: old.stop("fast"),
    "crash": lambda _, old: old.kill(),
    "hang": lambda _, old: old.pause(),
    "zombie": lambda _, old: old.pause(),
    "blackhole": _blackhole,
}
_SCRIPTS: dict[str, Callable[[Lab, FaultRun], None]] = {
    **dict.fromkeys(POSTGRES_FAULTS, _primary_fault),
    **dict.fromkeys(HTTP_FAULTS, _upstream_fault),
    "dns-flip": _dns_flip,
}
