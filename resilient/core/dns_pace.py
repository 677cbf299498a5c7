"""How soon a name is asked again around the cache, while nobody may write.

The record may move at any moment, and how soon that can be seen depends on who answers:

    the TTL stands still     the zone's own server: asked every `BUSY_S`
    the TTL falls            a cache, whatever its aa flag says: it can't know better before its
                             TTL is over, and is asked every `BUSY_S` from then on
    nobody tells a TTL       the system's resolver, or a failure: every `UNKNOWN_S`

A TTL is told in whole seconds, rounded in either way, so that one answer tells the end of a
cache's record to within two seconds, and several tell it better.  A TTL of one or two seconds
looks the same from both, and is asked for every `BUSY_S` from both.

A cache is looked at once in `LOOK_S` all the same: somebody may have emptied it, and several may
stand behind one address.  All clients of a cluster together ask `ASKED_MOST` times a second, as
their probes do; the first question after a loss is spread as well (`first_s`).
"""

from __future__ import annotations

from .._dataclass import dataclass

__all__ = ["Heard", "first_s", "hear", "pause_s"]

#: seconds between two questions to the zone's own server; after `BUSY_FOR_S` it slows down by
#: `DECAY` up to `LONG_S`
BUSY_S, BUSY_FOR_S = 0.05, 10.0
DECAY, LONG_S = 1.5, 0.5
#: seconds between two questions to who tells no TTL
UNKNOWN_S = 0.25
#: seconds between two looks at a cache whose record hasn't ended
LOOK_S = 1.0
#: questions a second that all clients ask, and how many one look is (A and AAAA)
ASKED_MOST, QUESTIONS = 2000.0, 2
#: a client's pause in a crowd is drawn from these shares of the even one
SPREAD = (1.0, 1.3)
#: whole seconds are off by so much at most
ROUNDED_S = 1.0


@dataclass(frozen=True, slots=True)
class Heard:
    """What the answers of one name told of who gives them; points on one monotonic clock.

    `ttl_s` has been told since `since_s`, about the aliases in `chain`.  `cached`: it was seen to
    fall.  A cache's record ends between `ends_from_s` and `ends_by_s`.
    """

    chain: tuple[str, ...]
    ttl_s: float
    since_s: float
    ends_from_s: float
    ends_by_s: float
    cached: bool = False


def hear(last: Heard | None, chain: tuple[str, ...], ttl_s: float, now: float) -> Heard:
    """An answer that came from outside now, with the TTL that it told."""
    new = Heard(chain, ttl_s, now, now + ttl_s - ROUNDED_S, now + ttl_s + ROUNDED_S)
    if last is None:
        return new
    cached = last.cached
    if chain == last.chain:
        since_s = new.since_s
        if ttl_s < last.ttl_s:
            cached = True
        elif ttl_s == last.ttl_s:
            since_s = last.since_s
            # A cache's would have fallen, and can't have been renewed yet.
            if ROUNDED_S <= now - since_s < ttl_s - ROUNDED_S:
                cached = False
        ends_from_s = max(new.ends_from_s, last.ends_from_s)
        ends_by_s = min(new.ends_by_s, last.ends_by_s)
        if ends_from_s > ends_by_s:  # of another record than before
            ends_from_s, ends_by_s = new.ends_from_s, new.ends_by_s
        return Heard(chain, ttl_s, since_s, ends_from_s, ends_by_s, cached)
    return Heard(chain, ttl_s, now, new.ends_from_s, new.ends_by_s, cached)


def pause_s(heard: Heard | None, now: float, troubled_s: float, clients: int, draw: float) -> float:
    """Seconds until the next question, for one of so many clients (0: not known).

    `troubled_s`: for so long nobody has been able to write.  `draw` is from [0, 1).
    """
    pause = _busy_s(troubled_s)
    if heard is None:
        pause = max(pause, UNKNOWN_S)
    elif heard.cached:
        pause = max(pause, min(heard.ends_from_s - now, LOOK_S))
    low, high = SPREAD
    return max(pause, crowd_s(clients) * (low + (high - low) * draw))


def first_s(clients: int, draw: float) -> float:
    """Seconds from a loss to the first question, of one of so many clients."""
    even_s = crowd_s(clients) * sum(SPREAD) / 2
    return even_s * draw if even_s > BUSY_S else 0.0


def crowd_s(clients: int) -> float:
    """Seconds between two questions of each of so many clients that ask evenly."""
    return clients * QUESTIONS / ASKED_MOST


def _busy_s(troubled_s: float) -> float:
    pause, over_s = BUSY_S, troubled_s - BUSY_FOR_S
    while over_s > 0 and pause < LONG_S:
        pause *= DECAY
        over_s -= pause
    return min(pause, LONG_S)
