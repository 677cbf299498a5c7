"""All origins of one `Settings` in this process: looked up, kept fresh and probed on the
monitor's loop, read by requests without I/O.

A directory lives as long as some engine holds it.  It takes the monitor thread only when a
name must be resolved or an endpoint probed; literal addresses need neither.
"""

# long: one directory, with its origins' look-ups
from __future__ import annotations

import asyncio
import logging
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from math import inf
from typing import Literal, cast

from .._logs import Line
from ..core.budget import RetryBudget
from ..core.dns_names import is_localhost
from ..core.hosts import literal_address
from ..core.model import Endpoint
from ..core.upstream import UpstreamConfig
from ..core.upstream_events import Answered, Gone
from ..errors import NameNotFound, NameServersFailed, ResolutionError
from ..monitor import thread
from ..monitor.zone import own_zone
from ..settings import Settings
from . import _addresses
from ._origin import Keeper, Origin
from ._probe import ProbeFactory, Prober

#: an origin that nobody asked for this long is no longer looked up or probed, in seconds
IDLE_S = 300.0
#: a name is kept up to date for so many times as long as it has been in use, IDLE_S at most: one
#: that was used once isn't asked for again, so a crawler's names cost what they cost without us
KEPT_TIMES = 10.0
#: those who waited for a name's answer are about to use it, in seconds
AT_LEAST_S = 0.5
#: with more origins than this, the half of them that rested longest is forgotten
MANY = 256
#: the shortest pause between two lookups of a name that were not asked for
PAUSE_S = 0.05
#: pause after a lookup that failed
FAILED_PAUSE_S = 1.0
CLOSE_S = 2.0

Key = tuple[str, str, int]
logger = logging.getLogger("resilient.http")


class Record:
    """One origin's task on the monitor's loop, and who waits for its first answer."""

    __slots__ = (
        "answered_s",
        "born_s",
        "fresh",
        "given",
        "named",
        "origin",
        "task",
        "waiters",
        "wake",
    )

    def __init__(self, origin: Origin, named: bool) -> None:
        self.origin = origin
        self.named = named  # has a name to look up, not a literal address
        #: when it was first used, and when those who waited for it were told last
        self.born_s = self.answered_s = time.monotonic()
        self.task: asyncio.Task[None] | None = None
        self.wake: asyncio.Event | None = None
        self.waiters: list[Future[None]] = []
        self.fresh = False
        #: what DNS said last: (stamp, addresses, canonical name)
        self.given: tuple[float, tuple[str, ...], str] | None = None


