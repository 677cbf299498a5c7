"""An address with several servers behind it: a TCP balancer, as a Service or HAProxy is one."""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Self

Backend = tuple[str, int]


class Balancer:
    """Listens on a loopback address; `choose()` says where each new connection goes.

    `delay_s`: of every packet in each direction.  `accepted`: connections so far.
    """

    def __init__(
        self, address: str, port: int, choose: Callable[[], Backend], delay_s: float = 0.0
    ) -> None:
        self.address, self.port, self.choose, self.delay_s = address, port, choose, delay_s
        self.accepted = 0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._talks: set[asyncio.Task[None]] = set()

    @classmethod
    def round_robin(cls, address: str, port: int, *backends: Backend) -> Self:
        """Each new connection goes to the next one."""
        turns = itertools.cycle(backends)
        return cls(address, port, lambda: next(turns))

    def __enter__(self) -> Self:
        self._thread.start()
        starting = asyncio.start_server(self._serve, self.address, self.port)
        self._server = asyncio.run_coroutine_threadsafe(starting, self._loop).result(5)
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result(5)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)
        self._loop.close()

    async def _end(self) -> None:
        self._server.close()
        for talk in list(self._talks):
            talk.cancel()
        await asyncio.gather(*self._talks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._talks.add(task)
        self.accepted += 1
        try:
            with suppress(OSError):
                back_reader, back_writer = await asyncio.open_connection(*self.choose())
                both = [self._pump(reader, back_writer), self._pump(back_reader, writer)]
                try:
                    await asyncio.gather(*both)
                finally:
                    back_writer.transport.abort()
        except asyncio.CancelledError:
            pass
        finally:
            writer.transport.abort()
            self._talks.discard(task)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(65536):
                if self.delay_s:
                    await asyncio.sleep(self.delay_s)
                writer.write(data)
        writer.transport.abort()
