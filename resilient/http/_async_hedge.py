"""An attempt and its hedge, for async shells.

When an endpoint stays silent longer than is usual, and the caller asked for it, the request is
sent to another endpoint while the first is still listened to.  The first answer wins, the other
attempt is cancelled.
"""

from __future__ import annotations

from typing import Any

import anyio

from ._attempt import Attempt, Elsewhere, Superseded, clock


class Hedge:
    """One attempt that may get a hedge."""

    def __init__(self, attempt: Attempt) -> None:
        self._first = attempt
        self._response: Any = None
        self._won: Superseded | None = None
        self._error: BaseException | None = None
        self._alone = True

    async def run(self) -> Any:
        """The first attempt's response; `Superseded` when the hedge got it."""
        try:
            async with anyio.create_task_group() as group:
                group.start_soon(self._ask, group)
                group.start_soon(self._join, group)
        except BaseException:
            await self._drop(self._response)
            await self._drop(None if self._won is None else self._won.response)
            raise
        if self._response is not None:
            if self._won is not None:
                await self._drop(self._won.response)
                self._won.attempt.leave()
            return self._response
        if self._won is not None:
            raise self._won
        assert self._error is not None
        raise self._error

    async def _ask(self, group: Any) -> None:
        try:
            self._response = await self._first.call.once(self._first)
        except (Exception, Elsewhere) as exc:
            self._error = exc
        if self._response is not None or self._alone:
            group.cancel_scope.cancel()

    async def _join(self, group: Any) -> None:
        first = self._first
        await anyio.sleep(max(0.0, first.hedge_at - clock()))
        hedge = first.call.start_hedge(first, clock()) if first.sent else None
        if hedge is None:
            return
        self._alone = False
        await self._ask_hedge(hedge)
        if self._won is not None or self._error is not None:
            group.cancel_scope.cancel()
        self._alone = True

    async def _ask_hedge(self, hedge: Attempt) -> None:
        call = hedge.call
        while True:
            try:
                response = await call.once(hedge)
            except Elsewhere:
                call.redirected(hedge)
                hedge = call.attempt(clock())
                continue
            except call.library.client.TransportError as exc:
                call.hedge_failed(hedge, exc, clock())
                return
            except BaseException:
                hedge.leave()
                raise
            if call.hedge_answered(hedge, response.status_code, clock()):
                self._won = Superseded(hedge, response)
                return
            await response.aclose()
            call.hedge_failed(hedge, None, clock())
            return

    @staticmethod
    async def _drop(response: Any) -> None:
        if response is not None:
            with anyio.CancelScope(shield=True):
                await response.aclose()
