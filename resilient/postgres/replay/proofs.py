"""Proofs from the catalogue, for what a lost session leaves open.

* Has a transaction that has no id left anything behind?  (`only_read`)
* May what it did reach beyond its own transaction?  (`reached_far`)
* May the session have held what a new one hasn't?  (`bare`, `same_session`)
* Would doing it again do something twice?  (`not_twice`)

Each is asked on a session that was just made, never while nothing fails.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from psycopg import errors as e
from psycopg.pq.abc import PGconn

from ...core.reach import at_once
from ..errors import explained
from .catalogue import reached
from .statements import bared, traits

if TYPE_CHECKING:
    from ..session.host import Gen
    from .catalogue import Asked, Reached
    from .judge import Judge

#: what cursors did that the connection didn't make
UNSEEN = "a statement of a cursor that the connection didn't make"


def _asked(judge: Judge) -> list[Asked]:
    """All statements of the transaction under way, with the settings of its session."""
    kept = [(entry.query, entry.types) for entry in judge.session.settings]
    return [*judge.journal.asked(), *kept]


def only_read(judge: Judge, pgconn: PGconn, asked: list[Asked] | None = None) -> Gen:
    """What the statements, by default the transaction's, may have left behind although they
    left no id; empty: they have only read."""
    if asked is None and judge.journal.unseen:
        return UNSEEN
    if judge.session.hazard:
        return judge.session.hazard
    found: Reached = yield from reached(pgconn, _asked(judge) if asked is None else asked)
    return found.effect


def reached_far(judge: Judge, pgconn: PGconn | None) -> Gen:
    """What of the transaction commits by itself, wherever it did; empty: nothing."""
    if judge.wire.bounded:
        return ""
    if judge.journal.unseen:
        return UNSEEN
    if pgconn is None:
        return "what nobody could be asked about"
    try:
        found: Reached = yield from reached(pgconn, _asked(judge), deep=True)
    except e.OperationalError as failure:
        return f"what nobody could be asked about ({failure})"
    return found.far


def same_session(judge: Judge, exc: e.Error) -> Gen:
    """The session is a new one.  Raises the failure where the old one may have held what this
    one hasn't."""
    earlier = [asked for asked in judge.journal.earlier if _unheard(asked)]
    if earlier:
        found: Reached = yield from reached(judge.wire.pgconn, earlier, deep=True)
        if found.sets:
            why = f"its session may have held what {found.sets} left in it"
            raise explained(exc, f"not replayed: {why}")


def bare(judge: Judge) -> Gen:
    """The session is a new one, and its last transaction has committed.  Raises where the old
    one may have held what this one hasn't: the next use hears of it."""
    journal = judge.journal
    asked = [asked for asked in {*journal.earlier, *journal.asked()} if _unheard(asked)]
    if asked:
        found: Reached = yield from reached(judge.wire.pgconn, asked, deep=True)
        if found.sets:
            raise e.OperationalError(f"the session may have held what {found.sets} left")


def not_twice(judge: Judge, exc: e.Error, doing: Asked | None = None) -> Gen:
    """Raises the failure where doing the transaction again, and `doing`, the statement that was
    under way, would do something twice."""
    again = [*judge.journal.asked(), *([doing] if doing is not None else [])]
    for query, _ in again:
        if done := at_once((bared(query) or query).decode("utf-8", "replace")):
            why = f"{done} takes effect at once, and would do so twice"
            raise explained(exc, f"not replayed: {why}")
    if again and not judge.wire.bounded:
        found = yield from reached(judge.wire.pgconn, again, deep=True)
        if found.outside:
            why = f"{found.outside} takes effect at once, and would do so twice"
            raise explained(exc, f"not replayed: {why}")


def _unheard(asked: Asked) -> bool:
    """May it set something that the journal doesn't know of?"""
    return not traits(asked[0]).plain and b"set_config" not in asked[0].lower()
