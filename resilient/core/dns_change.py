"""What a new answer changes, and how often a name may be asked around the cache.

Rules of this file: decided from the answers themselves.  A name is `strict` (an address that
is no longer answered is gone) until its answers show that each is only a subset of what
stands behind it; then it is `rotating`, and an address goes only when it is absent *and*
dead, or absent from several answers in a row.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Mapping
from dataclasses import field
from itertools import islice

from .._dataclass import dataclass
from .dns import Answer, Change, Family, Mode

__all__ = ["BypassLimiter", "Detector"]

#: answers in a row that an address of a rotating name must be absent from to be gone
ABSENCES = 3
#: addresses that left and came back within this many answers
COMEBACK_WITHIN = 8
#: so many comebacks make a name rotating; one alone is a failover and its failback
COMEBACKS = 2


@dataclass(slots=True)
class _History:
    """What one (name, family) answered so far."""

    last: Answer
    #: known address → answers in a row that lacked it
    absences: dict[str, int]
    rotating: bool = False
    left: deque[str] = field(default_factory=lambda: deque(maxlen=COMEBACK_WITHIN))
    comebacks: int = 0


class Detector:
    """Turns successive answers into `Change`s.  Bounded: the least recently answered name
    is forgotten, except those for which `keep` is true."""

    def __init__(
        self,
        modes: Mapping[str, str],
        size: int,
        keep: Callable[[tuple[str, Family]], bool],
    ) -> None:
        self._modes = modes
        self._size = max(size, 16)
        self._keep = keep
        self._histories: OrderedDict[tuple[str, Family], _History] = OrderedDict()

    def observe(
        self, name: str, family: Family, new: Answer, dead: frozenset[str] = frozenset()
    ) -> Change | None:
        """Take in an answer; a `Change` if it differs in what a client should dial.

        The first answer of a name is no change.  `dead` are addresses known not to respond.
        """
        key = (name, family)
        history = self._histories.get(key)
        if history is None:
            self._histories[key] = _History(new, dict.fromkeys(new.addresses, 0))
            self._trim()
            return None
        self._histories.move_to_end(key)
        old, history.last = history.last, new
        if old.canonical_name != new.canonical_name:
            return self._moved(name, history, old, new)
        answered, before = frozenset(new.addresses), frozenset(old.addresses)
        _learn(history, before, answered)
        if self._mode(name, history) == "rotating":
            return _rotated(name, history, old, new, dead)
        if answered == frozenset(history.absences) and old.chain == new.chain:
            return None
        return _replaced(name, history, old, new)

    def mode(self, name: str, family: Family) -> Mode:
        """The mode of a name as it is known now; `strict` before its first answers."""
        return self._mode(name, self._histories.get((name, family)))

    def _mode(self, name: str, history: _History | None) -> Mode:
        forced = self._modes.get(name.removesuffix("."))
        if forced is not None:
            return "strict" if forced == "strict" else "rotating"
        return "rotating" if history is not None and history.rotating else "strict"

    def _moved(self, name: str, history: _History, old: Answer, new: Answer) -> Change | None:
        """The alias leads elsewhere: what was learnt of the old target doesn't hold there."""
        if self._modes.get(name.removesuffix(".")) == "rotating":
            return _rotated(name, history, old, new, frozenset())
        history.rotating, history.comebacks = False, 0
        history.left.clear()
        return _replaced(name, history, old, new)

    def _trim(self) -> None:
        spare = len(self._histories) - self._size
        if spare > 0:
            # The oldest are looked at, not all: each new name brings one that has to go.
            loose = (key for key in self._histories if not self._keep(key))
            for key in list(islice(loose, spare)):
                del self._histories[key]


def _learn(history: _History, before: frozenset[str], answered: frozenset[str]) -> None:
    """Does this name answer with subsets?  Yes if two different answers of one family
    overlap, or if addresses that left keep coming back (one at a time of several)."""
    if before == answered:
        return
    for six in (False, True):
        old, new = _of(before, six), _of(answered, six)
        if old != new and old & new:
            history.rotating = True
    back = [address for address in answered - before if address in history.left]
    history.comebacks += len(back) > 0
    if history.comebacks >= COMEBACKS:
        history.rotating = True
    history.left.extend(before - answered)


def _of(addresses: frozenset[str], six: bool) -> frozenset[str]:
    return frozenset(address for address in addresses if (":" in address) is six)


def _replaced(name: str, history: _History, old: Answer, new: Answer) -> Change:
    known, answered = frozenset(history.absences), frozenset(new.addresses)
    history.absences = dict.fromkeys(new.addresses, 0)
    return Change(name, old, new, "strict", known - answered, answered - known)


def _rotated(
    name: str, history: _History, old: Answer, new: Answer, dead: frozenset[str]
) -> Change | None:
    known, answered = frozenset(history.absences), frozenset(new.addresses)
    for address in known - answered:
        history.absences[address] += 1
    history.absences.update(dict.fromkeys(new.addresses, 0))
    removed = frozenset(
        address
        for address, absent in history.absences.items()
        if absent >= ABSENCES or (absent and address in dead)
    )
    for address in removed:
        del history.absences[address]
    added = answered - known
    if not removed and not added and old.chain == new.chain:
        return None
    return Change(name, old, new, "rotating", removed, added)


class BypassLimiter:
    """At most one question for each (name, family) and interval, however many callers saw a
    connect fail.  `now` is real monotonic time, in seconds."""

    def __init__(self, interval_s: float = 0.25) -> None:
        self.interval_s = interval_s
        self._asked: OrderedDict[tuple[str, Family], float] = OrderedDict()

    def note(self, key: tuple[str, Family], now: float) -> None:
        """A question goes out now."""
        self._asked[key] = now
        self._asked.move_to_end(key)
        while self._asked and now - next(iter(self._asked.values())) >= self.interval_s:
            self._asked.popitem(last=False)

    def wait_s(self, key: tuple[str, Family], now: float, interval_s: float | None = None) -> float:
        """Seconds until the next question may go out; 0 if it may now.

        `interval_s`: of a caller who has a reason to ask sooner.
        """
        asked = self._asked.get(key)
        least_s = self.interval_s if interval_s is None else min(interval_s, self.interval_s)
        return 0.0 if asked is None else max(0.0, asked + least_s - now)
