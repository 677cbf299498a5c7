"""Which known name somebody may have meant.

Rules of this file: names without prefix, in upper case; text in, text out.  What is surely a slip
(`meant`) is kept apart from what may be another version's name (`perhaps`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable

__all__ = ["is_injected", "meant", "nearly", "perhaps"]

#: what Kubernetes puts into the environment for a Service named `resilient…`
_INJECTED = re.compile(
    r"(.*_)?(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT(_\d+_(TCP|UDP|SCTP)(_(PORT|PROTO|ADDR))?)?)"
)
_WORDS = {"DB": "DATABASE", "URI": "URL", "DSN": "URL", "CONNINFO": "URL", "AZ": "ZONE"}
_UNITS = frozenset({"S", "SEC", "SECS", "SECOND", "SECONDS", "MS", "MILLIS", "MIN", "MINUTES"})


def is_injected(name: str) -> bool:
    """True for `…SERVICE_HOST`, `…PORT_5432_TCP_ADDR` and the like."""
    return _INJECTED.fullmatch(name) is not None


def meant(name: str, known: Iterable[str]) -> str | None:
    """The known name that `name` nearly is: another unit, a usual abbreviation, words in another
    order, or a letter or two that are wrong; None if there is no such name."""
    words = _words(name)
    best: tuple[int, str] | None = None
    for other in sorted(known):
        others = _words(other)
        if sorted(words) == sorted(others):
            return other
        apart = _distance("".join(words), "".join(others))
        if apart <= _allowed("".join(others)) and (best is None or apart < best[0]):
            best = apart, other
    return None if best is None else best[1]


def perhaps(name: str, known: Iterable[str]) -> str | None:
    """The only known name that has all words of `name` and more, or else all but one of several;
    None if there is none.  A newer version may know `name` as well."""
    words = set(_words(name))
    each = {other: set(_words(other)) for other in known}
    found = [other for other in each if words < each[other]]
    if not found:
        found = [o for o in each if each[o] < words and len(words) - 1 == len(each[o]) > 1]
    return found[0] if len(found) == 1 else None


def nearly(one: str, other: str) -> bool:
    """True for two texts that a single slip of the fingers makes of each other."""
    return abs(len(one) - len(other)) <= 1 and _distance(one, other) == 1


def _words(name: str) -> list[str]:
    words = [_WORDS.get(word, word) for word in re.split(r"[^A-Z0-9]+", name) if word]
    return words[:-1] if len(words) > 1 and words[-1] in _UNITS else words


def _allowed(text: str) -> int:
    return 0 if len(text) < 4 else 1 if len(text) < 9 else 2


def _distance(one: str, other: str) -> int:
    """Letters to add, drop, change or swap with their neighbour (optimal string alignment)."""
    before: list[int] = []
    last = list(range(len(other) + 1))
    for i, a in enumerate(one, 1):
        row = [i]
        for j, b in enumerate(other, 1):
            row.append(min(last[j] + 1, row[j - 1] + 1, last[j - 1] + (a != b)))
            if i > 1 and j > 1 and a == other[j - 2] and one[i - 2] == b:
                row[j] = min(row[j], before[j - 2] + 1)
        before, last = last, row
    return last[-1]
