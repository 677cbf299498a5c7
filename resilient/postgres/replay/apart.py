"""What isn't done again on another cluster: it has another history, and may lack what was read."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...monitor.sockets import Link

if TYPE_CHECKING:
    from .journal import Journal


def apart(journal: Journal | None, then: Link | None, now: Link | None) -> str:
    """Why a block that was begun on one session isn't replayed on the other, unless it has only
    read; empty: it may be.

    A server that doesn't tell its system identifier is taken for one of the same cluster.
    """
    before, after = (link.observed if link is not None else None for link in (then, now))
    if before is None or after is None or not (before.system_id and after.system_id):
        return ""
    if before.system_id == after.system_id or journal is None or not journal.entries:
        return ""
    return f"{before.system_id} and {after.system_id} are two clusters"
