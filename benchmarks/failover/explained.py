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
TOLD = (
    "ours tells of a COMMIT whose reply was lost (CommitOutcomeUnknown), and the naive loop, which "
    "asks for no reason, takes it for a failure; the peer had none under way, or waited for longer"
)
IN_PLACE = (
    "every session of the peer dials every 50 ms, so that one is there within 10 ms, with hundreds "
    "of errors and logins; ours knocks at the dead server once in 25 to 50 ms, for all of them"
)
RECOVERY = (
    "how long the servers' restart (crash recovery) takes differs by some 0.1 s from run to run"
)
SLOW = "three seconds of slowness fall differently on few transactions: chance"

#: (column, fault or "", endpoint or "", way or "", reason); the first that fits
REASONS: tuple[tuple[str, str, str, str, str], ...] = (
    ("connections", "", "", "", CONNECTIONS),
    ("after_writable_s", "flap", "", "", IN_PLACE),
    (BEYOND, "flap", "", "", RECOVERY),
    (BEYOND, "brownout", "", "", SLOW),
    ("after_writable_s", "", "cname", "", RESOLVES),
    ("after_writable_s", "", "", "", PHASE),
    (BEYOND, "", "cname", "", RESOLVES),
    (BEYOND, "", "", "", TOGETHER),
    ("errors", "", "", "retry", TOLD),
    ("errors", "", "", "", KNOWN),
    ("duplicated", "", "", "retry", NAIVE),
)


def why(found: Beaten) -> str:
    """In a sentence."""
    cell = found.ours
    for column, fault, endpoint, way, text in REASONS:
        known = fault in ("", cell.fault) and endpoint in ("", cell.endpoint)
        if column == found.column and known and way in ("", cell.way):
            return text
    return UNEXPLAINED
