"""The two ways to wait: a poll for sync, the loop's readers for async.  Nothing is decided
here."""

from __future__ import annotations

import asyncio
import select
import socket
import time
from collections.abc import Collection, Iterable
from typing import TypeVar

from ._fetch import Waits
from ._wire import Wait

__all__ = ["drive", "drive_async", "poll"]

T = TypeVar("T")


def drive(waits: Waits[T]) -> T:
    """Run `waits` to its end on this thread."""
    try:
        wanted = next(waits)
        while True:
            until = min(wait.until for wait in wanted)
            wanted = waits.send(poll(wanted, until))
    except StopIteration as stop:
        result: T = stop.value
        return result
    finally:
        waits.close()


def poll(wanted: Iterable[Wait], until: float | None) -> Collection[socket.socket]:
    """The sockets that are ready, or none when `until` (real monotonic) has passed."""
    poller = select.poll()
    sockets: dict[int, socket.socket] = {}
    for wait in wanted:
        number = wait.sock.fileno()
        sockets[number] = wait.sock
        poller.register(number, select.POLLOUT if wait.write else select.POLLIN)
    # Rounded up by poll's own millisecond, so that it doesn't return just too early.
    left_ms = None if until is None else max(0.0, (until - time.monotonic()) * 1000 + 0.5)
    return [sockets[number] for number, _ in poller.poll(left_ms)]


async def drive_async(waits: Waits[T]) -> T:
    """Run `waits` to its end on the running loop; cancelling closes its sockets."""
    loop = asyncio.get_running_loop()
    try:
        wanted = next(waits)
        while True:
            wanted = waits.send(await _ready(loop, wanted))
    except StopIteration as stop:
        result: T = stop.value
        return result
    finally:
        waits.close()


async def _ready(
    loop: asyncio.AbstractEventLoop, wanted: tuple[Wait, ...]
) -> Collection[socket.socket]:
    woken: asyncio.Future[None] = loop.create_future()
    ready: set[socket.socket] = set()

    def wake(sock: socket.socket | None) -> None:
        if sock is not None:
            ready.add(sock)
        if not woken.done():
            woken.set_result(None)

    for wait in wanted:
        add = loop.add_writer if wait.write else loop.add_reader
        add(wait.sock.fileno(), wake, wait.sock)
    left = min(wait.until for wait in wanted) - time.monotonic()
    timer = loop.call_later(max(0.0, left), wake, None)
    try:
        await woken
    finally:
        timer.cancel()
        for wait in wanted:
            remove = loop.remove_writer if wait.write else loop.remove_reader
            remove(wait.sock.fileno())
    return ready
