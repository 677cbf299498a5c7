"""Proofs from the catalogue, for what a lost session leaves open.

* Has a transaction that has no id left anything behind?  (`only_read`)
* May what it did reach beyond its own transaction?  (`reached_far`)
* May the session have held what a new one hasn't?  (`bare`, `same_session`)
* Would doing it again do something twice?  (`not_twice`)

Each is asked on a session that was just made, never while nothing fails.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

from psycopg import errors as e
from psycopg.pq.abc import PGconn

from ...core.reach import Names, at_once
from ..errors import explained
from .catalogue import reached
from .statements import bared, traits

if TYPE_CHECKING:
    from ...core.reach import Asked
    from ..session.host import Gen
    from .catalogue import Reached
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
    beside = judge.journal.passed.names if asked is None else None
    asked = _asked(judge) if asked is None else asked
    found: Reached = yield from reached(pgconn, asked, "effect", beside)
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
        beside = judge.journal.passed.names
        found: Reached = yield from reached(pgconn, _asked(judge), "far", beside)
    except e.OperationalError as failure:
        return f"what nobody could be asked about ({failure})"
    return found.far


def same_session(judge: Judge, exc: e.Error) -> Gen:
    """The session is a new one.  Raises the failure where the old one may have held what this
    one hasn't."""
    left = yield from _left(judge, judge.journal.earlier)
    if left:
        raise explained(exc, f"not replayed: its session may have held what {left} left in it")


def bare(judge: Judge) -> Gen:
    """The session is a new one, and its last transaction has committed.  Raises where the old
    one may have held what this one hasn't: the next use hears of it."""
    journal = judge.journal
    left = yield from _left(judge, {*journal.earlier, *journal.asked()}, journal.passed.names)
    if left:
        raise e.OperationalError(f"the session may have held what {left} left")


def _left(judge: Judge, statements: Collection[Asked], beside: Names | None = None) -> Gen:
    """What may have left something in the session; empty: nothing."""
    before = judge.journal.earlier.names
    if before is not None:
        beside = before if beside is None else before | beside
    asked = [each for each in statements if _unheard(each)]
    if not asked and beside is None:
        return ""
    found: Reached = yield from reached(judge.wire.pgconn, asked, "sets", beside)
    unclear = beside.unclear if beside is not None else ""
    return found.sets or unclear


def not_twice(judge: Judge, exc: e.Error, doing: Asked | None = None) -> Gen:
    """Raises the failure where doing the transaction again, and `doing`, the statement that was
    under way, would do something twice."""
    again = [*judge.journal.asked(), *([doing] if doing is not None else [])]
    for query, _ in again:
        if done := at_once((bared(query) or query).decode("utf-8", "replace")):
            why = f"{done} takes effect at once, and would do so twice"
            raise explained(exc, f"not replayed: {why}")
    if again and not judge.wire.bounded:
        found = yield from reached(judge.wire.pgconn, again, "outside")
        if found.outside:
            why = f"{found.outside} takes effect at once, and would do so twice"
            raise explained(exc, f"not replayed: {why}")


def _unheard(asked: Asked) -> bool:
    """May it set something that the journal doesn't know of?"""
    return not traits(asked[0]).plain and b"set_config" not in asked[0].lower()
