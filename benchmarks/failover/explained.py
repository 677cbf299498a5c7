"""Why a peer is better where it is.  What isn't explained here says so in the report."""

from __future__ import annotations

from .summary import Beaten

__all__ = ["why"]

UNEXPLAINED = "not explained yet"

#: (column, fault or "", way or "", reason); the first that fits
REASONS: tuple[tuple[str, str, str, str], ...] = (
    (
        "connections",
        "",
        "",
        "the peer keeps a whole pool on every host (hasql), or dials fewer times; ours keeps one "
        "connection warm on each replica and its monitor's own, and dials the rest anew",
    ),
    (
        "after_writable_s",
        "crash",
        "",
        "chance of the phase: both look every 50 ms, the peer by opening connections to all hosts "
        "(see conn. and errors), ours over one that it has",
    ),
    (
        "after_writable_s",
        "switchover",
        "",
        "as after a crash: a loop that dials all hosts every 50 ms may hit the moment sooner",
    ),
    (
        "after_writable_s",
        "",
        "",
        "as after a crash: whoever dials all hosts every 50 ms looks more often than we do",
    ),
    (
        "outage_s",
        "",
        "",
        "promotion and the time after it together: the promotion differs by tens of milliseconds "
        "from run to run, the rest is explained under after writable",
    ),
    (
        "errors",
        "",
        "plain",
        "a block whose COMMIT was under way can't be done again, and ours says so "
        "(CommitOutcomeUnknown); the peer had nothing under way in that moment",
    ),
    (
        "duplicated",
        "",
        "retry",
        "a naive loop does a write again whose outcome is unknown, whatever the library says",
    ),
)


def why(found: Beaten) -> str:
    """In a sentence."""
    cell = found.ours
    for column, fault, way, text in REASONS:
        if column == found.column and fault in ("", cell.fault) and way in ("", cell.way):
            return text
    return UNEXPLAINED
