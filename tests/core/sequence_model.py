"""PostgreSQL's sequences as far as numbers given back meet them (`sequence.c`).

`nextval` hands out what a tuple in shared memory says, and writes ahead into the WAL, so that 32
numbers need one record; with CACHE a session takes several at once.  None of it is undone by a
rollback.  What a failover keeps is a prefix of the WAL: the sequence then stands where its last
record there has it, beyond all that was handed out before it, never behind... unless the record is
lost.  Who takes a number has a lock on the sequence until his transaction ends.
"""

from __future__ import annotations

from dataclasses import dataclass, field

#: numbers that a record of the WAL covers (SEQ_LOG_VALS; there 32)
AHEAD = 3


@dataclass
class Server:
    """One run of a primary, for one sequence and one table with its numbers as keys."""

    increment: int = 1
    cache: int = 1
    last: int = 1
    called: bool = False
    logged: int = 0
    #: positions of the WAL → what a record there makes of the sequence
    wal: dict[int, int] = field(default_factory=dict)
    position: int = 0
    #: session → numbers that it has taken and not used
    kept: dict[int, list[int]] = field(default_factory=dict)
    #: sessions with the lock
    takers: set[int] = field(default_factory=set)
    #: keys of the table: those committed, and those of open transactions
    rows: set[int] = field(default_factory=set)
    open_rows: dict[int, set[int]] = field(default_factory=dict)

    def nextval(self, session: int) -> int:
        self.takers.add(session)
        waiting = self.kept.setdefault(session, [])
        if not waiting:
            waiting.extend(self._fetch())
        return waiting.pop(0)

    def _fetch(self) -> list[int]:
        first = self.last + (self.increment if self.called else 0)
        taken = [first + n * self.increment for n in range(self.cache)]
        if self.logged < self.cache or not self.called:
            self.position += 1
            self.wal[self.position] = taken[-1] + AHEAD * self.increment
            self.logged = self.cache + AHEAD
        self.logged -= self.cache
        self.last, self.called = taken[-1], True
        return taken

    def insert(self, session: int, key: int) -> str:
        """Empty, or why not: somebody has the key, or may have it."""
        if key in self.rows:
            return "taken"
        if any(key in rows for who, rows in self.open_rows.items() if who != session):
            return "waits"
        self.open_rows.setdefault(session, set()).add(key)
        self.position += 1
        return ""

    def end(self, session: int, committed: bool) -> None:
        rows = self.open_rows.pop(session, set())
        if committed:
            self.rows |= rows
            self.position += 1
        self.takers.discard(session)

    @property
    def last_value(self) -> int | None:
        """As `pg_sequence_last_value` tells."""
        return self.last if self.called else None

    def promoted(self, survives: int, rows: set[int]) -> Server:
        """The next primary, whose history is this one's up to a position.  `rows`: committed
        until then."""
        new = Server(self.increment, self.cache, position=survives, rows=set(rows))
        records = [at for at in self.wal if at <= survives]
        if records:
            new.last, new.called = self.wal[max(records)], True
            new.wal = {survives: new.last}
        return new
