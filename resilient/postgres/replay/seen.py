"""Statements that are remembered by their text alone, however many there are.

A checkout may last for months, and no two of its texts be the same, as where parameters are merged
into them.  What a catalogue is asked about them are the names in them.  So of many that differ
in their literals only one is kept, and of too many kinds only the names.
"""

from __future__ import annotations

import re

from ...core.reach import (
    LONG_BYTES,
    Asked,
    Names,
    intricate,
    names_of,
    replaced,
    runs_text,
    without_strings,
)

#: so many that are new are looked through at once; and so many kinds are kept
DUE, MOST_KINDS = 256, 1024

_NUMBERS = re.compile(rb"(?<=[\s,(])\d[\d.,\s]*(?=[,)])")
_NUMBER = re.compile(rb"(?<![\w$])\$?\d[\d.]*")
_ROWS = re.compile(rb"\( ?\)(?: ?\( ?\))*")
#: a program may give each a name of its own
_SAVEPOINT = re.compile(
    rb"\s*(?:SAVEPOINT|RELEASE(?:\s+SAVEPOINT)?|ROLLBACK\s+TO(?:\s+SAVEPOINT)?)"
    rb"\s+(?:\w+|\"[^\"]*\")\s*;?\s*\Z",
    re.I,
)
_COMMA_IS_SPACE = bytes.maketrans(b",", b" ")


def kind(query: bytes) -> bytes:
    """A text's names and signs, without its literals, comments and the lengths of its lists: of
    those that have it in common, the same is asked.  About savepoints nothing is."""
    if _SAVEPOINT.match(query):
        return b"SAVEPOINT"
    clear = _cleared(query) if intricate(query) else without_strings(query)
    if clear is None or runs_text(query) or any(map(_NUMBER.search, clear.split(b'"')[1::2])):
        return query
    return _ROWS.sub(
        b"()",
        b" ".join(_NUMBER.sub(b"", _NUMBERS.sub(b"", clear)).translate(_COMMA_IS_SPACE).split()),
    )


def _cleared(query: bytes) -> bytes | None:
    """The text without literals and comments; None: something never closes."""
    return replaced(query, lambda token, begin, end: query[begin:end] if token == b'"' else b" ")


class Seen(set[Asked]):
    """A set of statements, to be folded when it has more than `due`.

    `kinds`: of those that were looked through, the one that is kept of each.  `names`: in those of
    which none is.
    """

    due = DUE
    kinds: dict[object, Asked] | None = None
    names: Names | None = None

    def names_in(self, query: bytes) -> Names:
        """Those that count."""
        return names_of(query)

    def take(self, asked: Asked) -> None:
        """One more."""
        self.add(asked)
        if len(self) > self.due or len(asked[0]) > LONG_BYTES:
            self.fold()

    def fold(self) -> None:
        """Keep one of each kind."""
        kinds = self.kinds = self.kinds or {}
        for asked in self.difference(kinds.values()):
            query, types = asked
            one = kind(query), types and tuple(types)
            if kinds.setdefault(one, asked) is not asked:
                self.discard(asked)
        if len(kinds) > MOST_KINDS:
            names = self.names or Names()
            for query, _ in self:
                names |= self.names_in(query)
            self.names = names
            self.kinds = None
            last = self.pop()  # who asks whether there are any is to see it
            self.clear()
            self.add(last)
        self.due = len(self) + DUE

    def absorb(self, others: Seen) -> None:
        """Those as well."""
        self |= others
        if others.names is not None:
            self.names = (self.names or Names()) | others.names
        if len(self) > self.due:
            self.fold()


class Earlier(Seen):
    """Of transactions that are over: what they may have left in the session is asked about."""

    def names_in(self, query: bytes) -> Names:
        """What the journal has heard of is no question."""
        return Names() if b"set_config" in query.lower() else names_of(query)
