"""Runs checks, all at once, each for as long as it may take, and none twice at a time.

A check that hangs keeps one thread (or task), however often one asks: until it ends, whoever
asks is told `timeout` at once.  Checks that run when somebody else asks are shared.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Mapping
from concurrent import futures
from inspect import isawaitable
from typing import Any

from .._dataclass import dataclass
from .._logs import Line
from ..errors import ConfigError
from ._checks import Check, as_check
from ._report import OK, Report, result_of

__all__ = ["Readiness", "live", "ready", "ready_async"]

logger = logging.getLogger("resilient.health")


@dataclass(slots=True)
class _Run:
    """A check under way, since `began_at` (monotonic seconds)."""

    began_at: float
    ends: Any  # a future of a thread's, or a task

    def left_s(self, check: Check) -> float:
        """Seconds for which its answer is waited for."""
        return max(0.0, self.began_at + check.timeout_s - time.monotonic())


class Readiness:
    """Named checks: pools, URLs, names in DNS, functions, or `Check`s.  Thread-safe.

    `checks`: by name; `named`: further ones as keyword arguments.

    `ConfigError` for what can't be checked, and without any check: that would be a ping, which
    says that all is well while nothing is.
    """

    def __init__(self, checks: Mapping[str, Any] | None = None, /, **named: Any) -> None:
        given = {**(checks or {}), **named}
        if not given:
            raise ConfigError("readiness needs a check: what must work for a request to be served?")
        self.checks = {name: as_check(name, value) for name, value in given.items()}
        self._lock = threading.Lock()
        self._runs: dict[str, _Run] = {}
        self._said: dict[str, str] = {}

    # -- threads

    def check(self) -> Report:
        """Run all, wait for them; takes no longer than the longest `timeout_s`."""
        self.refuse_coroutines()
        began_at = time.monotonic()
        runs = {name: self._started(name, check) for name, check in self.checks.items()}
        failures = {name: _failure(run, self.checks[name]) for name, run in runs.items()}
        return _report({n: self._note(n, failure) for n, failure in failures.items()}, began_at)

    def refuse_coroutines(self) -> None:
        """`ConfigError` when there is a check that threads can't run."""
        for name, check in self.checks.items():
            if check.asynchronous:
                raise ConfigError(
                    f"check {name!r} is a coroutine's (asyncio): accepted by asgi_app and"
                    " ready_async only"
                )

    def _started(self, name: str, check: Check) -> _Run:
        """The run under way, or a new one in a thread of its own."""
        with self._lock:
            run = self._runs.get(name)
            if run is None or run.ends.done():
                future: futures.Future[BaseException | None] = futures.Future()
                future.set_running_or_notify_cancel()  # no waiter that leaves can cancel it
                run = _Run(time.monotonic(), future)
                threading.Thread(
                    target=_call, args=(check, future), name=f"resilient-health-{name}", daemon=True
                ).start()
                self._runs[name] = run  # it runs: where no thread can be had, the next one tries
            return run

    # -- asyncio

    async def check_async(self) -> Report:
        """The same from a task: coroutine functions run on its loop, others in threads."""
        began_at = time.monotonic()
        runs = {name: self._begun(name, check) for name, check in self.checks.items()}
        waits = (self._awaited(name, run) for name, run in runs.items())
        return _report(dict(zip(runs, await asyncio.gather(*waits), strict=True)), began_at)

    def _begun(self, name: str, check: Check) -> _Run:
        if not check.asynchronous:
            return self._started(name, check)
        loop = asyncio.get_running_loop()
        run = self._runs.get(name)
        if run is None or run.ends.done() or run.ends.get_loop() is not loop:
            run = self._runs[name] = _Run(time.monotonic(), loop.create_task(_called(check)))
        return run

    async def _awaited(self, name: str, run: _Run) -> str:
        check, ends = self.checks[name], run.ends
        waited = ends if check.asynchronous else asyncio.wrap_future(ends)
        try:
            await asyncio.wait([waited], timeout=run.left_s(check))
        except asyncio.CancelledError:
            if waited is not ends:  # the thread's end has nobody to tell here any more
                waited.cancel()
            raise
        if not ends.done():
            waited.cancel()  # a task gives back what it holds; a thread goes on
            return self._note(name, TimeoutError(f"no end within {check.timeout_s:g} s"))
        if ends.cancelled():
            return self._note(name, TimeoutError("cancelled"))
        return self._note(name, ends.result())

    # -- what is told

    def _note(self, name: str, failure: BaseException | None) -> str:
        """The result; the log has it when it changes."""
        result = result_of(failure)
        before, self._said[name] = self._said.get(name, OK), result
        if result not in (OK, before):
            text = " ".join(str(failure).split()) or type(failure).__name__
            line = Line(event="health.failed", check=name, result=result, error=text)
            logger.warning("%s", line)
        elif result == OK and before != OK:
            logger.info("%s", Line(event="health.back", check=name))
        return result


def _call(check: Check, future: futures.Future[BaseException | None]) -> None:
    failure: BaseException | None = None
    try:
        if isawaitable(check.call()):
            failure = TypeError("it returned a coroutine: give the coroutine function itself")
    except BaseException as exc:  # whoever asked is told
        failure = exc
    future.set_result(failure)


async def _called(check: Check) -> BaseException | None:
    try:
        await check.call()
    except Exception as exc:
        return exc
    return None


def _failure(run: _Run, check: Check) -> BaseException | None:
    """How it ended: as a value, since nobody may be left to hear of an exception."""
    try:
        failure: BaseException | None = run.ends.result(timeout=run.left_s(check))
    except futures.TimeoutError:
        return TimeoutError(f"no end within {check.timeout_s:g} s")
    return failure


def _report(results: Mapping[str, str], began_at: float) -> Report:
    return Report(results, round((time.monotonic() - began_at) * 1e3))


def ready(checks: Mapping[str, Any] | None = None, /, **named: Any) -> Report:
    """Check once; `checks` and `named` as in `Readiness`.  Who asks again and again keeps a
    `Readiness`, which starts no check twice."""
    return Readiness(checks, **named).check()


async def ready_async(checks: Mapping[str, Any] | None = None, /, **named: Any) -> Report:
    """The same from a task; `checks` and `named` as in `Readiness`."""
    return await Readiness(checks, **named).check_async()


def live() -> Report:
    """The process answers.  It touches no dependency."""
    return Report({"live": OK})
