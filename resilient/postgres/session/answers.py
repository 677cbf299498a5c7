"""What the server answers, read as psycopg's `execute` and `fetch_many` read it, by fewer steps.

psycopg makes a generator for each result and for each end of some.  An answer is nearly always
there as a whole once its first byte is: then it is read with plain calls, and otherwise, from
where that ends, by psycopg's generators.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator
from typing import TYPE_CHECKING, Any

from psycopg import errors as e
from psycopg import pq, waiting
from psycopg.generators import fetch_many, pipeline_communicate, send
from psycopg.pq.abc import PGconn, PGresult

if TYPE_CHECKING:
    from .._psycopg import BasePipeline

_WAIT_R = waiting.Wait.R
#: to be read, and written to, which ends `pipeline_communicate` where there is nothing to write
_READY = waiting.Ready.RW
_FATAL = pq.ExecStatus.FATAL_ERROR
_SYNC = pq.ExecStatus.PIPELINE_SYNC
#: libpq gives these again and again
_COPIES = frozenset((pq.ExecStatus.COPY_IN, pq.ExecStatus.COPY_OUT, pq.ExecStatus.COPY_BOTH))
_NO_COMMANDS: deque[Any] = deque()


def answered(pgconn: PGconn) -> Generator[Any, Any, list[PGresult]]:
    """The results of what was sent, outside of pipeline mode: psycopg's `execute`."""
    if pgconn.flush():
        yield from send(pgconn)
    if pgconn.is_busy():
        while not (yield _WAIT_R):
            continue
        pgconn.consume_input()
        if pgconn.is_busy():
            rest: list[PGresult] = yield from fetch_many(pgconn)
            return rest
    if (told := pgconn.notifies()) is not None:
        _tell(pgconn, told)
    result = pgconn.get_result()
    if result is None:
        return []
    if pgconn.is_busy():
        return (yield from _more(pgconn, [result]))
    behind = pgconn.get_result()
    if behind is None:
        return [result]
    return (yield from _more(pgconn, [result, behind]))


def _tell(pgconn: PGconn, told: pq.PGnotify | None) -> None:
    while told is not None:
        if pgconn.notify_handler:
            pgconn.notify_handler(told)
        told = pgconn.notifies()


def _more(pgconn: PGconn, results: list[PGresult]) -> Generator[Any, Any, list[PGresult]]:
    """These, and those behind them."""
    for number, result in enumerate(results, 1):
        if result.status in _COPIES:
            return results[:number]
    try:
        results += yield from fetch_many(pgconn)
    except e.DatabaseError:
        # As in psycopg: the server has said why it ends the session.
        if not any(result.status == _FATAL for result in results):
            raise
    return results


def answer_all(pgconn: PGconn, answers: list[list[PGresult]]) -> Generator[Any, Any, None]:
    """The answers to a message in pipeline mode, up to that to its sync, which is left out.  Those
    that came before a failure are there, too."""
    if pgconn.flush():
        yield from send(pgconn)
        results = yield from fetch_many(pgconn)
        while results and results[0].status != _SYNC:
            answers.append(results)
            results = yield from fetch_many(pgconn)
        return
    while True:
        while not (yield _WAIT_R):
            continue
        steps = pipeline_communicate(pgconn, _NO_COMMANDS)
        next(steps)
        try:
            steps.send(_READY)
        except StopIteration as stop:
            answers += stop.value
        if answers and answers[-1][0].status == _SYNC:
            answers.pop()
            return


def fetched(pipeline: BasePipeline, flush: bool) -> Generator[Any, Any, None]:
    """psycopg's `BasePipeline._fetch_gen`: all that its queue waits for.  `flush`: the server may
    keep answers back until it is asked for them."""
    queue, pgconn = pipeline.result_queue, pipeline.pgconn
    if not queue:
        return
    if flush:
        pgconn.send_flush_request()
        yield from send(pgconn)
    failure: e.Error | None = None
    while queue:
        if pgconn.is_busy():
            found = yield from _come(pgconn)
        else:
            found = [results] if (results := (yield from fetch_many(pgconn))) else []
        if not found:
            break
        for results in found:
            queued = queue.popleft()
            try:
                pipeline._process_results(queued, results)
            except e.Error as exc:
                failure = failure or exc
    if failure is not None:
        raise failure


def _come(pgconn: PGconn) -> Generator[Any, Any, list[list[PGresult]]]:
    """The next answers in pipeline mode.  They are looked for before they are waited for: a turn of
    an asyncio loop costs as much as fifty looks."""
    while True:
        steps = pipeline_communicate(pgconn, _NO_COMMANDS)
        next(steps)
        try:
            steps.send(_READY)
        except StopIteration as stop:
            if stop.value or not pgconn.is_busy():
                return stop.value  # type: ignore[no-any-return]
        while not (yield _WAIT_R):
            continue
