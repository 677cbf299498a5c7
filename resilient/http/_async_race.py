"""Waiting for a response's head in an async shell: bounded, and joined by a rival.

When an endpoint stays silent too long, the request is sent to another endpoint while the
first is still listened to.  The first answer wins, the other attempt is cancelled.
"""

from __future__ import annotations

from math import inf
from typing import Any

import anyio

from ._attempt import Attempt, Elsewhere, Superseded, clock


async def read_head(stream: Any, attempt: Attempt, max_bytes: int, timeout: float | None) -> bytes:
    """Bytes of the head.  Core's ReadTimeout at the deadline or after `timeout` seconds."""
    user_until_s = inf if timeout is None else clock() + timeout
    data: bytes
    while True:
        now = clock()
        until_s = min(user_until_s, attempt.until_s())
        if now >= until_s:
            raise stream.library.core_error("ReadTimeout", TimeoutError("timed out"))
        stop_s = min(until_s, attempt.silence_at)
        try:
            data = await stream.inner.read(max_bytes, max(0.001, stop_s - now))
        except stream.library.core.ReadTimeout:
            if clock() < attempt.silence_at:
                continue
            if not attempt.call.repeatable:
                attempt.look(clock())
                continue
            race = Race(stream, attempt, max_bytes, until_s)
            beside = await race.run()
            if beside is None:
                continue
            data = beside
        attempt.silence_at = inf
        stream.slot.byte_at = clock()
        return data


class Race:
    """The silent attempt against its rivals."""

    def __init__(self, stream: Any, attempt: Attempt, max_bytes: int, until_s: float) -> None:
        self._stream = stream
        self._attempt = attempt
        self._max_bytes = max_bytes
        self._until_s = until_s
        self._data: bytes | None = None
        self._error: Exception | None = None
        self._won: Superseded | None = None
        self._alone = False

    async def run(self) -> bytes | None:
        """Bytes for the silent attempt; None when there is no one to race with.

        `Superseded` when a rival got the response.
        """
        rival = self._attempt.call.rival(self._attempt, clock())
        if rival is None:
            return None
        try:
            async with anyio.create_task_group() as group:
                group.start_soon(self._listen, group)
                group.start_soon(self._rivals, rival, group)
        except BaseException:
            await self._drop_response()
            raise
        if self._data is not None:
            await self._drop_response()
            return self._data
        if self._won is not None:
            raise self._won
        raise self._error or self._stream.library.core_error("ReadTimeout", TimeoutError())

    async def _listen(self, group: Any) -> None:
        try:
            left_s = max(0.001, self._until_s - clock())
            self._data = await self._stream.inner.read(self._max_bytes, left_s)
        except Exception as exc:
            self._error = exc
        if self._data is not None or self._alone:
            group.cancel_scope.cancel()

    async def _rivals(self, rival: Attempt | None, group: Any) -> None:
        call = self._attempt.call
        while True:
            if rival is None:
                rival = await self._wait_for_rival()
                continue
            rival.outer = (*self._attempt.outer, (self._attempt, self._stream))
            try:
                if await self._ask(rival):
                    group.cancel_scope.cancel()
                    return
            except Elsewhere:
                call.redirected(rival)
                rival = call.attempt(clock())
                continue
            self._attempt.silence_at = call.rival_failed(rival, None, clock())
            if self._error is not None:
                group.cancel_scope.cancel()
                return
            rival = None

    async def _wait_for_rival(self) -> Attempt | None:
        """The next attempt beside the silent one, when its time has come."""
        attempt = self._attempt
        self._alone = True
        if attempt.silence_at == inf:
            await anyio.sleep_forever()
        await anyio.sleep(max(0.0, attempt.silence_at - clock()))
        self._alone = False
        return attempt.call.rival(attempt, clock())

    async def _ask(self, rival: Attempt) -> bool:
        call = rival.call
        try:
            response = await self._stream.runner()(rival)
        except Superseded as won:
            call.superseded(rival, clock())
            self._won = won
            return True
        except Elsewhere:
            raise
        except call.library.client.TransportError as exc:
            call.rival_failed(rival, exc, clock())
            return False
        except BaseException:
            rival.leave()
            raise
        if not call.rival_answered(rival, response.status_code, clock()):
            await response.aclose()
            return False
        self._won = Superseded(rival, response)
        return True

    async def _drop_response(self) -> None:
        if self._won is not None:
            with anyio.CancelScope(shield=True):
                await self._won.response.aclose()
            self._won.attempt.leave()