class Directory:
    """Use `hold`, not the constructor."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.pid = os.getpid()
        self.users = 0
        self._lock = threading.RLock()
        self._records: dict[Key, Record] = {}
        #: of all records, those that are ending included
        self._tasks: set[asyncio.Task[None]] = set()
        self._monitor: thread.MonitorThread | None = None
        self._source: _addresses.AddressSource | None = None
        self._closed = False

    # -- for requests, on any thread

    def origin(self, key: Key, keeper: Keeper, prober: Callable[[], ProbeFactory]) -> Origin:
        """The origin of (scheme, host, port); `prober` gives what health checks dial with."""
        with self._lock:
            record = self._records.get(key)
            if record is None:
                if len(self._records) >= MANY:
                    self._forget_rested()
                record = self._create(key)
            origin = record.origin
            if origin.probe_context is None and self.settings.http_health_path is not None:
                origin.probe_context = prober()
            with origin.lock:
                origin.keepers.add(keeper)
            return origin

    def _forget_rested(self) -> None:
        until_s = time.monotonic() - AT_LEAST_S
        rested = [
            record
            for record in self._records.values()
            if record.task is None
            and not record.waiters
            and record.origin.used_at < until_s
            and not record.origin.is_busy()
        ]
        rested.sort(key=lambda record: record.origin.used_at)
        for record in rested[: max(1, len(rested) // 2)]:
            self._forget(record)

    def wait(self, origin: Origin) -> Future[None] | None:
        """None when requests may go on with what is known, else what to wait for."""
        origin.used_at = time.monotonic()
        with self._lock:
            if origin.live:
                return None
            waiter: Future[None] = Future()
            record = self._records.get((origin.scheme, origin.host, origin.port))
            if record is None and not self._closed:  # forgotten just now
                record = self._enter(origin, named=literal_address(origin.host) is None)
            if record is None or self._closed:
                waiter.set_exception(NameServersFailed("closed", name=origin.host))
                return waiter
            record.waiters.append(waiter)
            self._take_monitor().call(self._run, record)
            return waiter

    def close(self) -> None:
        """End all tasks, then give the monitor back."""
        with self._lock:
            self._closed = True
            monitor, self._monitor = self._monitor, None
        if monitor is None or monitor.pid != os.getpid():
            return
        if monitor.current:
            monitor.loop.create_task(self._shut_down())
        else:
            with suppress(RuntimeError, TimeoutError):
                monitor.submit(self._shut_down()).result(CLOSE_S)
            for record in list(self._records.values()):
                record.origin.failover_log.close()
        thread.release(monitor)

    # -- making origins

    def _create(self, key: Key) -> Record:
        scheme, host, port = key
        settings = self.settings
        zone, plain = settings.zone, host.rstrip(".").lower()
        config = UpstreamConfig(
            eject_after=settings.eject_after,
            eject_s=settings.eject_s,
            connect_retry_s=settings.probe_interval_s,
            window_s=settings.window_s,
            probe_interval_s=settings.probe_interval_s,
            failure_threshold=settings.failure_threshold,
            success_threshold=settings.success_threshold,
            active=settings.http_health_path is not None,
            mode=cast(Literal["strict", "rotating"] | None, settings.dns_mode.get(plain)),
            zone=None if zone == "auto" else zone,
        )
        now = time.monotonic()
        budget = RetryBudget.full(settings.retry_budget, settings.retry_budget_floor, now)
        origin = Origin(scheme, host, port, config, budget)
        address = literal_address(host)
        record = self._enter(origin, named=address is None)
        if address is not None:
            self._answer(record, _addresses.Addresses((address,), inf))
            origin.live = not config.active
        # Behind an address, and behind localhost (RFC 6761), nobody else can appear.
        origin.movable = config.active or (record.named and not is_localhost(plain))
        return record

    def _enter(self, origin: Origin, named: bool) -> Record:
        record = Record(origin, named)
        origin.refresh = lambda endpoint: self._on_trouble(record, endpoint)
        origin.over = False
        self._records[origin.scheme, origin.host, origin.port] = record
        return record

    def _answer(self, record: Record, answer: _addresses.Addresses) -> None:
        origin, settings = record.origin, self.settings
        given = (answer.stamp, answer.addresses, answer.canonical)
        if answer.stamp and given == record.given:
            return  # from the cache once more: nobody is absent once more
        record.given = given
        names = (*answer.names, answer.canonical, origin.host)
        if settings.zone == "auto" and origin.config.zone is None:
            origin.set_zone(own_zone(settings, answer.addresses))
        zones = tuple(settings.zones.zone_of(address, names) for address in answer.addresses)
        event = Answered(answer.addresses, zones, answer.canonical, answer.mode)
        origin.apply(event, time.monotonic())

    def _take_monitor(self) -> thread.MonitorThread:
        if self._monitor is None:
            self._monitor = thread.acquire()
        return self._monitor

    def _on_trouble(self, record: Record, endpoint: Endpoint | None) -> None:
        monitor = self._monitor
        if monitor is not None:
            monitor.call(self._look_again, record, endpoint)

    # -- on the monitor's loop

    def _look_again(self, record: Record, endpoint: Endpoint | None) -> None:
        if self._source is not None and endpoint is not None:
            self._source.report_dead(endpoint.address)
        record.fresh = True
        if endpoint is None:
            record.origin.used_at = time.monotonic()  # a request wants somebody else
        if record.wake is not None:
            record.wake.set()
        elif record.named and not record.origin.over:  # it came to rest between two attempts
            self._run(record)

    def _run(self, record: Record) -> None:
        if self._closed:
            _settle(record, NameServersFailed("the client was closed", name=record.origin.host))
        elif record.task is None:
            record.wake = asyncio.Event()
            record.task = asyncio.get_running_loop().create_task(self._keep(record))
            self._tasks.add(record.task)
            record.task.add_done_callback(self._tasks.discard)
        elif record.wake is not None:
            record.wake.set()

    async def _keep(self, record: Record) -> None:
        """One origin's life: lookups, probes, and its end when nobody asks any more."""
        origin, wake = record.origin, cast(asyncio.Event, record.wake)
        prober, unwatch = Prober(origin, self.settings), None
        error: Exception = NameServersFailed("the client was closed", name=origin.host)
        closed = True
        try:
            unwatch = self._watch(record) if record.named else None
            while not self._is_idle(record):
                pause_s = await self._look_up(record) if record.named else IDLE_S
                pause_s = min(pause_s, self._idle_in_s(record))
                origin.live = origin.snapshot.resolved
                if not record.named:
                    _settle(record, None)
                prober.follow()
                with suppress(TimeoutError):
                    # not wait_for: Python 3.11's loses a cancellation that comes with the wake
                    async with asyncio.timeout(pause_s):
                        await wake.wait()
                wake.clear()
            closed = False
        except Exception as exc:
            logger.exception("%s", Line(event="name.failed", name=origin.host))
            error = NameServersFailed(f"looking it up failed: {exc}", name=origin.host)
            with self._lock:  # those who wait hear of it, and the next one begins anew
                self._rest(record)
                _settle(record, error)
            closed = False
        finally:
            if closed:
                self._forget(record)
                _settle(record, error)
            if unwatch is not None:
                unwatch()
            await prober.close()

    def _is_idle(self, record: Record) -> bool:
        """Is it time to look it up no longer?  Then that is so from now on."""
        origin = record.origin
        with self._lock:
            used = time.monotonic() < self._kept_until(record)
            if used or record.waiters or origin.partial or origin.is_busy():
                return False
            self._rest(record)
            return True

    @staticmethod
    def _kept_until(record: Record) -> float:
        """Until when its last use keeps it up to date, in monotonic seconds."""
        origin = record.origin
        if not record.named or origin.config.active:
            return origin.used_at + IDLE_S
        kept_s = min(IDLE_S, KEPT_TIMES * (origin.used_at - record.born_s))
        return max(origin.used_at + kept_s, record.answered_s + AT_LEAST_S)

    def _idle_in_s(self, record: Record) -> float:
        """Seconds until it is to be seen whether it is still in use: before its answer expires
        and is refreshed, if that is the end of it."""
        return max(AT_LEAST_S, self._kept_until(record) - time.monotonic())

    @staticmethod
    def _rest(record: Record) -> None:
        """What is known stays; the next request looks up first."""
        record.task, record.wake, record.origin.live = None, None, False

    def _watch(self, record: Record) -> Callable[[], None]:
        if self._source is None:
            self._source = _addresses.factory(self.settings)
        return self._source.watch(record.origin.host, cast(asyncio.Event, record.wake).set)

    def _forget(self, record: Record) -> None:
        origin = record.origin
        key = (origin.scheme, origin.host, origin.port)
        with self._lock:
            if self._records.get(key) is not record:
                return
            del self._records[key]
            origin.live, origin.over = False, True
        origin.close()

    async def _look_up(self, record: Record) -> float:
        """Seconds until the next look-up is due."""
        fresh, record.fresh = record.fresh, False
        origin, source = record.origin, cast(_addresses.AddressSource, self._source)
        try:
            answer = await source.lookup(origin.host, fresh, not origin.snapshot.resolved)
        except ResolutionError as exc:
            # The resolver's trouble isn't the endpoints'.  But NXDOMAIN is an answer.
            if isinstance(exc, NameNotFound):
                record.given = None
                origin.apply(Gone(), time.monotonic())
            origin.completed()
            _settle(record, None if origin.snapshot.resolved else exc)
            return FAILED_PAUSE_S
        origin.partial = origin.partial or answer.partial
        self._answer(record, answer)
        if not answer.partial:
            origin.completed()
        if record.waiters:
            record.answered_s = time.monotonic()
        _settle(record, None)
        return 0.0 if answer.partial else max(PAUSE_S, answer.ttl_s)

    async def _shut_down(self) -> None:
        tasks = tuple(self._tasks)
        for record in self._records.values():
            if record.task is not None:  # the others are ending already
                record.task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        if self._source is not None:
            await self._source.close()
        for _ in range(3):  # a closed transport lets go of its socket one turn of the loop later
            await asyncio.sleep(0)


def _settle(record: Record, error: Exception | None) -> None:
    waiters, record.waiters = record.waiters, []
    for waiter in waiters:
        if waiter.set_running_or_notify_cancel():
            if error is None:
                waiter.set_result(None)
            else:
                waiter.set_exception(error)


# -- one directory per settings

_lock = threading.RLock()
_directories: dict[Settings, Directory] = {}


def hold(settings: Settings) -> Directory:
    """The process's directory for these settings.  Pair with `drop`."""
    with _lock:
        directory = _directories.get(settings)
        if directory is None or directory.pid != os.getpid():
            directory = _directories[settings] = Directory(settings)
        directory.users += 1
        return directory


def drop(directory: Directory) -> None:
    """Give it back; the last one ends it."""
    with _lock:
        if directory.pid != os.getpid():
            return
        directory.users -= 1
        if directory.users > 0:
            return
        if _directories.get(directory.settings) is directory:
            del _directories[directory.settings]
    directory.close()


def _after_fork_in_child() -> None:
    global _lock
    _lock = threading.RLock()
    _directories.clear()


os.register_at_fork(after_in_child=_after_fork_in_child)
