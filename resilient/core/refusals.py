"""Who asks a server that refuses our credentials, when, and with which secret.

A wrong password must not cost a server more logins than its one asker's, however many pools,
workers and probes of a process wait for it:

* Whoever is refused makes the endpoint *refusing*.  One login at a time is tried there, after
  a pause that doubles from `FIRST_S` to `MOST_S`; everybody else does without.
* A secret that differs from the refused one is news: it is tried at once, but once only, so a
  source that gives another token each time gains nothing by it.
* Where a password is used, and was never tried or sessions have just been lost, the next login
  goes alone until it is answered: the loss may be the rotation.
* A login that succeeds ends it.  With another secret it ends it for that one: two pools may have
  two.
"""

from __future__ import annotations

import math
from collections.abc import Hashable
from dataclasses import field, replace

from .._dataclass import dataclass
from .model import Endpoint

#: the first pause and the longest, in seconds, before their jitter
FIRST_S, MOST_S = 3.0, 30.0
#: a login under way for longer holds nobody back
STUCK_S = 1.0
#: who waits for another's login looks again after this long
LOOK_S = 0.003
#: the answer to who should do without
NOT_NOW = math.inf


@dataclass(frozen=True, slots=True)
class Refusal:
    """One endpoint's.  `times`: refusals in a row; 0: it is only doubted.  `secret`: the one that
    was refused last.  `next_s`: when it is asked again, `asked_s`: since when somebody does.
    `fresh`: another secret has had its turn; `proven`: this one has let somebody in.  `words`: the
    server's."""

    times: int = 0
    secret: Hashable = None
    next_s: float = -math.inf
    asked_s: float = -math.inf
    fresh: bool = False
    proven: Hashable = None
    words: str = ""


@dataclass(frozen=True, slots=True)
class Refusals:
    """All endpoints of a cluster, as one process sees them.  Methods return a new one."""

    known: dict[Endpoint, Refusal] = field(default_factory=dict)

    def doubted(self, endpoint: Endpoint) -> Refusals:
        """One login goes ahead of the others: nobody knows yet whether it is the right secret."""
        return self if endpoint in self.known else self._put(endpoint, Refusal())

    def lost(self, endpoint: Endpoint) -> Refusals:
        """Sessions there were lost: that may be the rotation.  Where others refuse, one login is
        due at once: one of them may be needed now, and may have learnt the user since."""
        due = {
            where: replace(one, next_s=-math.inf) if where != endpoint and one.times else one
            for where, one in self.known.items()
        }
        return replace(self, known={endpoint: Refusal(), **due})

    def ask(self, endpoint: Endpoint, secret: Hashable, now: float) -> tuple[Refusals, float]:
        """May somebody log in?  0 seconds: he does, and says how it ended; `NOT_NOW`: he does
        without; else he looks again then."""
        one = self.known.get(endpoint)
        if one is None or (one.times and secret == one.proven):
            return self, 0.0
        if now - one.asked_s < STUCK_S:
            return self, LOOK_S if one.times == 0 else NOT_NOW
        fresh = one.times > 0 and secret != one.secret and not one.fresh
        if not fresh and now < one.next_s:
            return self, NOT_NOW
        return self._put(endpoint, replace(one, asked_s=now, fresh=one.fresh or fresh)), 0.0

    def refused(
        self, endpoint: Endpoint, secret: Hashable, now: float, draw: float, words: str = ""
    ) -> Refusals:
        """Its credentials were.  `draw` is a number from [0, 1)."""
        one = self.known.get(endpoint) or Refusal()
        pause_s = min(FIRST_S * 2**one.times, MOST_S) * (0.9 + 0.2 * draw)
        if now < one.next_s and not one.fresh:
            return self  # of several that were under way at once
        return self._put(
            endpoint,
            replace(
                one,
                times=min(one.times + 1, 16),
                secret=secret,
                next_s=now + pause_s,
                asked_s=-math.inf,
                proven=None if secret == one.proven else one.proven,
                words=words,
            ),
        )

    def over(self, endpoint: Endpoint, secret: Hashable, connected: bool) -> Refusals:
        """A login has ended, well or for a reason of its own."""
        one = self.known.get(endpoint)
        if one is None:
            return self
        if one.times == 0 or (connected and secret == one.secret):
            left = {where: other for where, other in self.known.items() if where != endpoint}
            return replace(self, known=left)
        one = replace(one, asked_s=-math.inf)
        if connected:
            one = replace(one, times=1, fresh=False, proven=secret)
        return self._put(endpoint, one)

    def refusing(self, endpoint: Endpoint) -> bool:
        """Were credentials refused there last?"""
        one = self.known.get(endpoint)
        return one is not None and one.times > 0

    def words(self, endpoint: Endpoint) -> str:
        """What the server said as it refused them last."""
        one = self.known.get(endpoint)
        return (one.words if one is not None else "") or "credentials were refused just now"

    def _put(self, endpoint: Endpoint, one: Refusal) -> Refusals:
        return replace(self, known={**self.known, endpoint: one})
