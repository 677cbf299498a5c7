"""The failovers of one cluster or HTTP origin, logged as they happen: lines, spans, metrics, and
the records that are kept in memory.

Called on any thread; what exporters do happens on `background`'s.
"""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING

from .._logs import Line
from ..core.failover import Failover, Step
from . import instruments, names, records
from .background import background
from .records import Record

if TYPE_CHECKING:
    from opentelemetry.trace import Span, SpanContext

    from .spans import Spans

__all__ = ["FailoverLog"]

logger = logging.getLogger("resilient.failover")

#: a failover that isn't over after so long is logged as `unfinished`, and again after as long
UNFINISHED_S = 60.0
#: links to the spans of calls that waited come in for so long after a failover is over
GRACE_S = 1.0
#: of those, at most
MOST_LINKS = 100
#: `close` waits so long for exporters, in seconds
FLUSH_S = 1.0

_GONE = frozenset({"lost", "ejected", "retired"})
#: what is seen at Python's default level; the first of each, so that they stay few
_LOUD = _GONE | {"promoted"}
#: what a failover of a database says of itself
POSTGRESQL = {"db.system.name": "postgresql"}


class _NoSpans:
    """Nobody has imported OpenTelemetry: nobody would see them."""

    def follow(self, *_: object) -> None: ...

    end = go_on = follow


def _spans(failover_id: str, system: Mapping[str, str]) -> Spans | _NoSpans:
    if not instruments.is_imported():
        return _NoSpans()
    from .spans import Spans

    return Spans(failover_id, system)


def _current_span() -> Span | None:
    """The caller's, where it may have one."""
    if not instruments.is_imported():
        return None
    from opentelemetry import trace

    return trace.get_current_span()


class _Logged:
    """One failover.  `contexts`: spans of calls that waited for its end; `parts`: how often it
    was logged as unfinished."""

    def __init__(self, failover_id: str, failover: Failover, record: Record) -> None:
        self.id, self.failover, self.record = failover_id, failover, record
        self.spans: Spans | _NoSpans | None = None
        self.contexts: dict[int, SpanContext] = {}
        self.linked: set[int] = set()
        self.loud: set[str] = set()
        self.result = ""
        self.ended_at_s = 0.0
        self.parts = 0


