"""From one run's history to the figures of its row.

    ── last good write ── fault ── … ── writable ── first good write ──
       └───────────────────── outage ──────────────────────┘
                                           └ after writable ┘

Pure.  A good write is one that was acknowledged; the first one after the fault must come from the
new primary.  Where nobody is promoted the outage is the longest time without a good write.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

from ..judge.history import Op
from .faults import PROMOTING, Story

__all__ = ["figures", "is_new", "told_errors"]


def figures(
    fault: str, ops: Sequence[Op], log: Iterable[tuple[float, str]], story: Story, ended_at: float
) -> dict[str, Any]:
    """Times in seconds, None: it didn't happen while we looked."""
    assert story.fault_at is not None
    since = story.fault_at
    good = sorted((op for op in ops if op.is_write and op.outcome == "ok"), key=_end)
    new = [op for op in good if is_new(op, story)]
    sessions = {op.session for op in good}
    first = {name: min(_end(op) for op in new if op.session == name)
             for name in {op.session for op in new}}  # fmt: skip
    served = first and sessions == first.keys()
    return {
        "outage_s": _ms(_outage(fault, good, new, since, ended_at)),
        "after_writable_s": _ms(_between(story.writable_at, min(first.values(), default=None))),
        "all_served_s": _ms(_between(story.writable_at, max(first.values()) if served else None)),
        "after_dns_s": _ms(_between(story.dns_changed_at, min(first.values(), default=None))),
        "writable_s": _ms(_between(since, story.writable_at)),
        "detect_s": _ms(_between(since, _reaction(ops, log, new, since))),
        "watched_s": _ms(ended_at - since),
        **told_errors(ops, since),
    }


def is_new(op: Op, story: Story) -> bool:
    """Whether this acknowledgement shows that the client has arrived."""
    since = story.new_since
    return (
        since is not None
        and op.outcome == "ok"
        and op.is_write
        and op.server == story.new_primary
        and op.ended_at >= since
    )


def _outage(
    fault: str, good: Sequence[Op], new: Sequence[Op], since: float, ended_at: float
) -> float | None:
    before = [op.ended_at for op in good if op.ended_at <= since][-1:] or [since]
    after = [op.ended_at for op in good if op.ended_at > since]
    if fault in PROMOTING:
        if not new:
            return None
        # a crash has no last good write after it, a zombie's clients may
        last = max([at for at in after if at < new[0].ended_at], default=before[0])
        gaps = [b - a for a, b in pairwise([*before, *after])]
        return max([new[0].ended_at - last, *gaps])
    if not after:
        return None
    return max(b - a for a, b in pairwise([*before, *after, max(ended_at, after[-1])]))


def _reaction(
    ops: Iterable[Op], log: Iterable[tuple[float, str]], new: Sequence[Op], since: float
) -> float | None:
    """The client's first sign: an error, a line in its own log, or an answer from elsewhere."""
    signs = [op.first_error_at for op in ops if op.first_error_at is not None]
    signs += [at for at, _ in log]
    signs += [op.ended_at for op in new[:1]]
    return min((at for at in signs if at >= since), default=None)


def told_errors(ops: Sequence[Op], since: float) -> dict[str, Any]:
    """`errors`: attempts that failed; `told`: operations that did, for the caller."""
    hit = [op for op in ops if op.ended_at >= since]
    failed = [op for op in hit if op.outcome != "ok"]
    stuck = [op for op in failed if op.outcome == "stuck"]
    attempts = sum(op.attempts - (op.outcome == "ok") for op in hit) - len(stuck)
    kinds = Counter(op.kind for op in failed)
    texts = Counter(op.error for op in failed if op not in stuck)
    return {
        "errors": attempts,
        "told": len(failed) - len(stuck),
        "told_by": dict(kinds),
        "stuck": len(stuck),
        "texts": dict(texts.most_common(4)),
    }


def _end(op: Op) -> float:
    return op.ended_at


def _between(start: float | None, end: float | None) -> float | None:
    return None if start is None or end is None else end - start


def _ms(value: float | None) -> float | None:
    return None if value is None else round(value, 4)
