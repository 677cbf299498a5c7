"""The caller's own pipelines: `with conn.pipeline()`.

What is queued is recorded when it is queued, and its answer when it comes.  When the session
is lost, the block is done again up to its last queued statement, outside of a pipeline; what
wasn't answered yet goes to the cursors that wait for it, and an empty pipeline goes on.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import errors as e
from psycopg import pq

from ...core.reaction import Sent
from .._psycopg import BasePipeline
from ..errors import ended
from .answers import fetched

if TYPE_CHECKING:
    from psycopg.pq.abc import PGresult

    from .._psycopg import BaseConnection, PendingResult
    from ..replay.entry import Entry
    from ..replay.recorder import Recorder
    from .host import Gen
    from .keeper import KeptConnection

if TYPE_CHECKING:
    Base = BasePipeline
else:
    Base = object


_BAD = pq.ConnStatus.BAD
#: a result that is no error
DONE = frozenset((pq.ExecStatus.COMMAND_OK, pq.ExecStatus.TUPLES_OK))
#: so much is sent before the socket is looked at again
TOGETHER = 16


class RecordingPipeline(Base):
    """Mixed in front of psycopg's pipelines."""

    def __init__(self, conn: KeptConnection) -> None:
        super().__init__(conn)
        self._resilient = conn._resilient
        #: statements that are queued and not answered, in their order
        self._unanswered: deque[Entry] = deque()
        #: what the end of the session has answered instead, with who waits for it
        self._cut: list[tuple[Entry | None, PendingResult]] = []
        #: so often something was sent since the socket was looked at
        self._unlooked = 0

    def remember(self, entry: Entry) -> None:
        """A statement is queued."""
        recorder = self._resilient.recorder
        if recorder is not None:
            recorder.journal.queued(entry, recorder.known.proved)
            self._unanswered.append(entry)

    def _process_results(self, queued: PendingResult, results: list[PGresult]) -> None:
        unanswered = self._unanswered
        entry = unanswered.popleft() if queued is not None and unanswered else None
        recorder = self._resilient.recorder
        if (
            queued is not None
            and not queued[1]
            and len(results) == 1
            and results[0].status in DONE
            and (entry is not None or recorder is None)
        ):  # as psycopg would, without its further calls
            queued[0]._set_results(results)
            if recorder is not None and entry is not None:
                recorder.journal.answered(entry, results)
            return
        try:
            super()._process_results(queued, results)
        except e.Error as exc:
            self._resilient.wire.keep_farewell(exc)
            if self._over(exc):
                self._cut.append((entry, queued))
            elif recorder is not None:
                recorder.journal.rule_out("a pipeline that failed")
            raise
        if entry is not None and recorder is not None:
            recorder.journal.answered(entry, results)

    def _over(self, exc: e.Error) -> bool:
        """Is this no answer to a statement, but the end of the session?"""
        wire = self._resilient.wire
        over = ended(exc) or wire.farewell is not None or wire.pgconn.status == _BAD
        return over and not said(exc)

    def _enter_gen(self) -> Gen:
        if self._resilient.wire.rowwise:
            self._resilient.wire.read_whole()
        return super()._enter_gen()

    def _communicate_gen(self) -> Gen:
        """As psycopg's.  Where libpq takes all of it at once, the socket is looked at every
        `TOGETHER` times: what has come meanwhile is there then, and whoever fetches waits."""
        try:
            self._unlooked += 1
            if self._unlooked < TOGETHER:
                commands = self.command_queue
                while commands:
                    commands.popleft()()
                if not self.pgconn.flush():
                    return
            self._unlooked = 0
            yield from super()._communicate_gen()
        except e.Error as exc:
            yield from self._survive(exc)

    def _fetch_gen(self, *, flush: bool) -> Gen:
        try:
            yield from fetched(self, flush)
        except e.Error as exc:
            yield from self._survive(exc)

    def _survive(self, exc: e.Error) -> Gen:
        """Go on behind the failure; raises it where that can't be."""
        keeper = self._resilient
        recorder, wire = keeper.recorder, keeper.wire
        heard = keeper.judge.heard(exc)
        if ended(heard):
            wire.pgconn.finish()  # its end may be on its way yet, and nothing leaves it clean
        if recorder is None or not wire.lost or said(exc):
            raise exc
        yield from self._revive(recorder, heard)

    def _revive(self, recorder: Recorder, exc: e.Error) -> Gen:
        """The block again on a new session, and the answers to whom they are due."""
        entries = [entry for entry, _ in self._cut if entry is not None] + [*self._unanswered]
        left = [queued for _, queued in self._cut] + [*self.result_queue]
        waiting = [queued for queued in left if queued is not None]
        self._cut.clear()
        if len(entries) != len(waiting):
            recorder.journal.rule_out("a cursor that isn't the connection's")
        block = any(entry.query.startswith(b"BEGIN") for entry in recorder.journal.entries)
        self._conn._pipeline = None
        try:
            sent = Sent.BLOCK if block else Sent.AUTOCOMMIT
            for entry in entries[:1]:  # the one that was under way
                recorder.judge.strike(entry.query, exc)
            if not (yield from recorder.deal_with(exc, sent, "a pipeline")):
                raise exc
        finally:
            self._conn._pipeline = self
        self.pgconn = recorder.wire.pgconn
        self.command_queue.clear()
        self.result_queue.clear()
        self._unanswered.clear()
        self.pgconn.enter_pipeline_mode()
        for entry, (cursor, _) in zip(entries, waiting, strict=True):
            entry.waiting = False  # its caller has it now
            cursor._check_results(entry.results or [])
            cursor._set_results(entry.results or [])


def commit_between(conn: BaseConnection[Any], recorder: Recorder) -> Gen:
    """COMMIT is never one of many in flight: what became of it must be known."""
    pipeline = conn._pipeline
    assert pipeline is not None
    yield from pipeline._sync_gen()
    recorder.wire.pgconn.exit_pipeline_mode()
    conn._pipeline = None
    try:
        yield from recorder.committer.commit()
    finally:
        conn._pipeline = pipeline
        pgconn = pipeline.pgconn = recorder.wire.pgconn
        if pgconn.status != pq.ConnStatus.BAD:
            pgconn.enter_pipeline_mode()


def said(exc: e.Error) -> bool:
    """The server's word on a statement, not the end of a session."""
    return exc.sqlstate is not None and exc.diag.severity_nonlocalized == "ERROR"


class Pipeline(RecordingPipeline, psycopg.Pipeline):
    __module__ = "psycopg"


class AsyncPipeline(RecordingPipeline, psycopg.AsyncPipeline):
    __module__ = "psycopg"