class FailoverLog:
    """`labels`: what its lines say of it (`pool`, `database`), asked at each line; `system`:
    attributes of its spans and metrics."""

    def __init__(
        self, labels: Callable[[], Mapping[str, str]], system: Callable[[], Mapping[str, str]]
    ) -> None:
        self._labels, self._system = labels, system
        self._lock = threading.Lock()
        self._logged: _Logged | None = None
        self._last: _Logged | None = None
        self._kept: deque[_Logged] = deque(maxlen=records.KEPT)
        self._news: deque[tuple[Failover | None, tuple[Step, ...], bool]] = deque()
        self._telling = threading.Lock()

    @property
    def failovers(self) -> tuple[Record, ...]:
        """The last ones, oldest first."""
        with self._lock:
            return tuple(logged.record for logged in self._kept)

    # -- what happens: noted in its order, under whatever lock that has; logged outside of it

    def follow(self, current: Failover | None, steps: Iterable[Step]) -> None:
        """New steps, of the failover under way or of one that has just come to nothing.  Takes
        no lock and does nothing but note them; `tell` is due."""
        self._news.append((current, tuple(steps), False))

    def over(self, failover: Failover) -> None:
        """The same: it has ended with a connection that can be used."""
        self._news.append((failover, (), True))

    def tell(self) -> None:
        """Tell what was noted.  Who comes while another thread does leaves it to that one."""
        while self._news and self._telling.acquire(blocking=False):
            try:
                while self._news:
                    failover, steps, over = self._news.popleft()
                    if over and failover is not None:
                        self._tell_end(failover)
                    else:
                        self._tell_steps(failover, steps)
            except Exception:
                logger.exception("%s", Line(event="telemetry.failed"))
            finally:
                self._telling.release()

    def _tell_steps(self, current: Failover | None, steps: tuple[Step, ...]) -> None:
        logged = self._logged
        if current is not None:
            if logged is None:
                logged = self._logged = self._meet(current)
            logged.failover = logged.record.failover = current
        for step in steps:
            self._log(logged, step)
        if logged is None:
            return
        if current is None:
            self._recovered(logged, steps)
        elif logged.spans is None and any(step.name in _LOUD for step in steps):
            self._begin(logged)
        elif logged.spans is not None:
            self._later(logged)

    def _tell_end(self, failover: Failover) -> None:
        logged = self._logged
        if logged is None:
            return
        logged.failover = logged.record.failover = failover
        if logged.spans is None:
            self._begin(logged)
        seconds = failover.ended_at - failover.started_at
        attributes = self._attributes()
        why = {**attributes, "resilient.failover.cause": failover.cause}
        instruments.count(names.OVER, why)
        instruments.record(names.DURATION, seconds, why)
        for part in failover.parts():
            phase = {**attributes, "resilient.failover.phase": part.name}
            instruments.record(names.PHASE, part.to_s - part.from_s, phase)
        self._say(
            logging.WARNING,
            logged,
            step="over",
            old=failover.old.endpoint.place,
            new=failover.new.endpoint.place if failover.new else None,
            total_s=seconds,
            **failover.phases(),
        )
        self._end(logged, "over", failover.ended_at, GRACE_S)

    def waited(self, since_s: float, event: str, **said: str | float) -> str:
        """A call of the caller's has waited, or was done again, since then: if a failover was
        under way, its span says so, and the failover's has a link to it.  Its id, or empty.
        Call in the caller's thread or task."""
        logged = self._logged
        if logged is None or logged.spans is None:  # no more than a suspicion
            logged = self._last
        if logged is None or (logged.result and logged.ended_at_s < since_s):
            return ""
        span = _current_span()
        context = span.get_span_context() if span is not None else None
        if span is not None and span.is_recording():
            attributes = {f"{event}.{name}": value for name, value in said.items()}
            span.add_event(event, {names.FAILOVER_ID: logged.id, **attributes})
            span.set_attribute(names.FAILOVER_ID, logged.id)
        with self._lock:
            if context is None or not context.is_valid:
                logged.record.calls += event == names.WAITED
            elif context.span_id not in logged.linked:
                logged.record.calls += 1
                logged.linked.add(context.span_id)
                if len(logged.contexts) < MOST_LINKS:
                    logged.contexts[context.span_id] = context
            if len(logged.record.met) < records.MOST_MET:
                logged.record.met.append((time.time(), event, dict(said)))
        return logged.id

    def resent(self, since_s: float, count: int) -> None:
        """An HTTP request of the caller's, begun then, was sent again so many times."""
        span = _current_span()
        if count > 0 and span is not None and span.is_recording():
            span.set_attribute("http.request.resend_count", count)
        event = names.REPLAYED if count > 0 else names.WAITED
        self.waited(since_s, event, seconds=time.monotonic() - since_s)

    def close(self, wait: bool = True) -> None:
        """Nobody follows it any more: what is under way ends as `unfinished`.  `wait`: until it
        has gone to the exporters, for a moment."""
        self.tell()
        logged, last = self._logged, self._last
        self._logged = None
        if logged is not None and logged.spans is not None:
            if not logged.parts:
                self._failed(logged)
            self._end(logged, "unfinished", time.monotonic(), 0.0)
        elif last is None:
            return
        _hurry()
        if wait:
            background.flush(FLUSH_S)

    # -- how it is logged

    def _meet(self, current: Failover) -> _Logged:
        failover_id = secrets.token_hex(8)
        labels = self._labels()
        return _Logged(failover_id, current, Record.of(failover_id, current, labels))

    def _begin(self, logged: _Logged) -> None:
        """It is no mere suspicion any more."""
        logged.spans = _spans(logged.id, self._attributes())
        instruments.count(names.STARTED, self._attributes())
        with self._lock:
            self._kept.append(logged)
            self._last = logged
        records.keep(logged.record)
        self._later(logged)
        background.call(_Check(self, logged), UNFINISHED_S)

    def _later(self, logged: _Logged) -> None:
        spans, failover = logged.spans, logged.failover
        if spans is not None:
            background.call(lambda: spans.follow(failover))

    def _recovered(self, logged: _Logged, steps: tuple[Step, ...]) -> None:
        self._logged = None
        at_s = steps[-1].at_s if steps else time.monotonic()
        if logged.spans is not None:
            self._say(logging.WARNING, logged, step="recovered",
                      endpoint=logged.failover.old.endpoint.place,
                      total_s=at_s - logged.failover.started_at)  # fmt: skip
            self._end(logged, "recovered", at_s, GRACE_S)

    def _end(self, logged: _Logged, result: str, at_s: float, grace_s: float) -> None:
        self._logged = None
        logged.result, logged.ended_at_s = result, at_s
        logged.record.end(result, at_s)
        background.forget(lambda do: isinstance(do, _Check) and do.logged is logged)
        background.call(_End(self, logged, result, at_s), grace_s)

    def _unfinished(self, logged: _Logged) -> None:
        """It isn't over after a minute.  On `background`'s thread."""
        failover, spans = logged.failover, logged.spans
        if logged.result or spans is None:
            return
        with self._lock:
            contexts, logged.contexts = list(logged.contexts.values()), {}
        first = not logged.parts
        logged.parts += 1
        if first:
            self._failed(logged)
        now = time.monotonic()
        logged.record.result = "unfinished"
        spans.end(failover, "unfinished", now, contexts, logged.record.calls)
        spans.go_on(failover, now)
        background.call(_Check(self, logged), UNFINISHED_S)

    def _failed(self, logged: _Logged) -> None:
        failover = logged.failover
        why = {**self._attributes(), "resilient.failover.cause": failover.cause}
        instruments.count(names.FAILED, why)
        self._say(
            logging.WARNING,
            logged,
            step="unfinished",
            endpoint=failover.old.endpoint.place,
            phase=failover.phase,
            since_s=time.monotonic() - failover.started_at,
            reason=failover.reason,
        )

    def _attributes(self) -> dict[str, str]:
        return dict(self._system())

    def _log(self, logged: _Logged | None, step: Step) -> None:
        loud = logged is not None and step.name in _LOUD and step.name not in logged.loud
        if logged is not None:
            logged.loud.add(step.name)
        endpoint = step.endpoint
        named = endpoint is not None and endpoint.name not in ("", endpoint.address)
        if step.name == "recovered" and logged is not None and logged.spans is not None:
            return  # logged with its seconds
        self._say(
            logging.WARNING if loud else logging.INFO,
            logged,
            step=step.name,
            endpoint=endpoint.place if endpoint is not None else None,
            name=endpoint.name if named and endpoint is not None else None,
            cause=step.cause or None,
            reason=step.detail or None,
        )

    def _say(self, level: int, logged: _Logged | None, **fields: object) -> None:
        step = {"step": fields.pop("step")}
        labels = {**self._labels(), "failover": logged.id if logged is not None else None}
        logger.log(level, "%s", Line(**{**step, **fields, **labels}))


class _Check:
    """After a minute: is it over?"""

    def __init__(self, failover_log: FailoverLog, logged: _Logged) -> None:
        self._failover_log, self.logged = failover_log, logged

    def __call__(self) -> None:
        self._failover_log._unfinished(self.logged)


class _End:
    """The root's end, once the calls that waited had their time to say so."""

    def __init__(
        self, failover_log: FailoverLog, logged: _Logged, result: str, at_s: float
    ) -> None:
        self._failover_log, self._logged = failover_log, logged
        self._failover, self._result, self._at_s = logged.failover, result, at_s

    def __call__(self) -> None:
        logged = self._logged
        with self._failover_log._lock:
            contexts, calls = list(logged.contexts.values()), logged.record.calls
        if logged.spans is not None:
            logged.spans.end(self._failover, self._result, self._at_s, contexts, calls)


def _hurry() -> None:
    """Roots that wait for their links end now."""
    background.hurry(lambda do: isinstance(do, _End))
