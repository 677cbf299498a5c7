"""What both engines have in common: origins, and what a request needs before it can go out."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from typing import Any
from weakref import finalize

from .. import errors
from ..core.hosts import can_be_name, literal_address
from ..core.upstream_bounds import bounds
from ..settings import Settings, from_environment
from . import _dial, _directory, _pools
from ._attempt import Attempt
from ._call import Call, Policy
from ._fallbacks import Fallbacks
from ._library import Library, Untouched
from ._origin import Origin
from ._probe import ProbeFactory
from ._probe_client import probe_factory
from ._slot import Slot

PORTS = {"http": 80, "https": 443, "ws": 80, "wss": 443}
#: how many forks lie between this process and the one that imported us
_forks = 0
#: from so many origins on, those that are over are let go
SWEEP_FROM = 64
Key = tuple[str, str, int]
Send = Callable[[Any], Any]


class Engine:
    """The state of one transport.  Holds its pool, but no reference to the transport itself,
    so that a client that is only dropped ends at once."""

    def __init__(self, library: Library, settings: Settings | None, pool: Any) -> None:
        self.library = library
        self.settings = settings or from_environment()
        header = self.settings.http_deadline_header
        self.policy = Policy(
            library,
            self.settings.deadline_s,
            self.settings.window_s,
            self.settings.retry_attempts,
            library.client.ByteStream,
            None if header is None else header.encode("ascii"),
        )
        self.fallbacks: Fallbacks | None = None
        if self.settings.http_fallbacks:
            self.fallbacks = Fallbacks(library, tuple(map(str, self.settings.http_fallbacks)))
        self._own_backend = pool._network_backend
        backend = self._backend()
        self.pool = _pools.make(library, pool, backend, self.blocking)
        if self.blocking:
            backend.settle = partial(_pools.settle, self.pool)
        self._lock = threading.RLock()
        self._fork = _forks
        self._origins: dict[Key, Origin] = {}
        self._sweep_at = SWEEP_FROM
        self._hold()

    #: of the two kinds, the one for threads
    blocking = True

    def _hold(self) -> None:
        self._directory = _directory.hold(self.settings)
        self._drop = finalize(self, _directory.drop, self._directory)

    # -- one request

    def key(self, request: Any) -> Key | None:
        """(scheme, host, port); None when the library itself is to complain.  The host as it
        goes on the wire: never decoded, so never encoded by other rules."""
        url = request.url
        port = PORTS.get(url.scheme)
        host = url.raw_host.decode("ascii")
        return None if port is None or not host else (url.scheme, host, url.port or port)

    def begin(self, request: Any, send: Send, now: float) -> Any:
        """The call, when it may go out at once; else take the longer way, over `origin`."""
        url = request.url
        scheme = url.scheme
        host = url.raw_host.decode("ascii")
        origin = self._origins.get((scheme, host, url.port or PORTS.get(scheme, 0)))
        if origin is None or not origin.live or self.fallbacks or self._fork != _forks:
            return None
        origin.used_at = now
        return Call(self.policy, origin, request, send, self.once, now)

    def origin(self, key: Key, now: float) -> tuple[Origin, Future[None] | None]:
        """The origin, and what to wait for before it can be used."""
        if self._fork != _forks:
            self._forked()
        origin = self._origins.get(key)
        if origin is not None and origin.live:
            origin.used_at = now
            return origin, None
        if literal_address(key[1]) is None and not can_be_name(key[1]):
            text = f"{key[1][:80]!r} can't be a name: labels have 1 to 63 characters"
            raise self.library.errors.NameNotFound(text, name=key[1])
        with self._lock:
            if not self._drop.alive:  # used again after a close, as the libraries allow
                self._hold()
            origin = self._directory.origin(key, self, self._probe_context)
            if len(self._origins) >= self._sweep_at:
                kept = {known: one for known, one in self._origins.items() if not one.over}
                self._origins, self._sweep_at = kept, max(SWEEP_FROM, 2 * len(kept))
            self._origins[key] = origin
        return origin, self._directory.wait(origin)

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

    def resolution_s(self, request: Any) -> float | None:
        """Seconds that finding out the addresses may take, as far as the caller or the
        settings say; a part of getting a connection."""
        asked_s = (request.extensions.get("resilient") or {}).get("deadline_s")
        given = request.extensions.get("timeout") or {}
        explicit = type(given) is not Untouched
        limits = bounds(given, explicit, asked_s, self.settings.deadline_s, 0.0)
        return _dial.finite(limits.connect_s)

    def deadline_of(self, request: Any) -> float:
        """Seconds that the request has, as far as the caller or the settings say."""
        options = request.extensions.get("resilient") or {}
        asked_s = options.get("deadline_s")
        return self.settings.deadline_s if asked_s is None else float(asked_s)

    def buffers(self, call: Call) -> bool:
        """Does the body belong to the attempt?"""
        return call.repeatable and call.flow is not None and call.flow.buffered

    def detach(self) -> None:
        """Give the directory back (the last engine ends it)."""
        with self._lock:
            self._origins.clear()
        self._drop()

    # -- what the two kinds of engine add

    def once(self, attempt: Attempt) -> Any:
        raise NotImplementedError

    def _backend(self) -> Any:
        raise NotImplementedError

    def _discard(self, connections: list[Any]) -> None:
        raise NotImplementedError

    def endpoint_gone(self, slot: Slot) -> None:
        raise NotImplementedError

    def _probe_context(self) -> ProbeFactory:
        """What dials health checks; needed once per origin, kept by it, so it must not hold
        this engine."""
        return probe_factory(self.library, _pools.manner(self.pool), self.settings)

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
                self._discard(_pools.forget(self.pool))
            self._hold()


def _after_fork_in_child() -> None:
    global _forks
    _forks += 1


os.register_at_fork(after_in_child=_after_fork_in_child)
