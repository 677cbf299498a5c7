"""Measurements against limits: what is broken, in words with both numbers; and the JSON form."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from statistics import median

from .checker import Finding
from .limits import BY_NAME, LIMITS, PROMPT, SILENT, Limits
from .plan import EXEC

__all__ = ["as_json", "beyond", "broken", "judge"]


def judge(findings: Sequence[Finding], limits: Limits = LIMITS) -> list[tuple[str, ...]]:
    """For each run the limits that it broke; a fault's median counts against its last run."""
    verdicts = [list(broken(finding, limits)) for finding in findings]
    for group in _groups(findings):
        verdicts[group[-1]] += _median(list(map(findings.__getitem__, group)), limits)
    return [tuple(verdict) for verdict in verdicts]


def broken(finding: Finding, limits: Limits = LIMITS) -> Iterator[str]:
    """The limits that one run broke by itself."""
    if finding.trouble:
        yield finding.trouble
    for name in finding.stuck:
        yield f"stuck: {name}"
    yield from _counts(finding, limits)
    if finding.case.is_failover:
        yield from _times(finding, limits)


def beyond(finding: Finding, rto_s: float) -> Iterator[str]:
    """The outage against an objective of the operator's."""
    if finding.outage_s is None:
        if not finding.trouble:
            yield "no good write after the failover"
    else:
        yield from _later("outage", finding.outage_s, rto_s)


def _counts(finding: Finding, limits: Limits) -> Iterator[str]:
    http = limits.http_errors
    if finding.facts.synchronous:
        yield from _above("acknowledged writes lost", finding.lost, limits.lost)
        yield from _above("writes applied twice", finding.duplicated, limits.duplicated)
    yield from _above("errors through run", finding.errors_run, limits.errors)
    yield from _above("errors of reads", finding.errors_read, limits.errors)
    yield from _above("ghost writes through run", finding.ghosts_run, limits.ghosts)
    yield from _above("late acknowledgements", finding.late_acks, limits.late_acks)
    yield from _above("failed idempotent requests", finding.errors_http, http)
    yield from _above("later than the deadline", finding.overdue, 0)
    if finding.acked == 0 and not finding.trouble:
        yield "no write was acknowledged"


def _above(what: str, value: int, limit: int) -> Iterator[str]:
    if value > limit:
        yield f"{what}: {value}" + (f" > {limit}" if limit else "")


def _times(finding: Finding, limits: Limits) -> Iterator[str]:
    case, facts = finding.case, finding.facts
    if finding.after_writable_s is None:
        if not finding.trouble:
            yield "no good write after the failover"
        return
    if case.endpoint == "cname":
        limit = facts.ttl_s + limits.after_dns_s
        if case.fault in BY_NAME and finding.after_dns_s is not None:
            yield from _later("first good write after DNS changed", finding.after_dns_s, limit)
        return
    if case.fault in PROMPT:
        limit = limits.after_writable_s
        yield from _later("first good write after writable", finding.after_writable_s, limit)
    if case.fault in SILENT and finding.outage_s is not None:
        late = max(0.0, case.promote_after_s - limits.outage_promote_after_s)
        yield from _later("outage", finding.outage_s, limits.outage_s + late)


def _later(what: str, value_s: float, limit_s: float) -> Iterator[str]:
    if value_s > limit_s:
        yield f"{what}: {value_s:.3f} s > {limit_s:.3f} s"


def _groups(findings: Sequence[Finding]) -> Iterable[list[int]]:
    groups: dict[tuple[str, str], list[int]] = {}
    for index, finding in enumerate(findings):
        groups.setdefault((finding.case.fault, finding.case.endpoint), []).append(index)
    return groups.values()


def _median(group: Sequence[Finding], limits: Limits) -> Iterator[str]:
    case = group[0].case
    times = [f.after_writable_s for f in group if f.after_writable_s is not None]
    if case.fault in PROMPT and case.endpoint == "multi" and times:
        what = f"median of {len(times)}: first good write after writable"
        yield from _later(what, median(times), limits.after_writable_median_s)


def as_json(finding: Finding, verdict: Sequence[str]) -> dict[str, object]:
    """One run as one JSON object; seconds and counts, null where something didn't happen.

    `errors`: seen by callers through run, reads and HTTP.  Those of plain blocks and unknown
    outcomes are counted apart.  `runs`: of this fault and endpoint kind, `run` is which of them.
    """
    case = finding.case
    return {
        "fault": case.fault,
        "endpoint": case.endpoint,
        "run": case.number,
        "runs": case.of,
        "promote_after_s": case.promote_after_s if case.is_failover else None,
        "dns_after_s": case.dns_after_s if case.fault != EXEC else None,
        "old_primary": finding.facts.old_primary,
        "new_primary": finding.facts.new_primary,
        "writable_s": _ms(finding.writable_s),
        "outage_s": _ms(finding.outage_s),
        "after_writable_s": _ms(finding.after_writable_s),
        "after_writable_by_shell_s": {k: _ms(v) for k, v in finding.by_shell.items()},
        "after_dns_s": _ms(finding.after_dns_s),
        "errors": finding.errors_run + finding.errors_read + finding.errors_http,
        "errors_by": _errors_by(finding),
        "error_texts": finding.error_texts,
        "unknown": finding.unknown,
        "unknown_present": finding.unknown_present,
        "acked": finding.acked,
        "lost": finding.lost,
        "duplicated": finding.duplicated,
        "ghost": finding.ghosts_run + finding.ghosts_plain,
        "ghost_by": {"run": finding.ghosts_run, "plain": finding.ghosts_plain},
        "late_acks": finding.late_acks,
        "overdue": finding.overdue,
        "reads": finding.reads,
        "requests": finding.requests,
        "slowest_request_s": _ms(finding.slowest_request_s),
        "phases": {name: _ms(value) for name, value in asdict(finding.phases).items()},
        "synchronous": finding.facts.synchronous,
        "stuck": list(finding.stuck),
        "trouble": finding.trouble or None,
        "ok": not verdict,
        "broken": list(verdict),
    }


def _errors_by(finding: Finding) -> dict[str, int]:
    return {
        "run": finding.errors_run,
        "plain": finding.errors_plain,
        "read": finding.errors_read,
        "http": finding.errors_http,
    }


def _ms(value: float | None) -> float | None:
    return None if value is None else round(value, 4)
