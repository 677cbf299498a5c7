"""An HTTP/2 server that does what its paths say, on cleartext with prior knowledge.

/x                 200
/slow?s=0.5        200 after that long
/refuse            REFUSED_STREAM for the first one, 200 for others
/last              GOAWAY that includes this stream, then 200
/above             GOAWAY that doesn't include this stream, then nothing; 200 the next time
/early?s=0.5       103 at once, 200 after that long
/big?n=1000000     so many bytes
/refuse-early      REFUSED_STREAM for the first one, as soon as its head is there
/early-answer      413 as soon as its head is there; nothing of the body is taken
/bye               200, then the end of the connection, without a word
"""

from __future__ import annotations

import asyncio
import threading
from contextlib import suppress
from urllib.parse import parse_qsl, urlsplit

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.exceptions
import hyperframe.frame

OK = [(":status", "200")]


class H2Server:
    """One address.  `seen`: paths, in order.  `cancelled`: paths of streams that were reset."""

    def __init__(self, address: str, port: int) -> None:
        self.address, self.port = address, port
        self.seen: list[str] = []
        self.cancelled: list[str] = []
        self.connections = 0
        self.mute = False  # says nothing any more, to anybody
        self.lost = False  # once: says nothing to those who are connected by then
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._ready = threading.Event()
        self._thread.start()
        self._ready.wait(5)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._serve())

    async def _serve(self) -> None:
        self._stop = asyncio.Event()
        server = await asyncio.start_server(self._talk, self.address, self.port)
        self._ready.set()
        async with server:
            await self._stop.wait()
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(5)
        self._loop.close()

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.lost = False
        await Connection(self, reader, writer).run()


class Connection:
    def __init__(
        self, server: H2Server, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._server, self._reader, self._writer = server, reader, writer
        self._h2 = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False))
        self._paths: dict[int, str] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._gone = False

    async def run(self) -> None:
        self._h2.initiate_connection()
        self._flush()
        try:
            while data := await self._reader.read(65536):
                if self._server.mute or self._lost():
                    continue
                for event in self._h2.receive_data(data):
                    self._note(event)
                self._flush()
        except (ConnectionError, asyncio.CancelledError, h2.exceptions.ProtocolError):
            pass
        finally:
            for task in self._tasks:
                task.cancel()
            self._writer.close()

    def _lost(self) -> bool:
        self._gone = self._gone or self._server.lost
        return self._gone

    def _flush(self) -> None:
        if not self._server.mute:
            self._writer.write(self._h2.data_to_send())

    def _note(self, event: object) -> None:
        if isinstance(event, h2.events.RequestReceived):
            path = self._paths[event.stream_id] = dict(event.headers)[b":path"].decode()
            if path in {"/refuse-early", "/early-answer"}:
                self._answer_early(event.stream_id, path)
        elif isinstance(event, h2.events.DataReceived):
            if self._paths[event.stream_id] == "/early-answer":
                return
            self._h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        elif isinstance(event, h2.events.StreamReset):
            self._server.cancelled.append(self._paths[event.stream_id])
        elif isinstance(event, h2.events.StreamEnded):
            task = asyncio.ensure_future(self._answer(event.stream_id))
            self._tasks.add(task)

    def _answer_early(self, stream: int, path: str) -> None:
        if path == "/early-answer":
            self._h2.send_headers(stream, [(":status", "413")])
            self._h2.send_data(stream, b"big", end_stream=True)
        elif path not in self._server.seen:
            self._server.seen.append(path)
            self._h2.reset_stream(stream, h2.errors.ErrorCodes.REFUSED_STREAM)

    async def _answer(self, stream: int) -> None:
        parts = urlsplit(self._paths[stream])
        options, again = dict(parse_qsl(parts.query)), parts.path in self._server.seen
        self._server.seen.append(parts.path)
        body = self._server.address.encode()
        if parts.path == "/refuse" and not again:
            self._h2.reset_stream(stream, h2.errors.ErrorCodes.REFUSED_STREAM)
            self._flush()
            return
        if parts.path == "/last":
            self._go_away(stream)
            await asyncio.sleep(0.1)
        if parts.path == "/above" and not again:
            self._go_away(stream - 2 if stream > 1 else 0)
            return
        if parts.path == "/early":
            self._h2.send_headers(stream, [(":status", "103"), ("link", "</a>")])
            self._flush()
        await asyncio.sleep(float(options.get("s", 0)))
        with suppress(h2.exceptions.ProtocolError):  # reset meanwhile
            self._h2.send_headers(stream, OK)
            await self._send(stream, bytes(int(options["n"])) if "n" in options else body)
        self._flush()
        if parts.path == "/bye":
            self._writer.close()

    async def _send(self, stream: int, body: bytes) -> None:
        while body:
            size = min(len(body), self._h2.local_flow_control_window(stream), 16384)
            if not size:
                self._flush()
                await asyncio.sleep(0.01)
                continue
            self._h2.send_data(stream, body[:size])
            body = body[size:]
        self._h2.end_stream(stream)

    def _go_away(self, last: int) -> None:
        self._flush()
        frame = hyperframe.frame.GoAwayFrame(0, last_stream_id=last, error_code=0)
        self._writer.write(frame.serialize())
