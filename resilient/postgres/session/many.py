"""A whole `executemany`: in a pipeline of its own, done again as a whole.

Its rows are taken one by one, as psycopg takes them; those that were sent are kept as they were.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from psycopg import errors as e

from ...core.reaction import Sent
from .._psycopg import BasePipeline
from ..replay.journal import Entry
from ..replay.recorder import Recorder
from ..replay.statements import traits
from .host import Gen
from .pipeline import keep_farewell
from .wire import ended


class Batch(BasePipeline):
    """The pipeline of one `executemany`, which remembers the statements and their answers in their
    order, up to `limit` of them."""

    def __init__(self, conn: Any, limit: int, again: list[Entry]) -> None:
        super().__init__(conn)
        self.limit = limit
        #: sent before, in another session
        self.again = again
        self.entries: list[Entry] = []
        self.answers: list[Any] = []

    @property
    def over(self) -> bool:
        return len(self.entries) > self.limit

    def _process_results(self, queued: Any, results: Any) -> None:
        try:
            super()._process_results(queued, results)
        except e.Error as exc:
            conn: Any = self._conn
            keep_farewell(conn._resilient.wire, exc)
            raise
        if queued is not None and not self.over:
            self.answers.append(results)

    def remember(self, entry: Entry) -> None:
        if not self.over:
            self.entries.append(entry)
        elif self.answers:
            self.answers.clear()


def many(cur: Any, recorder: Recorder, query: Any, rows: Iterator[Any], returning: bool) -> Gen:
    """All of it, until it is answered or must fail."""
    journal, judge, wire = recorder.journal, recorder.judge, recorder.wire
    yield from recorder.tell_read_only()
    again: list[Entry] = []
    while True:
        begin = recorder.host.begin()
        if begin:
            yield from recorder.step(begin)
        inside = not recorder.host.autocommit or wire.in_block
        batch = Batch(cur._conn, journal.max_statements, again)
        try:
            steps = _rows(cur, batch, query, rows, returning)
            yield from _send(cur, recorder, batch, steps)
        except e.Error as failure:
            exc = judge.heard(failure)
            again = batch.entries
            if not wire.lost or judge.own_failure(exc):
                _answered(recorder, batch, exc)
                if ended(exc):
                    judge.end_with(exc)
                raise exc from None
            if batch.over:
                journal.over_statements()
            for entry in again[len(batch.answers) :][:1]:  # the one that was under way
                judge.strike(entry.query, exc)
            sent = Sent.BLOCK if inside else Sent.AUTOCOMMIT
            if not (yield from recorder.deal_with(exc, sent, str(query))):
                raise exc from None
            continue
        _answered(recorder, batch, None)
        return


def _send(cur: Any, recorder: Recorder, batch: Batch, steps: Gen) -> Gen:
    failure: BaseException | None = None
    cur._conn._pipeline = batch
    recorder.deferring = True  # BEGIN is not this one's to send
    try:
        yield from batch._enter_gen()
        try:
            yield from steps
        except Exception as exc:  # also the caller's own, whose rows these are
            failure = exc
            if recorder.wire.lost:
                raise
        try:
            yield from batch._exit_gen()
        except e.Error as exc:
            failure = failure or exc
        batch._exit(failure)
        if failure is not None:
            raise failure
    finally:
        recorder.deferring = False
        cur._conn._pipeline = None


def _rows(cur: Any, batch: Batch, query: Any, rows: Iterator[Any], returning: bool) -> Gen:
    """psycopg's `_executemany_gen_pipeline`, from rows that were sent before and the rest."""
    conn = cur._conn
    yield from cur._start_query(query)
    if not returning:
        cur._rowcount = 0
    cur._execmany_returning = returning
    pgq: Any = None
    for entry in batch.again:
        if pgq is None:
            pgq = cur._query_cls(cur._tx)
        pgq.query, pgq.params = entry.query, entry.params
        pgq.types, pgq.formats = entry.types, entry.formats
        yield from cur._maybe_prepare_gen(pgq, prepare=True)
        yield from batch._communicate_gen()
    fresh = True
    for params in rows:
        if fresh:
            pgq = cur._convert_query(query, params)
            cur._query, fresh = pgq, False
        else:
            pgq.dump(params)
        yield from cur._maybe_prepare_gen(pgq, prepare=True)
        yield from batch._communicate_gen()
    cur._last_query = query
    if returning:
        yield from batch._fetch_gen(flush=True)
    yield from conn._prepared.maintain_gen(conn)


def _answered(recorder: Recorder, batch: Batch, exc: e.Error | None) -> None:
    journal = recorder.journal
    if not recorder.wire.in_block:
        journal.reset()
        return
    if batch.over:
        journal.over_statements()
    for entry, results in zip(batch.entries, batch.answers, strict=False):
        journal.rule_out(traits(entry.query).hazard)
        journal.add(entry, results)
    done = len(batch.answers)
    if exc is not None and exc.pgresult is not None and done < len(batch.entries):
        journal.add(batch.entries[done], [exc.pgresult])
    journal.unanswered()
