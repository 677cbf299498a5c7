"""What isn't done again on another cluster: it has another history, and may lack what was read."""

from __future__ import annotations

from ..monitor.sockets import Link
from .journal import Journal
from .statements import traits


def apart(journal: Journal | None, then: Link | None, now: Link | None) -> str:
    """Why a block that was begun on one session isn't replayed on the other; empty: it may be.

    A block that has just read may.  A server that doesn't tell its system identifier is taken
    for one of the same cluster.
    """
    before, after = (link.observed if link is not None else None for link in (then, now))
    if before is None or after is None or not (before.system_id and after.system_id):
        return ""
    if before.system_id == after.system_id or journal is None:
        return ""
    done = [traits(entry.query) for entry in journal.entries]
    if all(what.reads or what.begins for what in done):
        return ""
    return f"{before.system_id} and {after.system_id} are two clusters"
