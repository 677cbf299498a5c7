"""What a transaction did so far, so that it can be done again and compared.

Parameters are kept as they were sent, results by reference, up to a bound of bytes; a large
result of few cells is kept as a digest of its values, so that a discarded cursor's memory isn't
held.  What is recorded costs no more for a million rows than for some thousand.  Few statements
with few rows are held to the bounds when somebody asks, or when there are more.
"""

from __future__ import annotations

import re
import time
from collections.abc import Collection
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from psycopg import pq
from psycopg.pq.abc import PGresult

from ...core.outcome import Mark, Written, mark_of
from ...core.reach import LONG_BYTES
from .._psycopg import BaseCursor, PostgresClientQuery, PostgresQuery
from .entry import Entry
from .results import EMPTY_BYTES, digest, estimate
from .seen import Earlier, Seen
from .statements import traits

if TYPE_CHECKING:
    from ...core.reach import Asked
    from .statements import Traits

#: a result larger than this (in bytes, estimated) is kept as a digest, if that is quickly made
DIGEST_BYTES, DIGEST_CELLS, DIGEST_MOST = 256 * 1024, 4096, 4 * 1024 * 1024
#: results with so few rows aren't looked at before there are so many statements
FEW_ROWS, AT_ONCE = 64, 16
#: a block that has written is fresh for so long, in seconds
FRESH_S = 0.05

#: what nothing is known of that could be done again
UNRECORDED = "COPY, stream(), a server-side cursor or a cursor that the connection didn't make"

_ASKED = attrgetter("query", "types")

_SAVEPOINT = re.compile(rb"\s*SAVEPOINT\s+(\"(?:[^\"]|\"\")+\"|\w+)", re.I)
_BACK_TO = re.compile(
    rb"\s*ROLLBACK\s+(?:WORK\s+|TRANSACTION\s+)?TO\s+(?:SAVEPOINT\s+)?(\"(?:[^\"]|\"\")+\"|\w+)",
    re.I,
)

_TUPLES = pq.ExecStatus.TUPLES_OK
_FATAL = pq.ExecStatus.FATAL_ERROR


