"""What is remembered of names: answers, absences, failures, and when to ask again.

Rules of this file: whether something that was heard may still be served is decided here and
nowhere else.  `now` is the resolver's injected monotonic clock, in seconds.

    live      now < until                        → served
    stale     until ≤ now < until + stale_s      → served only while a failure is remembered
    absent    NXDOMAIN for the whole name, else per family, for min(SOA, ceiling)
    failed    1, 2, 4, 5, 5 … s after failures in a row (RFC 9520 section 3.2: at least 1 s)

The last two spare questions where something else serves.  Callers whom they would leave with
nothing ask again all the same, a few times a second together (`dns._engine.Engine.begin`).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import field, replace
from typing import TypeAlias

from .._dataclass import dataclass
from .dns import EQUAL, Absent, Answer, Failed, Family, Found, rotations
from .dns_select import Rank

__all__ = ["Cache", "CacheLimits", "Known", "Slot"]

Key: TypeAlias = tuple[str, Family]

#: a failure is remembered this long at first and at most, in seconds (RFC 9520)
FAILURE_S = 1.0
MAX_FAILURE_S = 5.0
#: the moment of a refresh varies by this share of the TTL, so that clients don't march in step
JITTER = 0.05

#: how late a planned refresh may start before callers ask themselves, in seconds
GRACE_S = 0.5

_NEVER = float("inf")
_ALWAYS = float("-inf")


@dataclass(frozen=True, slots=True)
class CacheLimits:
    """Bounds, all in seconds but `size` (names) and `refresh_ahead` (share of the TTL)."""

    size: int = 1000
    floor_s: float = 1.0
    ceiling_s: float = 60.0
    negative_ceiling_s: float = 60.0
    stale_s: float = 3600.0
    refresh_ahead: float = 0.8


class Slot:
    """One answer in each of its rotations.  `take` gives them in turn.

    Mutable on purpose and without a lock: the turn, and `attention_at`, the time of the
    first hit that has to be told to the refresh schedule.  `stale_from` is when the oldest
    record in it expires: `until`, unless one family's addresses are from before.
    """

    __slots__ = ("answers", "attention_at", "refresh_at", "stale_from", "turn", "until")

    def __init__(self, answers: tuple[Answer, ...], refresh_at: float) -> None:
        self.answers = answers
        self.until = self.stale_from = answers[0].expires_at
        self.refresh_at = refresh_at
        self.attention_at = _ALWAYS if refresh_at < _NEVER else _NEVER
        self.turn = 0

    def take(self) -> Answer:
        """The next rotation."""
        answers, turn = self.answers, self.turn
        if turn >= len(answers):
            turn = 0
        self.turn = turn + 1
        return answers[turn]


@dataclass(slots=True)
class _Failure:
    failed: Failed
    until: float
    count: int
    #: a refresh off the request path is under way: nobody needs to wait for it
    retrying: bool = False


@dataclass(slots=True)
class _Name:
    slots: dict[Family, Slot] = field(default_factory=dict)
    absent: dict[Family | None, tuple[Absent, float]] = field(default_factory=dict)
    failures: dict[Family, _Failure] = field(default_factory=dict)


Known: TypeAlias = Slot | Absent | Failed


class Cache:
    """The memory of one resolver.  `hit` may be called without a lock, all else not."""

    def __init__(
        self,
        limits: CacheLimits,
        rng: Callable[[], float],
        rank: Callable[[str], Rank] = lambda address: EQUAL,
    ) -> None:
        self.limits = limits
        self._rng = rng
        self._rank = rank
        self._slots: dict[Key, Slot] = {}
        self._names: OrderedDict[str, _Name] = OrderedDict()
        self._schedule: dict[Key, float] = {}
        self._dead: dict[str, float] = {}
        #: set when the schedule changed; the shell clears it and looks at `next_refresh`
        self.rescheduled = False

    def __len__(self) -> int:
        return len(self._names)

    # -- reading

    def hit(self, name: str, family: Family, now: float) -> Answer | None:
        """The live answer for a normalised name, or None: the path that must be quick."""
        slot = self._slots.get((name, family))
        if slot is None or now >= slot.until:
            return None
        if now >= slot.attention_at:
            self._attend((name, family), slot, now)
        # Not `suppress`: that costs as much as all the rest of a hit.
        try:  # noqa: SIM105
            self._names.move_to_end(name)
        except KeyError:
            pass  # another thread has just dropped the name; the answer is good all the same
        return slot.take()

    def known(self, name: str, family: Family, now: float) -> Known | None:
        """What may be served without asking, or None: ask."""
        entry = self._names.get(name)
        if entry is None:
            return None
        self._names.move_to_end(name)
        slot = entry.slots.get(family)
        if slot is not None and now < slot.until:
            return slot
        for key in (None, family):
            absent, until = entry.absent.get(key, (None, 0.0))
            if absent is not None and now < until:
                return absent
        failure = entry.failures.get(family)
        if failure is None:
            return None
        stale = self._stale(slot, now)
        if now < failure.until:
            return stale or failure.failed
        # A retry off the request path runs, or is just about to: nobody needs to wait.
        soon = (name, family) in self._schedule and now < failure.until + GRACE_S
        return stale if failure.retrying or soon else None

    def has_stale(self, name: str, family: Family, now: float) -> bool:
        """True if an expired answer could stand in, should asking fail."""
        entry = self._names.get(name)
        return entry is not None and self._may_serve(entry.slots.get(family), now)

    def timed_out_before(self, name: str, family: Family) -> bool:
        """True if the last attempt at this family met silence."""
        entry = self._names.get(name)
        failure = entry.failures.get(family) if entry is not None else None
        return failure is not None and failure.failed.timeout

    def _may_serve(self, slot: Slot | None, now: float) -> bool:
        return slot is not None and slot.until <= now < slot.stale_from + self.limits.stale_s

    def _stale(self, slot: Slot | None, now: float) -> Slot | None:
        if slot is None or not self._may_serve(slot, now):
            return None
        if not slot.answers[0].stale:
            # Marked in place: past its time a slot never becomes live again.
            slot.answers = tuple(replace(answer, stale=True) for answer in slot.answers)
        return slot

    # -- writing

    def store_found(self, name: str, family: Family, found: Found, now: float) -> Slot:
        """Keep an answer; the slot that comes back serves whoever waited for it."""
        limits = self.limits
        ttl_s = float(max(limits.floor_s, min(found.ttl_s, limits.ceiling_s)))
        answer = Answer(found.data, found.chain[-1], found.chain, ttl_s, now + ttl_s)
        share = limits.refresh_ahead + (2 * self._rng() - 1) * JITTER
        ahead = limits.size and limits.refresh_ahead and ttl_s > 0
        refresh_at = now + ttl_s * min(share, 0.99) if ahead else _NEVER
        slot = Slot(self._orders(answer, self.dead(now)), refresh_at)
        entry = self._entry(name)
        if entry is not None:
            self._slots[name, family] = entry.slots[family] = slot
            entry.absent.pop(None, None)
            entry.absent.pop(family, None)
            entry.failures.pop(family, None)
            self._schedule.pop((name, family), None)
        return slot

    def _orders(self, answer: Answer, dead: frozenset[str]) -> tuple[Answer, ...]:
        # Within one family the order is the servers' affair: only a choice between families
        # is worth the look at this machine's addresses.
        six = sum(":" in address for address in answer.addresses)
        if 0 < six < len(answer.addresses):
            return rotations(answer, dead, self._rank)
        return rotations(answer, dead)

    def store_absent(self, name: str, family: Family, absent: Absent, now: float) -> None:
        """Keep an absence, and drop what it contradicts: it is an answer (RFC 8767 section 4).

        NXDOMAIN holds for every family (RFC 2308 section 5); what is still live elsewhere
        stays, because some load balancers give NXDOMAIN to AAAA alone (RFC 4074 section 4.2).
        """
        entry = self._entry(name)
        if entry is None:
            return
        until = now + min(absent.ttl_s, self.limits.negative_ceiling_s)
        entry.absent[family if absent.exists else None] = (absent, until)
        entry.failures.pop(family, None)
        gone = [f for f, slot in entry.slots.items() if not absent.exists and now >= slot.until]
        dropped: set[Family] = {family, *gone}
        for each in dropped:
            self._drop(name, entry, each)

    def store_failed(self, name: str, family: Family, failed: Failed, now: float) -> float:
        """Keep a failure, apart from what is known of the name.  Returns until when."""
        entry = self._entry(name)
        before = entry.failures.get(family) if entry is not None else None
        count = before.count + 1 if before is not None else 1
        until = now + min(MAX_FAILURE_S, FAILURE_S * 2.0 ** min(count - 1, 8))
        if entry is not None:
            entry.failures[family] = _Failure(failed, until, count)
            slot = entry.slots.get(family)
            if slot is not None and slot.refresh_at < _NEVER:
                # Asked again when the failure is over, if anybody still uses the name.
                slot.refresh_at = until
                slot.attention_at = _ALWAYS
                self._schedule.pop((name, family), None)
        return until

    def invalidate(self, name: str) -> None:
        """Forget `name` altogether."""
        entry = self._names.pop(name, None)
        if entry is not None:
            for family in tuple(entry.slots):
                self._drop(name, entry, family)

    def clear(self) -> None:
        """Forget everything."""
        for name in tuple(self._names):
            self.invalidate(name)
        self._schedule.clear()
        self._dead.clear()

    def _entry(self, name: str) -> _Name | None:
        if not self.limits.size:
            return None
        entry = self._names.get(name)
        if entry is None:
            entry = self._names[name] = _Name()
            while len(self._names) > self.limits.size:
                self.invalidate(next(iter(self._names)))
        else:
            self._names.move_to_end(name)
        return entry

    def _drop(self, name: str, entry: _Name, family: Family) -> None:
        entry.slots.pop(family, None)
        self._slots.pop((name, family), None)
        self._schedule.pop((name, family), None)

    # -- addresses seen dead

    def dead(self, now: float) -> frozenset[str]:
        """The addresses that were reported dead and aren't forgiven yet."""
        if not self._dead:
            return frozenset()
        self._dead = {a: until for a, until in self._dead.items() if now < until}
        return frozenset(self._dead)

    def report_dead(self, address: str, now: float, for_s: float) -> None:
        """Put `address` last in every answer that has another, for `for_s` seconds."""
        self._dead[address] = now + for_s
        dead = self.dead(now)
        for slot in self._slots.values():
            first = slot.answers[0]
            if address in first.addresses and len(first.addresses) > 1:
                slot.answers = self._orders(first, dead)

    # -- refresh ahead of expiry

    def _attend(self, key: Key, slot: Slot, now: float) -> None:
        """First use since the fetch: put on the schedule.  Overdue: say so once."""
        slot.attention_at = slot.refresh_at if now < slot.refresh_at else _NEVER
        self._schedule[key] = slot.refresh_at
        self.rescheduled = True

    def touch(self, name: str, family: Family, now: float) -> None:
        """Count a stale or late use like a hit, so that the name stays on the schedule."""
        slot = self._slots.get((name, family))
        if slot is not None and now >= slot.attention_at:
            self._attend((name, family), slot, now)

    def schedule(self, name: str, family: Family, at: float) -> None:
        """Refresh at `at` whether used or not: a watched name."""
        self._schedule[name, family] = at
        self.rescheduled = True

    def unschedule(self, name: str, family: Family) -> None:
        """The end of `schedule`; the next use puts the name back."""
        self._schedule.pop((name, family), None)
        slot = self._slots.get((name, family))
        if slot is not None and slot.refresh_at < _NEVER:
            slot.attention_at = _ALWAYS

    def due(self, now: float) -> tuple[Key, ...]:
        """The names to refresh now; they are taken off the schedule."""
        keys = tuple(key for key, at in tuple(self._schedule.items()) if at <= now)
        for key in keys:
            self._schedule.pop(key, None)
            entry = self._names.get(key[0])
            failure = entry.failures.get(key[1]) if entry is not None else None
            if failure is not None:
                failure.retrying = True
        return keys

    def next_refresh(self) -> float | None:
        """When `due` has something to give, or None."""
        return min(tuple(self._schedule.values()), default=None)
