"""Judges one run: the client's records against the observer's facts and the surviving rows.

Pure.  With the ids as multisets:

    lost       = acknowledged − present
    duplicated = present more than once
    ghost      = present ∩ told that it failed     (CommitOutcomeUnknown claims nothing)
    late acks  = acknowledged by the old primary after the client first saw the new one

    ── fault ──► detected ──────► writable ──► writer published ──► first good write
       detect_s: fault → detected          promote_s: fault → writable
       resolve_s: writable → published     reconnect_s: published → first good write

The observer isn't the first to know: a client may be told, or served, before the observer's own
write has come back.  Such a phase took no time; none is negative.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from .limits import LIMITS
from .plan import Case
from .records import Outcome, Read, Request, Shell, Snapshot, Trace, Write

__all__ = ["Facts", "Finding", "Phases", "check", "first_good"]

SHELLS: tuple[Shell, ...] = ("sync", "async")
OUTCOMES: tuple[Outcome, ...] = ("ok", "unknown", "error")
#: the library's default, RESILIENT_DEADLINE_S
DEADLINE_S = 30.0


@dataclass(frozen=True, slots=True)
class Facts:
    """What the lab knows.  Monotonic; None: that didn't happen.  Addresses, not zones."""

    fault_at: float
    writable_at: float | None = None
    durable_at: float | None = None
    dns_changed_at: float | None = None
    ended_at: float | None = None
    old_primary: str | None = None
    new_primary: str | None = None
    synchronous: bool = True
    ttl_s: float = 1.0
    deadline_s: float = DEADLINE_S


@dataclass(frozen=True, slots=True)
class Phases:
    """Seconds of each phase (see the module); None where it didn't happen."""

    detect_s: float | None = None
    promote_s: float | None = None
    resolve_s: float | None = None
    reconnect_s: float | None = None


@dataclass(frozen=True, slots=True)
class Finding:
    """What one run measured.  Times in seconds, the rest are counts.

    `stuck` and `trouble` say what went wrong with the run itself.
    `after_writable_s` and `outage_s` are the worst of `by_shell`'s, None if it never recovered.
    """

    case: Case
    facts: Facts
    phases: Phases
    acked: int
    lost: int
    duplicated: int
    ghosts_run: int
    ghosts_plain: int
    late_acks: int
    unknown: int
    unknown_present: int
    errors_run: int
    errors_plain: int
    errors_read: int
    errors_http: int
    overdue: int
    reads: int
    requests: int
    after_writable_s: float | None
    outage_s: float | None
    slowest_request_s: float | None
    by_shell: dict[str, float | None] = field(default_factory=dict)
    error_texts: dict[str, int] = field(default_factory=dict)
    stuck: tuple[str, ...] = ()
    trouble: str = ""

    @property
    def writable_s(self) -> float | None:
        """Fault → the observer could write."""
        return self.phases.promote_s

    @property
    def after_dns_s(self) -> float | None:
        """The name server changed → first good write, the worse shell's."""
        if self.after_writable_s is None or self.facts.writable_at is None:
            return None
        if self.facts.dns_changed_at is None:
            return None
        changed_s = self.facts.dns_changed_at - self.facts.writable_at
        return max(0.0, self.after_writable_s - changed_s)


def check(
    case: Case,
    trace: Trace,
    facts: Facts,
    present: Iterable[int],
    *,
    earlier: Iterable[int] = (),
) -> Finding:
    """`present`: ids that the primary has now, repeated ones too; `earlier`: had before the run."""
    rows = Counter(present)
    acked, unknown, failed = (_told(trace, outcome) for outcome in OUTCOMES)
    good: dict[Shell, float | None] = {shell: first_good(acked, shell, facts) for shell in SHELLS}
    outages = [outage(acked, shell, facts, good[shell]) for shell in SHELLS]
    return Finding(
        case=case,
        facts=facts,
        phases=_phases(trace.snapshots, facts, good),
        acked=len(acked),
        lost=sum(write.id not in rows for write in acked)
        + sum(number not in rows for number in earlier),
        duplicated=sum(count > 1 for count in rows.values()),
        ghosts_run=sum(write.id in rows for write in failed if write.way == "run"),
        ghosts_plain=sum(write.id in rows for write in failed if write.way == "plain"),
        late_acks=_late_acks(acked, trace.snapshots, facts),
        unknown=len(unknown),
        unknown_present=sum(write.id in rows for write in unknown),
        errors_run=sum(write.way == "run" for write in failed),
        errors_plain=sum(write.way == "plain" for write in failed)
        + sum(bool(read.error) for read in trace.reads if read.way == "plain"),
        errors_read=sum(bool(read.error) for read in trace.reads if read.way == "run"),
        errors_http=sum(bool(request.error) for request in trace.requests),
        overdue=_overdue(trace, facts.deadline_s),
        reads=len(trace.reads),
        requests=len(trace.requests),
        after_writable_s=_worst(after_writable(facts, at) for at in good.values()),
        outage_s=_worst(outages),
        slowest_request_s=max(map(_took, trace.requests), default=None),
        by_shell={shell: after_writable(facts, at) for shell, at in good.items()},
        error_texts=_texts(trace),
    )


