"""When to probe, and when silence means death.

Everything about the detection window lives here.  With the symbols of the settings:

    window_s = probe_interval_s + failure_threshold × probe_timeout_s

An endpoint is dead when it refuses, or when nothing was heard from it for `window_s`
although at least `MIN_PROBES` probes were sent meanwhile.  A late reply means slow, never
dead.  A probe that stays unanswered for `probe_timeout_s / 2` doesn't hold back the next;
the first such miss sends two at once (over connections of their own), so that six
independent probes fit into the default window.  Probability that an endpoint which loses a
share p of its probes looks dead: about p⁶ per window.

Four rules bound what many processes ask of one server:

* A server tells now and then how many sessions it has, and so how many clients.  Each of them
  spaces its burst such that all together ask `ASKED_MOST` times a second, if that is less than
  what they ask at rest: n clients ask every n / `ASKED_MOST` seconds, up to the interval.  The
  first question of a burst waits for nobody, and neither does one behind an unanswered one.
* In a burst, time in its queue (an answer's time beyond 15 ms, and beyond twice the least
  ever) stretches the spacing: `LOAD` × that time, up to the interval.  Of two answers the
  quicker one counts, so one that was late by chance changes nothing.  N processes that ask a
  server which answers c probes a second keep it busy, but its queue settles near
  15 ms + 4 N / (3 · LOAD · c) seconds.  While there is such a queue no answer is kept back.  A
  refusal counts as well: it has no queue there, but the machines that clients share have one.
* Of a server that has become so slow, a probe is a miss after twice what its answers take, up
  to the whole timeout, and the first miss sends only one.  So its verdict comes later: at most
  by 1.5 s with the defaults.
* An endpoint that was never heard of is asked over a connection that is yet to be made, and
  is nobody's writer: the n-th unanswered probe is given n intervals.

Silence is what was listened to.  Where this process itself didn't run (a busy machine, a pause
of its virtual machine, another thread that holds the interpreter), an answer may have come and
not been read: such time is cut out, and the answer read first.  Without that, a crowd that
starves its own machine suspects servers that have answered, and each suspicion is a dial more.
Where that was more than half of `window_s` in one silence, it asks only once an interval until
it is answered: the verdict comes at six intervals then, and whom it shares the machine with has
the time to answer.
And what comes on other connections is an answer as well: a server that serves statements while
probes wait in its queue for new sessions isn't dead.
(Lifeguard, Dadgar et al. 2018, found the same of gossip: most false suspicions are the
suspecting node's own slowness.)
"""

from __future__ import annotations

import math
from dataclasses import replace

from .._dataclass import dataclass

MIN_PROBES = 6
MAX_OUTSTANDING = 8
#: a burst keeps its pace this long, then slows down by `BURST_DECAY` up to the interval
BURST_S = 10.0
BURST_DECAY = 1.5
#: a probe younger than this had no chance yet to be answered: it doesn't count as missed
GRACE_S = 0.05
#: probes a second that all clients of a server may send it in a burst
ASKED_MOST = 2000.0
#: seconds between two probes of a burst for a second that the last answers were queued
LOAD = 8.0
#: an answer that takes no longer wasn't queued: a busy client is as late
QUICK_S = 0.015
#: answers of which the quickest counts
LOOKED_AT = 2
#: a look that comes later than this was held up here: nobody listened meanwhile
DEAF_S = 0.005
#: and how long is listened before anybody is judged, which is granted so often in one silence
LISTEN_S, EXCUSES = 0.01, 3
#: shares of the interval between which a quiet endpoint's next probe is drawn
JITTER = (0.9, 1.0)


@dataclass(frozen=True, slots=True)
class ProbeConfig:
    """The four numbers of detection, in seconds (see `Settings`)."""

    interval_s: float = 1.0
    timeout_s: float = 0.5
    failure_threshold: int = 2
    success_threshold: int = 1
    burst_interval_s: float = 0.05

    @property
    def window_s(self) -> float:
        return self.interval_s + self.failure_threshold * self.timeout_s

    @property
    def miss_s(self) -> float:
        """An unanswered probe older than this doesn't hold back the next."""
        return self.timeout_s / 2


@dataclass(frozen=True, slots=True)
class Asked:
    """A probe without an answer.  `waited_at`: since when its answer is waited for, which is
    later than `sent_at` where nobody listened meanwhile."""

    probe: int
    sent_at: float
    waited_at: float


