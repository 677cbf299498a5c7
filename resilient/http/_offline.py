"""A switch for tests: no request of ours leaves this machine.

While it is on, every request goes the client library's own way, so whatever stands in for the
network there is asked, and nothing is resolved or probed.  What nobody answers is refused where it
would be dialled.
"""

from __future__ import annotations

import ipaddress
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ._library import Library

_lock = threading.Lock()
#: how often it is on, and how often so that dials are refused: for all threads of the process
_on = _refusing = 0


def is_on() -> bool:
    return _on > 0


@contextmanager
def offline(*, refuse: bool = True) -> Iterator[None]:
    """No request of `resilient.http`'s clients leaves this machine, in no thread of the process.

    Mocks (respx, pytest-httpx, VCR, `MockTransport`, your own) are asked as with the plain
    clients; no name is resolved, nobody is probed.  A request that no mock answers fails with the
    library's `ConnectError`, except to this machine's own addresses (127.0.0.0/8, ::1, localhost).
    `refuse=False`: it goes to the network after all, for mocks that stand below (of sockets).
    """
    global _on, _refusing
    with _lock:
        _on, _refusing = _on + 1, _refusing + refuse
    try:
        yield
    finally:
        with _lock:
            _on, _refusing = _on - 1, _refusing - refuse


def check(library: Library, host: str) -> None:
    """Raise the library's `ConnectError` where this host isn't to be dialled."""
    if _refusing and not _at_home(host.lower().strip("[].")):
        why = f"{host} isn't dialled: resilient.testing.offline(), and no mock has answered"
        raise library.core_error("ConnectError", ConnectionError(why))


def _at_home(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
