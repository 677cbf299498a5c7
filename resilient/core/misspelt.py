"""Which known name somebody may have meant.

Rules of this file: names without prefix, in upper case; text in, text out.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

__all__ = ["is_injected", "meant"]

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


def _words(name: str) -> list[str]:
    words = [_WORDS.get(word, word) for word in name.split("_") if word]
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
