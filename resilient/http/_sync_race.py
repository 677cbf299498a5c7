"""Waiting for a response in a blocking shell: bounded, watched, and joined by a hedge.

When a hedge was asked for and an endpoint stays silent, the waiting thread itself sends the
request to another endpoint and then waits for both, without any thread of its own.  The first
answer wins; the other attempt is unwound, which closes its connection.
"""

from __future__ import annotations

import select
import ssl
from math import inf
from typing import Any

from ._attempt import Attempt, Elsewhere, PrimaryReady, Superseded, clock


def read_head(stream: Any, attempt: Attempt, max_bytes: int, user_until_s: float) -> bytes:
    """Bytes.  Core's ReadTimeout at the deadline, when the user's own timeout is over, or when
    the endpoint is proved dead."""
    looked = False
    while True:
        now = clock()
        until_s = min(user_until_s, attempt.until_s())
        if now >= until_s and looked:  # what is there already is had even where nothing may wait
            raise stream.library.core_error("ReadTimeout", TimeoutError("timed out"))
        stop_s = min(until_s, attempt.look_at, attempt.hedge_at)
        data: bytes | None
        looked = True
        if attempt.primaries:
            data = _receive_beside(stream, attempt, max_bytes, stop_s)
        else:
            data = stream.take(max_bytes, None if stop_s == inf else max(0.001, stop_s - now))
        if data is not None:
            stream.slot.byte_at = clock()
            attempt.ended = not data
            return data
        if clock() >= attempt.look_at:
            attempt.look(clock())
        if clock() >= attempt.hedge_at:
            _join(stream, attempt)


def _receive_beside(stream: Any, attempt: Attempt, max_bytes: int, stop_s: float) -> bytes | None:
    """Bytes, or None when there were none until `stop_s`."""
    data: bytes | None
    if isinstance(stream.sock, ssl.SSLSocket) and stream.sock.pending():
        data = stream.take_now(max_bytes)
        return data
    poll = select.poll()
    poll.register(stream.sock, select.POLLIN)
    primaries = {waiting.sock.fileno(): one for one, waiting in attempt.primaries}
    for fd in primaries:
        poll.register(fd, select.POLLIN)
    left_s = min(1e6, max(0.0, stop_s - clock()))
    ready = [fd for fd, _ in poll.poll(left_s * 1000 + 0.5)]
    if stream.sock.fileno() in ready:
        data = stream.take_now(max_bytes)
        return data
    if ready:
        raise PrimaryReady(primaries[ready[0]])
    return None


def _join(stream: Any, attempt: Attempt) -> None:
    """Ask another endpoint as well; `Superseded` when that gave the response."""
    call = attempt.call
    hedge = call.start_hedge(attempt, clock())
    while hedge is not None:
        hedge.primaries = (*attempt.primaries, (attempt, stream))
        try:
            response = call.once(hedge)
        except Elsewhere:
            call.redirected(hedge)
            hedge = call.attempt(clock())
            continue
        except PrimaryReady as ready:
            hedge.leave()
            if ready.attempt is attempt:
                return
            raise
        except Superseded:
            hedge.leave()
            raise
        except call.library.client.TransportError as exc:
            call.hedge_failed(hedge, exc, clock())
            return
        except BaseException:
            hedge.leave()
            raise
        if call.hedge_answered(hedge, response.status_code, clock()):
            raise Superseded(hedge, response)
        response.close()
        call.hedge_failed(hedge, None, clock())
        return
