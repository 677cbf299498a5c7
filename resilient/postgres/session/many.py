"""A whole `executemany`: in a pipeline of its own, done again as a whole.

Its rows are taken one by one, as psycopg takes them; those that were sent are kept as they were.
A row whose statement is prepared goes straight to libpq, and every `TOGETHER` rows the socket is
looked at: psycopg does both for each row, by way of a queue.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING

from psycopg import errors as e
from psycopg import pq
from psycopg.generators import send
from psycopg.pq.abc import PGresult

from ...core.reaction import Sent
from .._psycopg import BasePipeline, PostgresClientQuery
from ..errors import ended
from ..replay.entry import Entry, kept
from ..replay.journal import entry_of
from ..replay.message import tagged
from ..replay.statements import traits
from .answers import fetched
from .pipeline import DONE, TOGETHER

if TYPE_CHECKING:
    from psycopg.abc import Params, Query

    from .._psycopg import PendingResult, PostgresQuery
    from ..replay.recorder import Recorder
    from .host import Gen, RecordedCursor
    from .keeper import KeptConnection

    Cursor = RecordedCursor[KeptConnection]
    Rows = Iterator[Params]

#: of so many rows it is looked at whether they can only read
FEW = 16

_TUPLES = pq.ExecStatus.TUPLES_OK
_FATAL = pq.ExecStatus.FATAL_ERROR
#: in the queue of results: our own question's
_PIGGYBACK = object()


class Apart(BasePipeline):
    """The pipeline of one `executemany`; its end is one message, and isn't waited for twice.

    `own`: the caller's own failure, a row that wasn't given or that psycopg doesn't take.  `broke`:
    what ended the session behind it.
    """

    own: BaseException | None = None
    broke: e.Error | None = None

    def __init__(self, conn: KeptConnection) -> None:
        super().__init__(conn)
        self.kept = conn._resilient

    def _enter_gen(self) -> Gen:
        wire = self.kept.wire
        if wire.rowwise:
            wire.read_whole()
        return super()._enter_gen()

    def _fetch_gen(self, *, flush: bool) -> Gen:
        return fetched(self, flush)

    def _exit_gen(self) -> Gen:
        commands, pgconn = self.command_queue, self.pgconn
        sent = False
        try:
            while commands:
                commands.popleft()()
            pgconn.pipeline_sync()
            self.result_queue.append(None)
            if pgconn.flush():
                yield from send(pgconn)
            sent = True
        finally:
            yield from fetched(self, flush=not sent)


def unrecorded(cur: Cursor, query: Query, rows: Rows, returning: bool) -> Gen:
    """All of it, as psycopg does it, while one waits."""
    conn = cur._conn
    batch = conn._pipeline = Apart(conn)
    try:
        yield from _within(batch, cur._executemany_gen_pipeline(query, rows, returning), _never)
    finally:
        conn._pipeline = None


def _never() -> bool:
    return False


def _within(batch: Apart, steps: Gen, lost: Callable[[], bool]) -> Gen:
    """Between the pipeline's begin and its end.  `lost`: is there nothing to be ended?"""
    failure: BaseException | None = None
    yield from batch._enter_gen()
    try:
        yield from steps
    except BaseException as exc:  # also the caller's own, whose rows these are
        failure = exc
        if isinstance(exc, GeneratorExit) or lost():
            raise
    try:
        yield from batch._exit_gen()
    except e.Error as exc:
        batch.broke = exc
        failure = failure or exc
    batch._exit(failure)
    if failure is not None:
        raise failure


class Batch(Apart):
    """The pipeline of one `executemany`, which remembers the statements and their answers in their
    order, up to `limit` of them.  `over`: there were more.  `inside`: of a block.  `piggyback`: the
    answer to our question behind them.  `reads`: they can only read, and nothing was asked."""

    def __init__(self, conn: KeptConnection, recorder: Recorder, again: list[Entry]) -> None:
        super().__init__(conn)
        self.recorder = recorder
        self.limit = recorder.journal.max_statements
        self.over = False
        #: sent before, in another session
        self.again = again
        self.entries: list[Entry] = []
        self.answers: list[list[PGresult]] = []
        self.piggyback: PGresult | None = None
        self.inside = self.reads = False

    def _process_results(self, queued: PendingResult, results: list[PGresult]) -> None:
        if queued is _PIGGYBACK:
            self.piggyback = results[0]
            return
        if queued is None or queued[1] or len(results) != 1 or results[0].status not in DONE:
            try:
                super()._process_results(queued, results)
            except e.Error as exc:
                self.recorder.wire.keep_farewell(exc)
                raise
        else:
            queued[0]._set_results(results)
        if queued is not None and not self.over:
            self.answers.append(results)

    def remember(self, entry: Entry) -> None:
        if self.over:
            return
        self.entries.append(entry)
        if len(self.entries) > self.limit:
            self.end()

    def end(self) -> None:
        """There are more than can be remembered."""
        self.over = True
        self.answers.clear()