@dataclass(frozen=True, slots=True)
class Detector:
    """What is known of one endpoint's answers.  Times are monotonic seconds.

    `heard_at`: the last answer (or, before any, the first probe).  `outstanding`: probes
    without an answer, oldest first.  `unanswered`: probes sent
    since `heard_at`.  `answers`: answers in a row.  `burst_at`: when the present burst
    began.  `known`: it was heard of, ever.  `took_s`: what the last answers took, `least_s`
    what the quickest ever did, `queued_s` what they take at present beyond what is usual.
    `excuses`: how often since `heard_at` this process didn't listen in time, `deaf_s`: for how
    long in all.
    """

    heard_at: float | None = None
    sent_at: float | None = None
    outstanding: tuple[Asked, ...] = ()
    unanswered: int = 0
    answers: int = 0
    burst_at: float | None = None
    known: bool = False
    took_s: tuple[float, ...] = ()
    least_s: float | None = None
    queued_s: float = 0.0
    excuses: int = 0
    deaf_s: float = 0.0

    def late_s(self, config: ProbeConfig) -> float:
        """An unanswered probe older than this is a miss: of a server that has become slow twice
        what its answers take, at most the timeout."""
        if not self.slow(config):
            return config.miss_s
        return min(2 * min(self.took_s), config.timeout_s)

    def slow(self, config: ProbeConfig) -> bool:
        """Do its answers take unusually long, and about as long as an answer may?"""
        return self.queued_s > 0 and 2 * min(self.took_s) > config.miss_s

    def starved(self, config: ProbeConfig) -> bool:
        """Has this process been deaf for so much of the silence that it says little?"""
        return self.deaf_s > config.window_s / 2

    def sent(self, probe: int, now: float) -> Detector:
        kept = self.outstanding[-(MAX_OUTSTANDING - 1) :]
        return replace(
            self,
            sent_at=now,
            heard_at=now if self.heard_at is None else self.heard_at,
            outstanding=(*kept, Asked(probe, now, now)),
            unanswered=self.unanswered + 1,
        )

    def heard(self, probe: int | None, now: float, held_s: float = 0.0) -> Detector:
        """An answer came, which was kept back for `held_s`: whatever was asked before it is no
        longer a miss."""
        asked = self._asked(probe)
        took_s, least_s, until = self.took_s, self.least_s, now
        if asked is not None:
            until = asked.sent_at
            took = max(0.0, now - until - held_s)
            took_s = (*took_s, took)[-LOOKED_AT:]
            least_s = took if least_s is None else min(least_s, took)
        left = tuple(item for item in self.outstanding if item.sent_at > until)
        return replace(
            self,
            heard_at=now,
            outstanding=left,
            unanswered=len(left),
            answers=self.answers + 1,
            burst_at=None,
            known=True,
            took_s=took_s,
            least_s=least_s,
            queued_s=_queued_s(took_s, least_s),
            excuses=0,
            deaf_s=0.0,
        )

    def contradicts(self, at: float) -> bool:
        """Is data that came then news: later than a question, and than all that was heard?"""
        asked_at = self.outstanding[0].sent_at if self.outstanding else math.inf
        return self.heard_at is not None and at > max(asked_at, self.heard_at)

    def spared(self, probe: int | None) -> Detector:
        """This probe wasn't sent after all."""
        left = tuple(item for item in self.outstanding if item.probe != probe)
        gone = len(self.outstanding) - len(left)
        return replace(self, outstanding=left, unanswered=max(0, self.unanswered - gone))

    def received(self, at: float) -> Detector:
        """It has sent something on another connection.  That counts if a probe was unanswered
        by then: it contradicts the silence instead of beginning it later."""
        if not self.contradicts(at):
            return self
        unanswered = sum(item.sent_at > at for item in self.outstanding)
        return replace(self, heard_at=at, unanswered=unanswered)

    def awaits(self, probe: int) -> bool:
        """Is it unanswered?"""
        return self._asked(probe) is not None

    def _asked(self, probe: int | None) -> Asked | None:
        return next((item for item in self.outstanding if item.probe == probe), None)

    def failed(self, probe: int | None, refused_at: float | None = None) -> Detector:
        """A probe ended without an answer that counts; if it was refused, when."""
        asked, took_s = self._asked(probe), self.took_s
        if asked is not None and refused_at is not None:
            took_s = (*took_s, refused_at - asked.sent_at)[-LOOKED_AT:]
        return replace(
            self,
            outstanding=tuple(item for item in self.outstanding if item is not asked),
            answers=0,
            took_s=took_s,
            queued_s=_queued_s(took_s, self.least_s),
        )

    def suspected(self, now: float) -> Detector:
        return self if self.burst_at is not None else replace(self, burst_at=now)

    def excused(self, late_s: float, now: float) -> Detector:
        """This process looks so much later than it meant to: what it waits for may be there."""
        if late_s < DEAF_S or not self.outstanding:
            return self
        if self.excuses >= EXCUSES:
            return replace(self, deaf_s=self.deaf_s + late_s)
        by_s = late_s + LISTEN_S
        return replace(
            self,
            heard_at=None if self.heard_at is None else min(self.heard_at + by_s, now),
            sent_at=None if self.sent_at is None else min(self.sent_at + by_s, now),
            outstanding=tuple(
                replace(item, waited_at=min(item.waited_at + by_s, now))
                for item in self.outstanding
            ),
            excuses=self.excuses + 1,
            deaf_s=self.deaf_s + late_s,
        )


