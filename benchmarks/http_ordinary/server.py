"""Two web servers, a name server for every name below `test`, and who asks them what to count.

    python -m benchmarks.http_ordinary.server PORT

/quick            at once, after 50 µs of work
/slow?s=2.5       after that long
/upload?pause=1   stops reading for so long in the middle; answers with the size
/once?id=7&s=1    made at once, answered after that long; with If-None-Match a second one is a 412
On CONTROL: /reset, /stats (JSON), /gone?s=1 (no name exists for so long)
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset

SERVERS = ("127.0.1.11", "127.0.1.12")
CONTROL, NAMES = "127.0.1.10", "127.0.0.54"
TTL_S, WORK_S = 2, 50e-6
SOA = "ns.test. root.test. 1 60 60 60 30"


class World:
    """What was asked for since `reset`."""

    def __init__(self) -> None:
        self.open = 0
        self.gone_until = 0.0
        self.reset()

    def reset(self) -> None:
        self.requests = self.questions = 0
        self.peak = self.open
        self.made: set[str] = set()

    def stats(self) -> dict[str, int]:
        return {"requests": self.requests, "questions": self.questions, "peak": self.peak}


WORLD = World()


class Web(asyncio.Protocol):
    """HTTP/1.1 with Content-Length, one request after the other."""

    def connection_made(self, transport: Any) -> None:
        self.transport, self._kept = transport, b""
        self._left, self._answer = 0, ""
        WORLD.open += 1
        WORLD.peak = max(WORLD.peak, WORLD.open)

    def connection_lost(self, exc: Exception | None) -> None:
        WORLD.open -= 1

    def data_received(self, data: bytes) -> None:
        if self._left:
            self._body(len(data))
            return
        self._kept += data
        head, end, rest = self._kept.partition(b"\r\n\r\n")
        if end:
            self._kept = b""
            self._begin(head.decode("latin-1"), len(rest))

    def _begin(self, head: str, there: int) -> None:
        line, *lines = head.split("\r\n")
        target = urlsplit(line.split(" ")[1])
        options = dict(parse_qsl(target.query))
        headers = dict(line.lower().split(": ", 1) for line in lines)
        WORLD.requests += 1
        if target.path == "/quick":
            end = time.perf_counter() + WORK_S
            while time.perf_counter() < end:
                pass
            self._send("200 OK", "ok")
            return
        self._length = self._left = int(headers.get("content-length", 0))
        self._status, self._wait_s = "200 OK", float(options.get("s", 0))
        self._pause_s = float(options.get("pause", 0))
        if target.path == "/once":
            if "if-none-match" in headers and options["id"] in WORLD.made:
                self._status = "412 Precondition Failed"
            WORLD.made.add(options["id"])
        self._body(there)

    def _body(self, size: int) -> None:
        self._left -= size
        if self._pause_s and self._left < self._length / 2:
            self.transport.pause_reading()
            asyncio.get_running_loop().call_later(self._pause_s, self.transport.resume_reading)
            self._pause_s = 0
        if not self._left:
            loop = asyncio.get_running_loop()
            loop.call_later(self._wait_s, self._send, self._status, str(self._length))

    def _send(self, status: str, text: str) -> None:
        head = f"HTTP/1.1 {status}\r\ncontent-type: application/json\r\n"
        self.transport.write(f"{head}content-length: {len(text)}\r\n\r\n{text}".encode())


class Control(Web):
    """Not counted."""

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        pass

    def data_received(self, data: bytes) -> None:
        target = urlsplit(data.decode("latin-1").split(" ")[1])
        if target.path == "/reset":
            WORLD.reset()
        if target.path == "/gone":
            WORLD.gone_until = time.monotonic() + float(dict(parse_qsl(target.query))["s"])
        self._send("200 OK", json.dumps(WORLD.stats()))


class NameServer(asyncio.DatagramProtocol):
    """Every name has both servers' addresses."""

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, peer: Any) -> None:
        query = dns.message.from_wire(data)
        reply = dns.message.make_response(query)
        reply.flags |= dns.flags.AA | dns.flags.RA
        question = query.question[0]
        WORLD.questions += 1
        gone = time.monotonic() < WORLD.gone_until
        if gone:
            reply.set_rcode(dns.rcode.NXDOMAIN)
        if not gone and question.rdtype == dns.rdatatype.A:
            answer = dns.rrset.from_text(question.name, TTL_S, "IN", "A", *SERVERS)
            reply.answer.append(answer)
        else:
            reply.authority.append(dns.rrset.from_text("test.", 30, "IN", "SOA", SOA))
        self.transport.sendto(reply.to_wire(), peer)


async def serve(port: int) -> None:
    """Until the process is killed."""
    loop = asyncio.get_running_loop()
    await loop.create_datagram_endpoint(NameServer, (NAMES, 53))
    for address in SERVERS:
        await loop.create_server(Web, address, port, backlog=256)
    await loop.create_server(Control, CONTROL, port)
    print("ready", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1])))