def _told(trace: Trace, outcome: Outcome) -> list[Write]:
    return [write for write in trace.writes if write.outcome == outcome]


def first_good(acked: Iterable[Write], shell: Shell, facts: Facts) -> float | None:
    """When the shell got its first acknowledgement from the new primary."""
    if facts.new_primary is None:
        return None
    moments = (
        write.ended_at
        for write in acked
        if write.shell == shell
        and write.server == facts.new_primary
        and write.ended_at >= facts.fault_at
    )
    return min(moments, default=None)


def after_writable(facts: Facts, at: float | None) -> float | None:
    """Seconds from "writable" to `at`."""
    return _between(facts.writable_at, at)


def outage(
    acked: Iterable[Write], shell: Shell, facts: Facts, good_at: float | None
) -> float | None:
    """Last good write before → first good write after.  Without a new primary: the longest
    time without one, from the fault on.  None: it never recovered."""
    moments = sorted(write.ended_at for write in acked if write.shell == shell)
    if facts.new_primary is not None:
        if good_at is None:
            return None
        return good_at - max((at for at in moments if at < good_at), default=facts.fault_at)
    before = [at for at in moments if at <= facts.fault_at][-1:] or [facts.fault_at]
    line = before + [at for at in moments if at > facts.fault_at]
    if facts.ended_at is not None:
        line.append(max(facts.ended_at, line[-1]))
    return max((later - earlier for earlier, later in pairwise(line)), default=None)


def _worst(values: Iterable[float | None]) -> float | None:
    known = list(values)
    return None if any(value is None for value in known) else max(v for v in known if v is not None)


def _phases(snapshots: Sequence[Snapshot], facts: Facts, good: dict[Shell, float | None]) -> Phases:
    since = facts.fault_at
    detected = next((seen.at for seen in snapshots if seen.at >= since and _off(seen, facts)), None)
    published = published_at(snapshots, facts)
    first = min((at for at in good.values() if at is not None), default=None)
    return Phases(
        detect_s=_between(since, detected),
        promote_s=_between(since, facts.writable_at),
        resolve_s=_between(facts.writable_at, published),
        reconnect_s=_between(published, first),
    )


def published_at(snapshots: Iterable[Snapshot], facts: Facts) -> float | None:
    """When the library first named the new primary as the writer."""
    moments = (
        seen.at
        for seen in snapshots
        if seen.at >= facts.fault_at
        and facts.new_primary is not None
        and seen.writer == facts.new_primary
    )
    return next(moments, None)


def _off(seen: Snapshot, facts: Facts) -> bool:
    """The library doubts the old primary: suspected, dead, or not the writer any more."""
    old = facts.old_primary
    return old is not None and (
        seen.writer != old or seen.health.get(old, "gone") in ("suspect", "dead", "gone")
    )


def _between(start: float | None, end: float | None) -> float | None:
    return None if start is None or end is None else max(0.0, end - start)


def _late_acks(acked: Sequence[Write], snapshots: Sequence[Snapshot], facts: Facts) -> int:
    if facts.new_primary is None or facts.old_primary is None:
        return 0
    seen = [
        write.ended_at
        for write in acked
        if write.server == facts.new_primary and write.ended_at >= facts.fault_at
    ]
    published = published_at(snapshots, facts)
    seen += [published] if published is not None else []
    if not seen:
        return 0
    first = min(seen)
    return sum(write.server == facts.old_primary and write.ended_at > first for write in acked)


def _overdue(trace: Trace, deadline_s: float) -> int:
    """Errors, and HTTP answers, that came later than deadline + 100 ms."""
    limit_s = deadline_s + LIMITS.grace_s
    failed: list[Write | Read] = [write for write in trace.writes if write.error]
    failed += [read for read in trace.reads if read.error]
    slow = sum(done.ended_at - done.began_at > limit_s for done in failed)
    return slow + sum(
        _took(request) > request.deadline_s + LIMITS.grace_s for request in trace.requests
    )


def _took(request: Request) -> float:
    return request.ended_at - request.began_at


def _texts(trace: Trace) -> dict[str, int]:
    """What callers were told, each text with how often, the most frequent first."""
    texts: Counter[str] = Counter()
    texts.update(f"{write.way}: {write.error}" for write in trace.writes if write.error)
    texts.update(f"{read.way} read: {read.error}" for read in trace.reads if read.error)
    texts.update(f"http: {request.error}" for request in trace.requests if request.error)
    return dict(texts.most_common(8))
