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

from ...core.reaction import Sent
from .._psycopg import BasePipeline
from ..replay.journal import Entry
from ..replay.proofs import Gen
from .connection import ended

if TYPE_CHECKING:
    Base = BasePipeline
else:
    Base = object


class RecordingPipeline(Base):
    """Mixed in front of psycopg's pipelines."""

    def __init__(self, conn: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(conn, *args, **kwargs)
        #: statements that are queued and not answered, in their order
        self.unanswered: deque[Entry] = deque()

    def remember(self, entry: Entry) -> None:
        """A statement is queued."""
        journal = self._journal
        if journal is not None:
            entry.waiting = True
            journal.queued(entry)
            self.unanswered.append(entry)

    @property
    def _journal(self) -> Any:
        conn: Any = self._conn
        return conn._journal

    def _process_results(self, queued: Any, results: Any) -> None:
        entry = self.unanswered.popleft() if queued is not None and self.unanswered else None
        journal = self._journal
        try:
            super()._process_results(queued, results)
        except e.Error as exc:
            keep_farewell(self._conn, exc)
            if journal is not None:
                journal.hazard = journal.hazard or "a pipeline that failed"
            raise
        if entry is not None and journal is not None:
            journal.answered(entry, results)

    def _communicate_gen(self) -> Gen:
        return self._surviving(super()._communicate_gen())

    def _fetch_gen(self, *, flush: bool) -> Gen:
        return self._surviving(super()._fetch_gen(flush=flush))

    def _surviving(self, gen: Gen) -> Gen:
        try:
            yield from gen
        except e.Error as exc:
            conn: Any = self._conn
            heard = conn._heard(exc)
            if ended(heard):
                conn.pgconn.finish()  # its end may be on its way yet, and nothing leaves it clean
            if conn._journal is None or not conn._lost or said(exc):
                raise
            yield from self._revive(conn, heard)

    def _revive(self, conn: Any, exc: e.Error) -> Gen:
        """The block again on a new session, and the answers to whom they are due."""
        entries = list(self.unanswered)
        waiting = [queued for queued in self.result_queue if queued is not None]
        if len(entries) != len(waiting):
            conn._journal.hazard = conn._journal.hazard or "a cursor that isn't the connection's"
        block = any(entry.query.startswith(b"BEGIN") for entry in conn._journal.entries)
        conn._pipeline = None
        try:
            sent = Sent.BLOCK if block else Sent.AUTOCOMMIT
            for entry in entries[:1]:  # the one that was under way
                conn._strike(entry.query, exc)
            if not (yield from conn._deal_with(exc, sent, "a pipeline")):
                raise exc
        finally:
            conn._pipeline = self
        self.pgconn = conn.pgconn
        self.command_queue.clear()
        self.result_queue.clear()
        self.unanswered.clear()
        self.pgconn.enter_pipeline_mode()
        for entry, (cursor, _) in zip(entries, waiting, strict=True):
            cursor._check_results(entry.results or [])
            cursor._set_results(entry.results or [])


def keep_farewell(conn: Any, exc: e.Error) -> None:
    """psycopg reads on behind the server's last words, and tells of the end of the stream."""
    if ended(exc):
        conn._farewell = conn._farewell or exc


def said(exc: e.Error) -> bool:
    """The server's word on a statement, not the end of a session."""
    return exc.sqlstate is not None and exc.diag.severity_nonlocalized == "ERROR"


class Pipeline(RecordingPipeline, psycopg.Pipeline):
    __module__ = "psycopg"


class AsyncPipeline(RecordingPipeline, psycopg.AsyncPipeline):
    __module__ = "psycopg"
