"""What both engines have in common: origins, one inner transport per endpoint, deadlines."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from contextvars import ContextVar
from typing import Any
from weakref import finalize

from .. import errors
from ..settings import Settings, from_environment
from . import _directory, _pools
from ._attempt import Attempt
from ._call import Call, Policy
from ._fallbacks import Fallbacks, variant
from ._library import Library
from ._origin import Origin, Slot
from ._probe import ProbeFactory
from ._probe_client import probe_factory

#: set by a client around a request whose body it will read at once, or won't: in the first
#: case the body belongs to the attempt, and a connection lost in the middle of it can be
#: repaired.  None: `Engine.buffers` says it
BUFFERED: ContextVar[bool | None] = ContextVar("resilient_http_buffered", default=None)
PORTS = {"http": 80, "https": 443, "ws": 80, "wss": 443}
#: how many forks lie between this process and the one that imported us
_forks = 0
#: from this many endpoints on, idle connections are counted over all of them
SWEEP_FROM = 16

MakeInner = Callable[[], Any]
Key = tuple[str, str, int]


class Engine:
    """The state of one transport.  `make_inner` gives a plain transport of the library,
    configured like the one that the user made.  Holds no reference to that one, so that a
    client that is only dropped ends at once."""

    def __init__(self, library: Library, settings: Settings | None, make_inner: MakeInner) -> None:
        self.library = library
        self.settings = settings or from_environment()
        self.policy = Policy(
            library,
            self.settings.deadline_s,
            self.settings.window_s,
            self.settings.retry_attempts,
            library.client.ByteStream,
        )
        #: a client of ours has this engine for itself, and tells it of bodies that it streams
        self.buffers = False
        self.fallbacks: Fallbacks | None = None
        if self.settings.http_fallbacks:
            self.fallbacks = Fallbacks(library, tuple(map(str, self.settings.http_fallbacks)))
        self._make_inner = make_inner
        self._lock = threading.RLock()
        self._fork = _forks
        self._origins: dict[Key, Origin] = {}
        self._inners: dict[Slot, Any] = {}
        self._retired: list[Any] = []
        self._hold()

    def _hold(self) -> None:
        self._directory = _directory.hold(self.settings)
        self._drop = finalize(self, _directory.drop, self._directory)

    # -- one request

    def key(self, request: Any) -> Key | None:
        """(scheme, host, port); None when the library itself is to complain."""
        url = request.url
        port = PORTS.get(url.scheme)
        host = url.host
        return None if port is None or not host else (url.scheme, host, url.port or port)

    def begin(self, request: Any, now: float) -> Call | None:
        """The call, when it may go out at once; else take the longer way, over `origin`."""
        url = request.url
        host, scheme = url.host, url.scheme
        origin = self._origins.get((scheme, host, url.port or PORTS.get(scheme, 0)))
        if origin is None or not origin.live or self.fallbacks or self._fork != _forks:
            return None
        origin.used_at = now
        return Call(self.policy, origin, request, now)

    def origin(self, key: Key, now: float) -> tuple[Origin, Future[None] | None]:
        """The origin, and what to wait for before it can be used."""
        if self._fork != _forks:
            self._forked()
        origin = self._origins.get(key)
        if origin is not None and origin.live:
            origin.used_at = now
            return origin, None
        with self._lock:
            if not self._drop.alive:  # used again after a close, as the libraries allow
                self._hold()
            origin = self._directory.origin(key, self, self._probe_context)
            self._origins[key] = origin
        return origin, self._directory.wait(origin)

    def request_for(self, attempt: Attempt, inner: Any) -> Any:
        """The request as this attempt sends it: only the pool's timeout may differ."""
        call = attempt.call
        request = call.request
        timeouts = request.extensions.get("timeout", {})
        pool_s, left_s = timeouts.get("pool"), call.deadline_s - attempt.began_s
        slot = attempt.slot
        flying = len(slot.flying)
        if flying > 1 and flying > _pools.size(inner) and call.origin.others((*call.tried, slot)):
            # It will wait for a connection, perhaps behind requests that hang.
            left_s = min(left_s / 2, call.window_s)
        if pool_s is not None and pool_s <= left_s:
            return request
        timeouts = {**timeouts, "pool": max(0.001, left_s)}
        return variant(request, extensions={**request.extensions, "timeout": timeouts})

    def resolution_error(self, exc: errors.ResolutionError, host: str) -> Exception:
        """The same error as one of the client library's."""
        kind = next(
            name
            for name in ("NameNotFound", "NameTimeout", "NameServersFailed", "ResolutionError")
            if isinstance(exc, getattr(errors, name))
        )
        error: Exception = getattr(self.library.errors, kind)(str(exc), name=host)
        return error

    def resolution_late(self, host: str) -> Exception:
        text = f"no response by the deadline: {host} was not resolved"
        error: Exception = self.library.errors.DeadlineExceeded(text)
        return error

    def deadline_of(self, request: Any) -> float:
        """Seconds that the request has, as far as the caller or the settings say."""
        options = request.extensions.get("resilient") or {}
        return float(options.get("deadline_s", self.settings.deadline_s))

    # -- inner transports

    def inner(self, slot: Slot) -> Any:
        """The transport whose connections go to this endpoint."""
        inner = self._inners.get(slot)
        if inner is None:
            with self._lock:
                inner = self._inners.get(slot)
                if inner is None:
                    inner = self._make_inner()
                    _pools.pin(inner, self._backend(slot, _pools.backend(inner)))
                    self._inners[slot] = inner
                    if len(self._inners) >= SWEEP_FROM:
                        self._sweep()
        return inner

    def take_inners(self) -> list[Any]:
        """All inner transports, which are forgotten here."""
        with self._lock:
            inners = [*self._inners.values(), *self._retired]
            self._inners, self._retired = {}, []
        return inners

    def detach(self) -> None:
        """Give the directory back (the last engine ends it)."""
        with self._lock:
            self._origins.clear()
        self._drop()

    def _take_idle(self, slot: Slot) -> list[Any]:
        """Idle connections of an endpoint that is gone; a retired one keeps none."""
        with self._lock:
            inner = self._inners.pop(slot, None)
            if inner is None:
                return []
            self._retired = [known for known in self._retired if _pools.busy(known)]
            self._retired.append(inner)
        return _pools.retire(inner)

    def _sweep(self) -> None:
        """Hold the limit of idle connections over all endpoints, the oldest ones first."""
        inners = list(self._inners.items())
        limit = _pools.keepalive_limit(inners[-1][1])
        idle = sum(_pools.idle(inner) for _, inner in inners)
        for slot, inner in inners:
            if _pools.busy(inner):
                continue
            count = _pools.idle(inner)
            if idle > limit or not count:
                self.endpoint_gone(slot)
                idle -= count

    # -- what the two kinds of engine add

    def _backend(self, slot: Slot, network: Any) -> Any:
        raise NotImplementedError

    def _discard(self, inners: list[Any]) -> None:
        raise NotImplementedError

    def endpoint_gone(self, slot: Slot) -> None:
        raise NotImplementedError

    def _probe_context(self) -> ProbeFactory:
        """What dials health checks; needed once per origin, kept by it, so it must not hold
        this engine."""
        return probe_factory(self.library, self._make_inner, self.settings)

    def _forked(self) -> None:
        """A forked child shares no connection, no lock and no thread with its parent."""
        self._lock = threading.RLock()
        with self._lock:
            if self._fork == _forks:
                return
            self._fork = _forks
            self._drop.detach()
            self._origins = {}
            with suppress(Exception):
                self._discard(self.take_inners())
            self._hold()


def _after_fork_in_child() -> None:
    global _forks
    _forks += 1


os.register_at_fork(after_in_child=_after_fork_in_child)