def _queued_s(took_s: tuple[float, ...], least_s: float | None) -> float:
    if least_s is None or len(took_s) < LOOKED_AT:
        return 0.0
    return max(0.0, min(took_s) - max(QUICK_S, 2 * least_s))


def missed(detector: Detector, config: ProbeConfig, now: float) -> bool:
    """True when the oldest unanswered probe is late enough to start a burst."""
    late_s = detector.late_s(config)
    return bool(detector.outstanding) and now - detector.outstanding[0].waited_at >= late_s - 1e-9


def doubled(detector: Detector, config: ProbeConfig, now: float) -> bool:
    """Are two sent at once?  At the first miss of one that was heard before, so that six fit
    into the window."""
    lone = detector.known and len(detector.outstanding) == 1 and not detector.slow(config)
    lone = lone and not detector.starved(config)
    return lone and missed(detector, config, now)


def silent_to_death(detector: Detector, config: ProbeConfig, now: float) -> bool:
    """The verdict: a whole window of silence, with enough questions asked in it."""
    if detector.heard_at is None or now - detector.heard_at < config.window_s - 1e-9:
        return False
    young = sum(now - item.waited_at < GRACE_S - 1e-9 for item in detector.outstanding)
    return detector.unanswered - young >= MIN_PROBES


def verdict_at(detector: Detector, config: ProbeConfig) -> float | None:
    """When the verdict could fall, if nothing is heard and asked until then."""
    if detector.heard_at is None or detector.unanswered < MIN_PROBES:
        return None
    last = detector.sent_at if detector.sent_at is not None else detector.heard_at
    return max(detector.heard_at + config.window_s, last + GRACE_S)


def burst_spacing(config: ProbeConfig, burst_at: float, now: float) -> float:
    """Seconds between two probes of a burst that are answered."""
    base = config.burst_interval_s
    over = now - burst_at - BURST_S
    while over > 0 and base < config.interval_s:
        base *= BURST_DECAY
        over -= base
    return min(base, config.interval_s)


def crowd_s(clients: int, config: ProbeConfig) -> float:
    """Seconds between two probes of a burst, of each of so many clients of one server."""
    return min(clients / ASKED_MOST, config.interval_s)


def next_probe_at(
    detector: Detector,
    config: ProbeConfig,
    burst_at: float | None,
    now: float,
    jitter: float,
    *,
    clients: int = 0,
) -> float:
    """When the next probe of this endpoint is due.

    `burst_at`: since when it, or the whole cluster (nobody takes writes), is in a burst;
    None when all is quiet.  `jitter` is a draw from [0, 1).  `clients` of the endpoint; 0: not
    known.
    """
    if detector.sent_at is None:
        return now
    last = detector.sent_at
    low, high = JITTER
    if detector.outstanding:
        # The slowed pace of a long burst holds for unanswered probes as well.
        known = detector.known
        pace = detector.late_s(config) if known else config.interval_s * detector.unanswered
        if detector.starved(config):
            pace = max(pace, config.interval_s)
        if burst_at is not None:
            pace = max(pace, burst_spacing(config, burst_at, now))
        return last + pace
    if burst_at is None:
        return last + config.interval_s * (low + (high - low) * jitter)
    loaded_s = min(LOAD * detector.queued_s, config.interval_s)
    pause_s = max(burst_spacing(config, burst_at, now), loaded_s) * (0.5 + jitter / 2)
    if last >= burst_at:
        pause_s = max(pause_s, crowd_s(clients, config) * (0.75 + jitter / 2))
    return last + pause_s


def agenda(
    detector: Detector,
    config: ProbeConfig,
    burst_at: float | None,
    now: float,
    jitter: float,
    *,
    least_s: float = 0.0,
    clients: int = 0,
) -> tuple[int, float]:
    """(probes to send now, when to look again if none is).

    `least_s`: the probe isn't sent sooner after the last one.
    """
    at = next_probe_at(detector, config, burst_at, now, jitter, clients=clients)
    if least_s and detector.sent_at is not None:
        at = max(at, detector.sent_at + least_s)
    if at <= now + 1e-4:
        # What follows is reckoned anew once these are sent.
        probes, again = 1 + doubled(detector, config, now), float("inf")
    else:
        probes, again = 0, at
    verdict = verdict_at(detector, config)
    if verdict is not None and now < verdict < again:
        again = verdict
    if detector.outstanding and not missed(detector, config, now):
        again = min(again, detector.outstanding[0].waited_at + detector.late_s(config))
    return probes, again
