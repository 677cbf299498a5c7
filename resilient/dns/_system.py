"""`RESILIENT_DNS=system`: names by the C library's getaddrinfo, as it is configured here.

It blocks and can't be interrupted, so each call has a daemon thread of its own; who asks for a
name that is being asked for joins.  It tells no TTL: an answer holds for `TTL_S`, within the
floor and the ceiling, and a change is found by asking again.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from contextlib import suppress

from resilient.core.dns import Absent, Failed, Family, Found, Result, restrict

from ._fetch import Fetched, Plan, Waits
from ._wire import Wait

__all__ = ["SystemLookups"]

#: how long an answer counts, in seconds
TTL_S = 1.0
_KINDS: dict[Family, socket.AddressFamily] = {
    4: socket.AF_INET, 6: socket.AF_INET6, "any": socket.AF_UNSPEC,
}  # fmt: skip
#: answers that say that there is nothing, by the names that this platform has for them
_ABSENT = {
    getattr(socket, name)
    for name in ("EAI_NONAME", "EAI_NODATA", "EAI_ADDRFAMILY")
    if hasattr(socket, name)
}


class _Call:
    """One call of getaddrinfo; `listeners` are written to when it is over."""

    def __init__(self) -> None:
        self.result: Result | None = None
        self.listeners: set[socket.socket] = set()


class SystemLookups:
    """The calls under way."""

    def __init__(self) -> None:
        self._start_over()

    def _start_over(self) -> None:
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._calls: dict[tuple[str, Family], _Call] = {}

    def fetch(self, plan: Plan) -> Waits[Fetched]:
        """Ask for `plan`'s name, until its deadline."""
        if self._pid != os.getpid():  # a parent's threads aren't here
            self._start_over()
        inbox, outbox = socket.socketpair()
        with inbox, outbox:
            inbox.setblocking(False)
            outbox.setblocking(False)
            try:
                call = self._join((plan.key, plan.family), outbox)
            except RuntimeError as exc:  # no thread to be had
                return Fetched(Failed(timeout=False, reason=str(exc)), {})
            try:
                while call.result is None and time.monotonic() < plan.policy.deadline:
                    yield (Wait(inbox, False, plan.policy.deadline),)
            finally:
                with self._lock:
                    call.listeners.discard(outbox)
        result = call.result or Failed(timeout=True, reason="getaddrinfo: no answer")
        if isinstance(result, Found):
            result = restrict(result, plan.networks)
        return Fetched(result, {})

    def _join(self, key: tuple[str, Family], outbox: socket.socket) -> _Call:
        with self._lock:
            call = self._calls.get(key)
            if call is None:
                call = _Call()
                threading.Thread(
                    target=self._run, args=(key, call), name="resilient-getaddrinfo", daemon=True
                ).start()
                self._calls[key] = call
            call.listeners.add(outbox)
            return call

    def _run(self, key: tuple[str, Family], call: _Call) -> None:
        result: Result = Failed(timeout=False, reason="getaddrinfo was interrupted")
        try:
            result = _ask(*key)
        finally:
            with self._lock:
                call.result = result
                if self._calls.get(key) is call:
                    del self._calls[key]
                for outbox in call.listeners:
                    with suppress(OSError):
                        outbox.send(b"\0")


def _ask(name: str, family: Family) -> Result:
    kind, flags = _KINDS[family], socket.AI_CANONNAME
    try:
        infos = socket.getaddrinfo(name, None, kind, socket.SOCK_STREAM, 0, flags)
    except socket.gaierror as exc:
        if exc.errno in _ABSENT:
            # One family's absence is none of the name.
            return Absent(exists=family != "any", ttl_s=0)
        return Failed(timeout=False, reason=exc.strerror or str(exc))
    except (OSError, ValueError) as exc:
        return Failed(timeout=False, reason=str(exc))
    plain = name.removesuffix(".")
    canonical = infos[0][3].removesuffix(".").lower() or plain
    addresses = tuple(dict.fromkeys(str(info[4][0]) for info in infos))
    return Found(tuple(dict.fromkeys((plain, canonical))), addresses, TTL_S)
