"""What a pool has learnt of its servers: how COMMITs are resolved, whether what is prepared stays,
which statements only read.  Written by any thread; a race loses a line of it, never invents one.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING

from ..._logs import Line
from ...core.reach import Asked
from ..replay.statements import CACHED_BYTES

if TYPE_CHECKING:
    from .facts import CommitFacts

#: a catalogue is asked about reads this often at most, in seconds; what it said is good for so
#: long after the last question, and for so many statements
LEARN_S, LEARNT_S, MOST_LEARNT = 0.2, 60.0, 4096
#: a read that the question has followed so often is looked up there, so many of them at once
OFTEN, AT_ONCE = 5, 4
#: after how many more the last idle connection is taken for that, and then its caller's own: it
#: costs one of them some 20 ms, and every block some 20 µs as long as nobody asks
VERY_OFTEN, TOO_OFTEN = 64, 1024

#: what one session was told of its server is good for others for so long, in seconds
LATELY_S = 5.0

logger = logging.getLogger("resilient.postgres")


class Knowledge:
    """Of one pool and its replicas'."""

    def __init__(self, resolver: str, labels: Callable[[], Mapping[str, str]] = dict) -> None:
        """`labels`: what its lines say of the pool."""
        self._labels = labels
        self._resolver = resolver
        self._resolver_told = False
        #: the ledger takes tokens, as far as is known
        self.ledger_works = True
        #: what is prepared in a session stays there
        self.names_last = True
        #: what a session was told last, with its user and database, and when
        self._met: tuple[object, CommitFacts, float] | None = None
        #: statements that the catalogue has shown to only read, and when it was last asked
        self.proved: set[Asked] = set()
        #: it has shown nothing of these
        self._unproved: set[Asked] = set()
        #: reads that aren't proved, and how often the question has followed each
        self._followed: dict[Asked, int] = {}
        self._learnt_at = self._asked_at = float("-inf")

    def resolves(self, ledger: bool | None) -> None:
        """A server was met; `ledger`: it has the table, and lets us write to it.  Says, once, how
        its COMMITs are resolved."""
        if self._resolver_told:
            return
        self._resolver_told = True
        resolver = self._resolver
        if resolver == "auto":
            if ledger is False:
                why = "resilient.commits is there, and this role may not INSERT into it"
                said = {"resolver": "lsn", "reason": why, **self._labels()}
                logger.warning("%s", Line(step="resolver", **said))
                return
            resolver = "ledger" if ledger else "lsn"
        logger.info("%s", Line(step="resolver", resolver=resolver, **self._labels()))

    def met(self, who: object, seen: CommitFacts) -> None:
        """A session of this user and database has asked its server."""
        self._met = (who, seen, time.monotonic())

    def lately(self, who: object) -> CommitFacts | None:
        """What another one of them was told, if that was a moment ago."""
        if self._met is None or self._met[0] != who:
            return None
        return self._met[1] if time.monotonic() - self._met[2] < LATELY_S else None

    def ledger_fails(self, exc: BaseException) -> None:
        """It took no token: COMMITs are resolved without it from here on."""
        if self.ledger_works:
            self.ledger_works = False
            said = {"resolver": "lsn", "reason": brief(exc), **self._labels()}
            logger.warning("%s", Line(step="resolver", **said))

    def names_fail(self, exc: BaseException) -> None:
        """A statement that was prepared isn't there: nothing of ours is prepared from here on."""
        if self.names_last:
            self.names_last = False
            logger.warning("%s", Line(step="unprepared", reason=brief(exc), **self._labels()))

    def _claims(self) -> bool:
        """Is it time to ask a catalogue again?  Then who is told so does, and nobody else."""
        now = time.monotonic()
        if now - self._asked_at <= LEARN_S:
            return False
        self._asked_at = now
        return True

    def unproved(self, block: Iterable[Asked]) -> list[Asked]:
        """A block wrote a token and no more.  Those of its statements that the catalogue is to be
        asked about now: once it shows that all of them can only read, it writes none."""
        asked = [
            each
            for each in dict.fromkeys(block)
            if each not in self.proved and len(each[0]) <= CACHED_BYTES
        ]
        if not asked or not self._unproved.isdisjoint(asked):
            return []
        return asked[:AT_ONCE] if self._claims() else []

    def followed(self, reads: Iterable[Asked]) -> list[Asked]:
        """The question for a transaction's id has followed these, which look like reads.  Those
        that the catalogue is to be asked about now: once it shows that they can only read, nothing
        has to follow them."""
        often = []
        for asked in reads:
            if asked in self.proved or asked in self._unproved or len(asked[0]) > CACHED_BYTES:
                continue
            times = self._followed[asked] = self._followed.get(asked, 0) + 1
            if times >= OFTEN:
                often.append(asked)
        if len(self._followed) > MOST_LEARNT:  # statements that are never the same
            self._followed = {}
        return often[:AT_ONCE] if often and self._claims() else []

    def worth(self, asked: Asked) -> int:
        """Where so many connections are idle, one of them may ask about it: 2, 1, or 0, which
        means the caller's own."""
        times = self._followed.get(asked, 0)
        return 2 if times < VERY_OFTEN else 1 if times < TOO_OFTEN else 0

    def learnt(self, proved: Iterable[Asked], unproved: Iterable[Asked] = ()) -> None:
        """The catalogue was asked; these only read, and of those it has shown nothing.  That is
        good for a while: a view may be made anew.  Then a token is missing where one was needed,
        or an id, and the catalogue is asked again when a COMMIT was lost: it makes that unknown,
        never a false success."""
        self._forget_old()
        proved, unproved = set(proved), set(unproved)
        self.proved |= proved
        self._unproved |= unproved
        for asked in (*proved, *unproved):
            self._followed.pop(asked, None)

    def _forget_old(self) -> None:
        now = time.monotonic()
        most = max(len(self.proved), len(self._unproved))
        if now - self._learnt_at > LEARNT_S or most > MOST_LEARNT:
            self.proved, self._unproved = set(), set()
        self._learnt_at = now


def brief(exc: BaseException) -> str:
    """An exception's text on one line."""
    return " ".join(str(exc).split())
