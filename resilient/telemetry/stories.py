"""The failovers of one cluster or HTTP origin, told as they happen: lines, spans, metrics, and
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

from opentelemetry import trace
from opentelemetry.trace import SpanContext

from .._logs import Line
from ..core.failover import Failover, Step
from . import instruments, names, records
from .background import background
from .records import Record
from .spans import Spans

__all__ = ["Stories"]

logger = logging.getLogger("resilient.failover")

#: a failover that isn't over after so long is told of as `unfinished`, and again after as long
UNFINISHED_S = 60.0
#: links to the spans of calls that waited come in for so long after a failover is over
GRACE_S = 1.0
#: of those, at most
MOST_LINKS = 100
#: `close` waits so long for exporters, in seconds
FLUSH_S = 1.0

_GONE = frozenset({"lost", "ejected", "retired"})
#: what is seen at Python's default level; the first of each, so that it stays a story
_LOUD = _GONE | {"promoted"}
#: what a failover of a database says of itself
POSTGRESQL = {"db.system.name": "postgresql"}


class _Told:
    """One failover.  `contexts`: spans of calls that waited for its end; `parts`: how often it
    was told of as unfinished."""

    def __init__(self, failover_id: str, failover: Failover, record: Record) -> None:
        self.id, self.failover, self.record = failover_id, failover, record
        self.spans: Spans | None = None
        self.contexts: dict[int, SpanContext] = {}
        self.linked: set[int] = set()
        self.loud: set[str] = set()
        self.result = ""
        self.ended_at_s = 0.0
        self.parts = 0


class Stories:
    """`labels`: what its lines say of it (`pool`, `database`), asked at each line; `system`:
    attributes of its spans and metrics."""

    def __init__(
        self, labels: Callable[[], Mapping[str, str]], system: Callable[[], Mapping[str, str]]
    ) -> None:
        self._labels, self._system = labels, system
        self._lock = threading.Lock()
        self._told: _Told | None = None
        self._last: _Told | None = None
        self._kept: deque[_Told] = deque(maxlen=records.KEPT)
        self._news: deque[tuple[Failover | None, tuple[Step, ...], bool]] = deque()
        self._telling = threading.Lock()

    @property
    def failovers(self) -> tuple[Record, ...]:
        """The last ones, oldest first."""
        with self._lock:
            return tuple(told.record for told in self._kept)

    # -- what happens: noted in its order, under whatever lock that has; told outside of it

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
        told = self._told
        if current is not None:
            if told is None:
                told = self._told = self._meet(current)
            told.failover = told.record.failover = current
        for step in steps:
            self._log(told, step)
        if told is None:
            return
        if current is None:
            self._recovered(told, steps)
        elif told.spans is None and any(step.name in _LOUD for step in steps):
            self._begin(told)
        elif told.spans is not None:
            self._later(told)

    def _tell_end(self, failover: Failover) -> None:
        told = self._told
        if told is None:
            return
        told.failover = told.record.failover = failover
        if told.spans is None:
            self._begin(told)
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
            told,
            step="over",
            old=failover.old.endpoint.place,
            new=failover.new.endpoint.place if failover.new else None,
            total_s=seconds,
            **failover.phases(),
        )
        self._end(told, "over", failover.ended_at, GRACE_S)

    def waited(self, since_s: float, event: str, **said: str | float) -> str:
        """A call of the caller's has waited, or was done again, since then: if a failover was
        under way, its span says so, and the failover's has a link to it.  Its id, or empty.
        Call in the caller's thread or task."""
        told = self._told
        if told is None or told.spans is None:  # no more than a suspicion
            told = self._last
        if told is None or (told.result and told.ended_at_s < since_s):
            return ""
        span = trace.get_current_span()
        context = span.get_span_context()
        if span.is_recording():
            attributes = {f"{event}.{name}": value for name, value in said.items()}
            span.add_event(event, {names.FAILOVER_ID: told.id, **attributes})
            span.set_attribute(names.FAILOVER_ID, told.id)
        with self._lock:
            if not context.is_valid:
                told.record.calls += event == names.WAITED
            elif context.span_id not in told.linked:
                told.record.calls += 1
                told.linked.add(context.span_id)
                if len(told.contexts) < MOST_LINKS:
                    told.contexts[context.span_id] = context
            if len(told.record.met) < records.MOST_MET:
                told.record.met.append((time.time(), event, dict(said)))
        return told.id

    def resent(self, since_s: float, count: int) -> None:
        """An HTTP request of the caller's, begun then, was sent again so many times."""
        span = trace.get_current_span()
        if count > 0 and span.is_recording():
            span.set_attribute("http.request.resend_count", count)
        event = names.REPLAYED if count > 0 else names.WAITED
        self.waited(since_s, event, seconds=time.monotonic() - since_s)

    def close(self, wait: bool = True) -> None:
        """Nobody follows it any more: what is under way ends as `unfinished`.  `wait`: until it
        has gone to the exporters, for a moment."""
        self.tell()
        told, last = self._told, self._last
        self._told = None
        if told is not None and told.spans is not None:
            if not told.parts:
                self._failed(told)
            self._end(told, "unfinished", time.monotonic(), 0.0)
        elif last is None:
            return
        _hurry()
        if wait:
            background.flush(FLUSH_S)

    # -- how it is told

    def _meet(self, current: Failover) -> _Told:
        failover_id = secrets.token_hex(8)
        labels = self._labels()
        return _Told(failover_id, current, Record.of(failover_id, current, labels))

    def _begin(self, told: _Told) -> None:
        """It is no mere suspicion any more."""
        told.spans = Spans(told.id, self._attributes())
        instruments.count(names.STARTED, self._attributes())
        with self._lock:
            self._kept.append(told)
            self._last = told
        records.keep(told.record)
        self._later(told)
        background.call(_Check(self, told), UNFINISHED_S)

    def _later(self, told: _Told) -> None:
        spans, failover = told.spans, told.failover
        if spans is not None:
            background.call(lambda: spans.follow(failover))

    def _recovered(self, told: _Told, steps: tuple[Step, ...]) -> None:
        self._told = None
        at_s = steps[-1].at_s if steps else time.monotonic()
        if told.spans is not None:
            self._say(logging.WARNING, told, step="recovered",
                      endpoint=told.failover.old.endpoint.place,
                      total_s=at_s - told.failover.started_at)  # fmt: skip
            self._end(told, "recovered", at_s, GRACE_S)

    def _end(self, told: _Told, result: str, at_s: float, grace_s: float) -> None:
        self._told = None
        told.result, told.ended_at_s = result, at_s
        told.record.end(result, at_s)
        background.forget(lambda do: isinstance(do, _Check) and do.told is told)
        background.call(_End(self, told, result, at_s), grace_s)

    def _unfinished(self, told: _Told) -> None:
        """It isn't over after a minute.  On `background`'s thread."""
        failover, spans = told.failover, told.spans
        if told.result or spans is None:
            return
        with self._lock:
            contexts, told.contexts = list(told.contexts.values()), {}
        first = not told.parts
        told.parts += 1
        if first:
            self._failed(told)
        now = time.monotonic()
        told.record.result = "unfinished"
        spans.end(failover, "unfinished", now, contexts, told.record.calls)
        spans.go_on(failover, now)
        background.call(_Check(self, told), UNFINISHED_S)

    def _failed(self, told: _Told) -> None:
        failover = told.failover
        why = {**self._attributes(), "resilient.failover.cause": failover.cause}
        instruments.count(names.FAILED, why)
        self._say(
            logging.WARNING,
            told,
            step="unfinished",
            endpoint=failover.old.endpoint.place,
            phase=failover.phase,
            since_s=time.monotonic() - failover.started_at,
            reason=failover.reason,
        )

    def _attributes(self) -> dict[str, str]:
        return dict(self._system())

    def _log(self, told: _Told | None, step: Step) -> None:
        loud = told is not None and step.name in _LOUD and step.name not in told.loud
        if told is not None:
            told.loud.add(step.name)
        endpoint = step.endpoint
        named = endpoint is not None and endpoint.name not in ("", endpoint.address)
        if step.name == "recovered" and told is not None and told.spans is not None:
            return  # told with its seconds
        self._say(
            logging.WARNING if loud else logging.INFO,
            told,
            step=step.name,
            endpoint=endpoint.place if endpoint is not None else None,
            name=endpoint.name if named and endpoint is not None else None,
            cause=step.cause or None,
            reason=step.detail or None,
        )

    def _say(self, level: int, told: _Told | None, **fields: object) -> None:
        step = {"step": fields.pop("step")}
        labels = {**self._labels(), "failover": told.id if told is not None else None}
        logger.log(level, "%s", Line(**{**step, **fields, **labels}))


class _Check:
    """After a minute: is it over?"""

    def __init__(self, stories: Stories, told: _Told) -> None:
        self._stories, self.told = stories, told

    def __call__(self) -> None:
        self._stories._unfinished(self.told)


class _End:
    """The root's end, once the calls that waited had their time to say so."""

    def __init__(self, stories: Stories, told: _Told, result: str, at_s: float) -> None:
        self._stories, self._told = stories, told
        self._failover, self._result, self._at_s = told.failover, result, at_s

    def __call__(self) -> None:
        told = self._told
        with self._stories._lock:
            contexts, calls = list(told.contexts.values()), told.record.calls
        if told.spans is not None:
            told.spans.end(self._failover, self._result, self._at_s, contexts, calls)


def _hurry() -> None:
    """Roots that wait for their links end now."""
    background.hurry(lambda do: isinstance(do, _End))
