"""Proofs from the catalogue, for what a lost session leaves open.

* Has a transaction that has no id left anything behind?  (`_only_read`)
* May what it did reach beyond its own transaction?  (`_reached_far`)
* May the session have held what a new one hasn't?  (`_go_on`)

Each is asked on a session that was just made, never while nothing fails.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

from psycopg import errors as e

from ...core.reach import at_once
from ..commit.facts import Witness
from ..errors import explained
from .catalogue import Asked, Reached, reached
from .failures import FailureMixin
from .statements import bared, traits

Gen = Generator[Any, Any, Any]

#: what cursors did that the connection didn't make
UNSEEN = "a statement of a cursor that the connection didn't make"


class ProofMixin(FailureMixin):
    """Asks what statements may reach."""

    @property
    def _core(self) -> Any:
        """The decisions of the pool that it belongs to."""
        return self._pool._core  # type: ignore[union-attr]

    def _asked(self) -> list[Asked]:
        """All statements of the transaction under way, with the settings of its session."""
        journal = self._journal
        assert journal is not None
        kept = [(entry.query, entry.types) for entry in self._session.settings]
        return [*journal.asked(), *kept]

    def _only_read(self, fresh: Any, asked: list[Asked] | None = None) -> Gen:
        """What the statements, by default the transaction's, may have left behind although they
        left no id; empty: they have only read."""
        journal = self._journal
        if asked is None and journal is not None and journal.unseen:
            return UNSEEN
        if self._session.hazard:
            return self._session.hazard
        found: Reached = yield from reached(fresh.pgconn, self._asked() if asked is None else asked)
        return found.effect

    def _reached_far(self, fresh: Any) -> Gen:
        """What of the transaction commits by itself, wherever it did; empty: nothing."""
        journal = self._journal
        seen = self._link.witness if self._link is not None else None
        if journal is None or (isinstance(seen, Witness) and not seen.beyond):
            return ""
        if journal.unseen:
            return UNSEEN
        if fresh is None:
            return "what nobody could be asked about"
        try:
            found: Reached = yield from reached(fresh.pgconn, self._asked(), deep=True)
        except e.OperationalError as failure:
            return f"what nobody could be asked about ({failure})"
        return found.far

    def _go_on(self, exc: e.Error, doing: Asked | None) -> Gen:
        """The session is a new one.  Raises the failure where the old one may have held what this
        one hasn't, or where doing the transaction again, and `doing`, the statement that was under
        way, would do something twice."""
        journal = self._journal
        if journal is None:
            return
        earlier = [asked for asked in journal.earlier if _unheard(asked)]
        if earlier:
            found: Reached = yield from reached(self.pgconn, earlier, deep=True)
            if found.sets:
                why = f"its session may have held what {found.sets} left in it"
                raise explained(exc, f"not replayed: {why}")
        yield from self._not_twice(exc, doing)

    def _bare(self) -> Gen:
        """The session is a new one, and its last transaction has committed.  Raises where the old
        one may have held what this one hasn't: the next use hears of it."""
        journal = self._journal
        assert journal is not None
        asked = [asked for asked in {*journal.earlier, *journal.asked()} if _unheard(asked)]
        if asked:
            found: Reached = yield from reached(self.pgconn, asked, deep=True)
            if found.sets:
                raise e.OperationalError(f"the session may have held what {found.sets} left")

    def _not_twice(self, exc: e.Error, doing: Asked | None) -> Gen:
        """Raises the failure where doing the transaction again would do something twice."""
        journal = self._journal
        assert journal is not None
        seen = self._link.witness if self._link is not None else None
        again = [*journal.asked(), *([doing] if doing is not None else [])]
        for query, _ in again:
            if done := at_once((bared(query) or query).decode("utf-8", "replace")):
                why = f"{done} takes effect at once, and would do so twice"
                raise explained(exc, f"not replayed: {why}")
        if again and not (isinstance(seen, Witness) and not seen.beyond):
            found = yield from reached(self.pgconn, again, deep=True)
            if found.outside:
                why = f"{found.outside} takes effect at once, and would do so twice"
                raise explained(exc, f"not replayed: {why}")


def _unheard(asked: Asked) -> bool:
    """May it set something that the journal doesn't know of?"""
    return not traits(asked[0]).plain and b"set_config" not in asked[0].lower()
