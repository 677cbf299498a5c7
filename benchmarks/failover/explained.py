"""Why a peer is better where it is.  What isn't explained here says so in the report."""

from __future__ import annotations

from .summary import BEYOND, Beaten

__all__ = ["why"]

UNEXPLAINED = "not explained yet"

CONNECTIONS = (
    "the peer keeps a whole pool on every host (hasql), or dials fewer times; ours keeps one "
    "connection warm on each replica and its monitor's own, and dials the rest anew"
)
RESOLVES = (
    "the peer resolves the name at every try, every 50 ms, with hundreds of errors; ours asks DNS "
    "four times a second, and its callers wait"
)
PHASE = (
    "chance of the phase: the peer opens connections to all hosts every 50 ms (see conn. and "
    "errors); ours is told by a standby within 10 ms, and waits until one confirms the COMMIT"
)
TOGETHER = "a promotion takes tens of ms more or less from run to run; else as after writable"
KNOWN = (
    "a block whose COMMIT was under way can't be done again, and ours says so "
    "(CommitOutcomeUnknown); the peer had nothing under way in that moment"
)
NAIVE = "a naive loop does a write again whose outcome is unknown, whatever the library says"

#: (column, endpoint or "", way or "", reason); the first that fits
REASONS: tuple[tuple[str, str, str, str], ...] = (
    ("connections", "", "", CONNECTIONS),
    ("after_writable_s", "cname", "", RESOLVES),
    ("after_writable_s", "", "", PHASE),
    (BEYOND, "cname", "", RESOLVES),
    (BEYOND, "", "", TOGETHER),
    ("errors", "", "plain", KNOWN),
    ("duplicated", "", "retry", NAIVE),
)


def why(found: Beaten) -> str:
    """In a sentence."""
    cell = found.ours
    for column, endpoint, way, text in REASONS:
        if column == found.column and endpoint in ("", cell.endpoint) and way in ("", cell.way):
            return text
    return UNEXPLAINED