class Journal:
    """The transaction under way on one connection.

    `hazard`: why it can't be replayed, empty while it can; `measure` first.  `written`: its id
    and position once it has written, `mark` the same in numbers.  `blind`: it may have written
    since the server was last asked.  `passed`: statements that aren't held, by text and types;
    `unseen`: there were others, of which not even that is known.  `earlier`: those of the
    transactions before, since the checkout began.
    """

    __slots__ = (
        "blind",
        "due",
        "earlier",
        "entries",
        "failed",
        "hazard",
        "kept",
        "marked",
        "marked_at",
        "max_bytes",
        "max_statements",
        "measured",
        "passed",
        "replays",
        "sets",
        "size",
        "unseen",
        "written",
    )

    def __init__(self, max_statements: int = 0, max_bytes: int = 0) -> None:
        self.max_statements = max_statements
        self.max_bytes = max_bytes
        self.entries: list[Entry] = []
        self.size = 0
        self.hazard = ""
        self.written: Written | None = None
        self.marked_at = 0.0
        #: the number of the last entry that stands before its mark
        self.marked = -1
        #: so many entries are in `size`; when there are so many it is time again
        self.measured, self.due = 0, AT_ONCE
        self.blind = False
        self.replays = 0
        #: what `keeping` has given back of it
        self.kept: Any = None
        #: the caller was told that it failed
        self.failed = False
        #: it changed settings of the session
        self.sets = False
        self.passed = Seen()
        self.unseen = False
        self.earlier = Earlier()

    @property
    def mark(self) -> Mark | None:
        return None if self.written is None else mark_of(self.written)

    @property
    def fresh(self) -> bool:
        """Its server has answered a moment ago, or nothing is lost with it."""
        if self.written is None:
            return not self.blind
        return time.monotonic() - self.marked_at < FRESH_S

    def bound(self, max_statements: int, max_bytes: int) -> None:
        """So much is held."""
        self.max_statements, self.max_bytes = max_statements, max_bytes

    def close(self) -> None:
        """Nobody goes on with it."""
        if self.entries or self.hazard or self.blind or self.failed:
            self.reset()

    def reset(self) -> None:
        """The transaction is over."""
        entries = self.entries
        if self.passed or self.unseen:
            self.earlier.absorb(self.passed)
            self.passed = Seen()
            self.unseen = False
        if entries or self.hazard or self.blind or self.replays:
            if entries:
                self.earlier.update(map(_ASKED, entries))
                self.entries = []
                if len(self.earlier) > self.earlier.due:
                    self.earlier.fold()
            self.size = self.measured = self.replays = 0
            self.due = AT_ONCE
            self.hazard = ""
            self.written = self.kept = None
            self.blind = self.sets = False
        self.failed = False

    def forget_earlier(self) -> None:
        """A checkout begins."""
        self.earlier = Earlier()

    def rule_out(self, why: str) -> None:
        """It can't be replayed; the first reason counts."""
        self.hazard = self.hazard or why

    def passes(self, asked: Asked | None) -> None:
        """A statement isn't held; None: not even its text is known."""
        self.rule_out(UNRECORDED)
        if asked is not None:
            self.passed.take(asked)
        else:
            self.unseen = True
        self.blind = True

    def fail(self) -> None:
        """Its session is gone, and its caller was told so: nobody may commit what is left."""
        if self.entries:
            self.failed = True
            self.rule_out("the transaction has failed before")

    def refuse(self) -> None:
        """It isn't done again, and its caller is told so."""
        self.failed = True

    def never_again(self) -> None:
        """It may have taken effect."""
        self.failed = True
        self.hazard = "the outcome of what was done before is unknown"

    def again(self) -> int:
        """It is done once more; how often it was before."""
        self.replays += 1
        return self.replays - 1

    def unwritten(self) -> None:
        """It begins on a new session, where nobody was asked what it has written."""
        self.written = None
        self.blind = bool(self.entries)

    def wrote(self, written: Written | None) -> None:
        """The server was asked, and told; None: it has written nothing yet."""
        if written is not None:
            self.written = written
            self.marked = len(self.entries) or 1  # 0 is the BEGIN that came with it
            self.marked_at = time.monotonic()
        self.blind = False

    def marked_behind(self) -> None:
        """The question stood behind all that is here, and none of it stands behind its mark."""
        self.marked = len(self.entries) - 1

    def asks_flushed(self, now: float) -> None:
        """The server is asked once more how far it has flushed."""
        self.marked_at = now

    def give_back(self, kept: Any) -> None:
        """It begins again, with these values of what it had made; see `keeping`."""
        self.kept = kept

    def unanswered(self) -> None:
        """The server was asked whether it has written, and didn't tell."""
        if self.written is None:
            self.blind = True

    def begins(self, entry: Entry) -> None:
        """BEGIN has travelled with a statement."""
        self.entries.append(entry)

    def does(self, what: Traits, query: bytes) -> None:
        """A statement does more than most."""
        self.sets |= what.session
        if what.hazard:
            self.rule_out(what.hazard)
        if what.undoes:
            self.undo(query)
        if len(query) > LONG_BYTES:
            self.earlier.take((query, None))

    def command(self, query: bytes) -> None:
        """BEGIN, SAVEPOINT and their like were done."""
        if self.hazard and self.entries:
            return
        self.entries.append(Entry(query))
        if query.startswith(b"ROLLBACK TO "):
            self.undo(query)

    def undo(self, query: bytes) -> None:
        """ROLLBACK TO was done: settings made behind its savepoint are gone."""
        wanted = _BACK_TO.match(query)
        for entry in reversed(self.entries):
            point = _SAVEPOINT.match(entry.query)
            if wanted and point and _folded(point.group(1)) == _folded(wanted.group(1)):
                return
            entry.undone = True

    def add(self, entry: Entry, results: list[PGresult], unasked: bool = False) -> None:
        """A statement was answered; `unasked`: it may have written, and nobody asked."""
        if unasked and self.written is None:
            self.blind = True
        if self.hazard:  # only what outlives the transaction is of interest now
            self.passed.take((entry.query, entry.types))
            if self.sets and traits(entry.query).session:
                self.entries.append(entry)
            return
        entry.results = results
        self.entries.append(entry)
        if len(self.entries) >= self.due or results[0].ntuples > FEW_ROWS:
            self.measure()

    def add_all(self, entries: list[Entry], answers: list[list[PGresult]]) -> None:
        """Rows of one statement were answered, each by itself."""
        if entries:
            self.rule_out(traits(entries[0].query).hazard)
        if self.hazard:
            for entry, results in zip(entries, answers, strict=False):
                self.add(entry, results)
            return
        self.measure()
        for entry, results in zip(entries, answers, strict=False):
            entry.results = results
        self.entries += entries
        if any(results[0].ntuples for results in answers):
            self.measure()
            return
        # No rows in any of them: all that is held is what was sent.
        self.measured = len(self.entries)
        self.due = self.measured + AT_ONCE
        for entry in entries:
            self.size += len(entry.query) + EMPTY_BYTES
            if entry.params:
                self.size += sum(map(len, filter(None, entry.params)))
        if self.size > self.max_bytes:
            self._forget(f"more than {self.max_bytes} bytes", "REPLAY_MAX_BYTES")
        elif self.measured > self.max_statements:
            self.over_statements()

    def measure(self) -> None:
        """Hold to the bounds what was added since this was last done, up to the first that is in
        a pipeline yet."""
        entries, start = self.entries, self.measured
        for number in range(start, len(entries)):
            entry = entries[number]
            if entry.waiting:
                break
            self.measured = number + 1
            if entry.results is not None:
                self._hold(entry, entry.results)
                if self.hazard:
                    return
        self.due = self.measured + AT_ONCE
        if len(self.entries) > self.max_statements:
            self.over_statements()

    def _hold(self, entry: Entry, results: list[PGresult]) -> None:
        size = len(entry.query)
        for result in results:
            size += estimate(result)
        if entry.params:
            size += sum(map(len, filter(None, entry.params)))
        if DIGEST_BYTES < size <= DIGEST_MOST and _cells(results) <= DIGEST_CELLS:
            entry.results, entry.digest = None, digest(results)
            size = len(entry.query) + len(entry.digest)
        else:
            entry.results = results
        self.size += size
        if self.size > self.max_bytes:
            self._forget(f"more than {self.max_bytes} bytes", "REPLAY_MAX_BYTES")

    def queued(self, entry: Entry, proved: Collection[Asked] = ()) -> None:
        """A statement was put into a pipeline.  `proved`: those that can only read."""
        entry.waiting = True
        what = traits(entry.query)
        if what.special:
            self.sets |= what.session
            self.hazard = self.hazard or what.hazard
        if not (what.reads and (entry.query, entry.types) in proved):
            self.blind = True
        if not self.hazard:
            self.entries.append(entry)
        else:
            self.passed.take((entry.query, entry.types))

    def answered(self, entry: Entry, results: list[PGresult]) -> None:
        """The answer to a queued statement came."""
        entry.waiting = False
        if self.hazard:
            return
        entry.results = results
        if len(self.entries) >= self.due or results[0].ntuples > FEW_ROWS:
            self.measure()

    def over_statements(self) -> None:
        self._forget(f"more than {self.max_statements} statements", "REPLAY_MAX_STATEMENTS")

    def _forget(self, what: str, setting: str) -> None:
        """Over a bound: hold nothing more.  The first entry stays: a transaction is open."""
        self.hazard = f"{what} (RESILIENT_{setting})"
        self.passed.update(map(_ASKED, self.entries))
        self.passed.fold()
        self.entries[1:] = self.settings() if self.sets else []
        self.size, self.measured = 0, len(self.entries)
        self.due = self.measured + AT_ONCE

    def asked(self) -> list[Asked]:
        """All statements of the transaction."""
        return [*map(_ASKED, self.entries), *self.passed]

    def settings(self) -> list[Entry]:
        """The statements that changed settings of the session, for good."""
        return [entry for entry in self.entries if not entry.undone and traits(entry.query).session]


def _cells(results: list[PGresult]) -> int:
    return sum(result.ntuples * result.nfields for result in results)


def _folded(name: bytes) -> bytes:
    """Two names of one savepoint are equal (manual 4.1.1)."""
    return name[1:-1].replace(b'""', b'"') if name.startswith(b'"') else name.lower()


def entry_of(cur: BaseCursor[Any, Any], pgq: PostgresQuery, fmt: pq.Format) -> Entry:
    """psycopg's query, to be recorded; its parameters were `kept`."""
    merged = cur._query_cls is not PostgresQuery and isinstance(pgq, PostgresClientQuery)
    return Entry(pgq.query, None if merged else pgq.params, pgq.types, pgq.formats, fmt)