# long: one attempt, and what its failure may be
def many(cur: Cursor, recorder: Recorder, query: Query, rows: Rows, returning: bool) -> Gen:
    """All of it, until it is answered or must fail."""
    journal, judge, wire = recorder.journal, recorder.judge, recorder.wire
    yield from recorder.tell_read_only()
    again: list[Entry] = []
    while True:
        begin = recorder.host.begin()
        if begin:
            yield from recorder.step(begin)
        inside = not recorder.host.autocommit or wire.in_block
        batch = Batch(cur._conn, recorder, again)
        batch.inside = inside
        try:
            steps = _rows(cur, batch, query, rows, returning)
            yield from _send(cur, recorder, batch, steps)
        except BaseException as failure:
            again, own = batch.entries, batch.own
            end = failure
            if own is not None:
                if not wire.lost:
                    _answered(recorder, batch, None)
                    raise
                # What was sent before it is done again; then it is told.
                end = batch.broke or e.OperationalError("the connection was lost")
                rows = _failing(own)
            if not isinstance(end, e.Error):
                raise
            exc = judge.heard(end)
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
        if recorder.sender.spoilt is not None:
            yield from recorder.without_piggyback()
        return


def _send(cur: Cursor, recorder: Recorder, batch: Batch, steps: Gen) -> Gen:
    cur._conn._pipeline = batch
    recorder.deferring = True  # BEGIN is not this one's to send
    try:
        yield from _within(batch, steps, lambda: recorder.wire.lost)
    finally:
        recorder.deferring = False
        cur._conn._pipeline = None


# long: a row is sent in it, and a call costs a fifth of a microsecond
def _rows(cur: Cursor, batch: Batch, query: Query, rows: Rows, returning: bool) -> Gen:
    """psycopg's `_executemany_gen_pipeline`, from rows that were sent before and the rest."""
    conn = cur._conn
    yield from cur._start_query(query)
    if not returning:
        cur._rowcount = 0
    cur._execmany_returning = returning
    pgq = yield from _before(cur, batch)
    fresh, names, fmt = True, _prepared(cur), cur.format
    put, queue, entries = batch.pgconn.send_query_prepared, batch.result_queue, batch.entries
    own = True
    try:
        for number, params in enumerate(rows):
            if fresh:
                pgq = cur._convert_query(query, params)
                cur._query, fresh = pgq, False
            else:
                pgq.dump(params)
            own = False
            if pgq.params:
                pgq.params = kept(pgq.params)
            asked = (pgq.query, pgq.types)
            name = names.get(asked)
            if name is None:
                batch.remember(entry_of(cur, pgq, fmt))
                yield from cur._by_psycopg(pgq, prepare=True)
                yield from batch._communicate_gen()
                own = True
                continue
            if not batch.over:
                entries.append(Entry(pgq.query, pgq.params, pgq.types, pgq.formats, fmt))
                if len(entries) > batch.limit:
                    batch.end()
            names.move_to_end(asked)
            put(name, pgq.params, param_formats=pgq.formats, result_format=fmt)
            queue.append((cur, None))
            if not number % TOGETHER and number:
                yield from batch._communicate_gen()
            own = True
    except BaseException as exc:
        batch.own = exc if own else None
        raise
    cur._last_query = query
    if pgq is not None:
        _ask(batch, pgq.query)
    if returning:
        yield from batch._fetch_gen(flush=True)
    yield from conn._prepared.maintain_gen(conn)


def _before(cur: Cursor, batch: Batch) -> Gen:
    """Once more what was sent in another session; the query that it was, if any."""
    pgq: PostgresQuery | None = None
    for entry in batch.again:
        if pgq is None:
            pgq = cur._query_cls(cur._tx)
        pgq.query, pgq.params = entry.query, entry.params
        pgq.types, pgq.formats = entry.types, entry.formats
        batch.remember(entry_of(cur, pgq, cur.format))
        yield from cur._by_psycopg(pgq, prepare=True)
        yield from batch._communicate_gen()
    return pgq


def _failing(own: BaseException) -> Rows:
    raise own
    yield  # it is an iterator


def _prepared(cur: Cursor) -> OrderedDict[tuple[bytes, tuple[int, ...]], bytes]:
    """The names of what is prepared, for texts that don't have their parameters in them."""
    manager = cur._conn._prepared
    if manager.prepare_threshold is None or issubclass(cur._query_cls, PostgresClientQuery):
        return OrderedDict()
    return manager._names


def _ask(batch: Batch, query: bytes) -> None:
    """Our question of a block, behind its last row."""
    recorder, wire = batch.recorder, batch.recorder.wire
    known = recorder.journal.written is not None or not wire.piggyback or recorder.host.read_only
    what = traits(query)
    if known or not batch.inside or not what.piggybacks:
        return
    if what.reads and len(batch.entries) <= FEW and not batch.over:
        proved = recorder.known.proved
        batch.reads = all((entry.query, entry.types) in proved for entry in batch.entries)
        if batch.reads:
            return
    ask = partial(batch.pgconn.send_query_params, tagged(wire.piggyback, query), None)
    batch.command_queue.append(ask)
    batch.result_queue.append(_PIGGYBACK)  # type: ignore[arg-type]


def _answered(recorder: Recorder, batch: Batch, exc: e.Error | None) -> None:
    journal = recorder.journal
    if not recorder.wire.in_block:
        journal.reset()
        return
    if batch.over:
        journal.over_statements()
    done = len(batch.answers)
    journal.add_all(batch.entries[:done], batch.answers)
    if exc is not None and exc.pgresult is not None and done < len(batch.entries):
        journal.add(batch.entries[done], [exc.pgresult])
    piggyback = batch.piggyback
    if piggyback is not None and piggyback.status == _TUPLES and journal.written is None:
        recorder.committer.read_piggyback(piggyback)
        journal.marked_behind()
        return
    if batch.reads:
        return
    journal.unanswered()
    if exc is None and piggyback is not None and piggyback.status == _FATAL:
        recorder.sender.spoilt = recorder.wire.error(piggyback)
