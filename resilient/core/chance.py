"""Dialling where the last answer didn't fit, because the next server may.

Behind an address may stand several servers, and a new connection meets another one.  So where
nobody fits, an address that answers is dialled all the same, as a bare pool does:

    a group, which is proved     at once, then after `GROUP_S`, growing up to `GROUP_MOST_S`
    the only one that answers    after `LONE_S`, growing up to `LONE_MOST_S`

One that leads to a single server says the same each time, so the pauses grow.  A connection that
fits begins them anew.  They are those of the process, not of each worker, and all clients of a
server together dial it so `MOST` times a second at most.
"""

from __future__ import annotations

from dataclasses import field, replace

from .._dataclass import dataclass
from .model import EndpointView

#: the first pause and the longest, in seconds, and how it grows
GROUP_S, GROUP_MOST_S = 0.1, 2.0
LONE_S, LONE_MOST_S = 1.0, 5.0
GROWTH = 2.0
#: dials a second of one server, by all clients that it tells of
MOST = 200.0

Key = tuple[str, int, str]


@dataclass(frozen=True, slots=True)
class Chances:
    """All addresses of a cluster, as one process sees them.  Methods return a new one.

    `next_s`: for each, when it may be dialled next (monotonic seconds), and the pause after that.
    """

    next_s: dict[Key, tuple[float, float]] = field(default_factory=dict)

    def ask(
        self, key: Key, view: EndpointView, clients: int, now: float, draw: float
    ) -> tuple[Chances, float]:
        """May it be dialled now?  0 seconds: it is; else ask again then.

        `clients`: of its server, this one included; 0: not known.  `draw` is from [0, 1).
        """
        first_s, most_s = (GROUP_S, GROUP_MOST_S) if view.group else (LONE_S, LONE_MOST_S)
        known = self.next_s.get(key)
        if known is None:
            if not view.group:
                pause_s = self._spread(first_s, clients, draw)
                return self._put(key, now + pause_s, first_s), pause_s
            known = (now, first_s)
        next_s, pause_s = known
        if now < next_s:
            return self, next_s - now
        then = now + self._spread(pause_s, clients, draw)
        return self._put(key, then, min(pause_s * GROWTH, most_s)), 0.0

    def met(self, key: Key) -> Chances:
        """A connection there fits."""
        if key not in self.next_s:
            return self
        return replace(self, next_s={k: at for k, at in self.next_s.items() if k != key})

    def _put(self, key: Key, next_s: float, pause_s: float) -> Chances:
        return replace(self, next_s={**self.next_s, key: (next_s, pause_s)})

    @staticmethod
    def _spread(pause_s: float, clients: int, draw: float) -> float:
        return max(pause_s, clients / MOST) * (0.75 + draw / 2)
