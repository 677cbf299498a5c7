"""An authoritative DNS server in this process, for one zone, over UDP and TCP.

The zone's contents are snapshots in time: a listener may serve them late, which is how a stale
secondary (or a resolver's cache) looks from outside.  Its faults are a value that can be replaced
while it runs.
"""

from __future__ import annotations

import asyncio
import struct
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final, cast

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdataclass
import dns.rdatatype
import dns.rrset

from .options import LabError

__all__ = ["DnsFaults", "DnsServer", "Query"]

Key = tuple[str, str]
Records = Mapping[Key, tuple[int, tuple[str, ...]]]

_SOA: Final = "ns.{zone} hostmaster.{zone} {serial} 3600 600 86400 {minimum}"


@dataclass(frozen=True, slots=True)
class DnsFaults:
    """What goes wrong with the answers, for all names or (`names`) only for some.

    `delay_s` holds every answer back, `truncate` sets TC over UDP, `wrong_id` answers with
    another id than the question's.
    """

    servfail: bool = False
    refused: bool = False
    nxdomain: bool = False
    drop: bool = False
    delay_s: float = 0.0
    wrong_id: bool = False
    truncate: bool = False
    names: frozenset[str] = frozenset()

    def apply_to(self, name: str) -> bool:
        """Whether queries for this name (no final dot) suffer."""
        return not self.names or name in self.names


@dataclass(frozen=True, slots=True)
class Query:
    """One question that came in.  `at` is monotonic."""

    at: float
    name: str
    type: str
    transport: str
    source: str


class DnsServer:
    """Serves zone `origin`; names are given and kept without a final dot, in lower case."""

    LOG_SIZE = 20_000

    def __init__(self, *origins: str, negative_ttl_s: float = 1.0) -> None:
        self._origins = tuple(origin.rstrip(".").lower() for origin in origins)
        self._negative_ttl = int(negative_ttl_s)
        self._lock = threading.Lock()
        self._history: list[tuple[float, int, Records]] = [(0.0, 1, {})]
        self._loop = asyncio.SelectorEventLoop()
        self._thread = threading.Thread(target=self._serve, name="lab-dns", daemon=True)
        self._closers: list[Callable[[], None]] = []
        self._talks: set[asyncio.Task[None]] = set()
        self.faults = DnsFaults()
        self.log: deque[Query] = deque(maxlen=self.LOG_SIZE)
        self.counts: Counter[str] = Counter()
        self._thread.start()

    # ---- the zone --------------------------------------------------------------------

    def set_records(self, name: str, kind: str, values: Iterable[str], ttl_s: float) -> float:
        """Replace this record set (no values: remove it); the moment, monotonic."""
        return self._edit({(_plain(name), kind.upper()): (int(ttl_s), tuple(values))})

    def flip(self, name: str, target: str, ttl_s: float | None = None) -> float:
        """Point the CNAME `name` at `target`; the moment from which answers say so."""
        old = self.records.get((_plain(name), "CNAME"))
        ttl = int(ttl_s) if ttl_s is not None else old[0] if old else 1
        return self._edit({(_plain(name), "CNAME"): (ttl, (target.rstrip(".") + ".",))})

    def remove_address(self, name: str, address: str) -> float:
        """Take one address out of the name's A records."""
        ttl, values = self.records.get((_plain(name), "A"), (0, ()))
        return self.set_records(name, "A", (v for v in values if v != address), ttl)

    def add_address(self, name: str, address: str) -> float:
        """Put one address into the name's A records, if it isn't there."""
        ttl, values = self.records.get((_plain(name), "A"), (60, ()))
        return self.set_records(name, "A", sorted({*values, address}), ttl)

    @property
    def records(self) -> Records:
        """The zone as it is now: (name, type) → (TTL in seconds, values)."""
        return self._history[-1][2]

    def _edit(self, change: Records) -> float:
        with self._lock:
            _, serial, records = self._history[-1]
            merged = {key: value for key, value in {**records, **change}.items() if value[1]}
            at = time.monotonic()
            if merged != records:
                self._history.append((at, serial + 1, merged))
            return at

    def _snapshot(self, lag_s: float) -> tuple[int, Records]:
        seen_until = time.monotonic() - lag_s
        for at, serial, records in reversed(self._history):
            if at <= seen_until:
                return serial, records
        # before the beginning: what the zone was first filled with is no change
        return self._history[-1][1:] if lag_s == 0 else self._history[0][1:]

    def settle(self) -> None:
        """Forget the past: listeners that lag know all that is there now."""
        with self._lock:
            self._history = [(0.0, *self._history[-1][1:])]

    # ---- listening -------------------------------------------------------------------

    def listen(self, address: str, port: int, *, lag_s: float = 0.0) -> tuple[str, int]:
        """Serve on UDP and TCP; `port` 0 takes a free one.  `lag_s`: see changes that late."""
        future = asyncio.run_coroutine_threadsafe(self._listen(address, port, lag_s), self._loop)
        try:
            return future.result(5)
        except OSError as error:
            raise LabError(f"dns_port={port}: can't listen on {address}: {error}") from error

    async def _listen(self, address: str, port: int, lag_s: float) -> tuple[str, int]:
        def tcp(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = self._loop.create_task(self._tcp(reader, writer, lag_s))
            self._talks.add(task)  # the loop itself holds tasks weakly
            # Also for one that is cancelled before it began.
            task.add_done_callback(lambda _: writer.close())
            task.add_done_callback(self._talks.discard)

        for attempt in range(20):
            server = await asyncio.start_server(tcp, address, port)
            bound: int = server.sockets[0].getsockname()[1]
            try:
                transport, _ = await self._loop.create_datagram_endpoint(
                    lambda: _Datagrams(self, lag_s), (address, bound)
                )
            except OSError:
                server.close()
                if port or attempt == 19:  # else: this number is free on TCP only, take another
                    raise
            else:
                self._closers += [server.close, transport.close]
                break
        return address, bound

    def close(self) -> None:
        """Stop serving; idempotent."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(5)

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()
        for close in self._closers:
            close()
        tasks = asyncio.all_tasks(self._loop)
        for task in tasks:
            task.cancel()
        self._loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        for _ in range(3):  # transports say goodbye in the turns after their close
            self._loop.run_until_complete(asyncio.sleep(0))
        self._loop.close()

    async def _tcp(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, lag_s: float
    ) -> None:
        try:
            while True:
                (length,) = struct.unpack(">H", await reader.readexactly(2))
                wire = await reader.readexactly(length)
                peer = str(writer.get_extra_info("peername"))
                answer = await self.answer(wire, "tcp", peer, lag_s)
                if answer is not None:
                    writer.write(struct.pack(">H", len(answer)) + answer)
                    await writer.drain()
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # the client has left, or (the only reason to cancel) we are closing

    # ---- answering -------------------------------------------------------------------

    async def answer(self, wire: bytes, transport: str, source: str, lag_s: float) -> bytes | None:
        """The reply to one query in wire format; None for silence."""
        try:
            query = dns.message.from_wire(wire)
        except dns.exception.DNSException:
            return None
        if not query.question:
            return None
        question = query.question[0]
        name = _plain(question.name.to_text())
        kind = dns.rdatatype.to_text(question.rdtype)
        self.counts[name] += 1
        self.log.append(Query(time.monotonic(), name, kind, transport, source))
        faults = self.faults if self.faults.apply_to(name) else DnsFaults()
        if faults.delay_s:
            await asyncio.sleep(faults.delay_s)
        if faults.drop:
            return None
        response = self._respond(query, name, kind, faults, lag_s)
        if faults.truncate and transport == "udp":
            response.flags |= dns.flags.TC
            response.answer.clear()
        if faults.wrong_id:
            response.id = (response.id + 1) & 0xFFFF
        return response.to_wire(max_size=1232 if transport == "udp" else 65535)

    def _respond(
        self, query: dns.message.Message, name: str, kind: str, faults: DnsFaults, lag_s: float
    ) -> dns.message.Message:
        response = dns.message.make_response(query)
        # RA too: stub resolvers ask us directly
        response.flags |= dns.flags.AA | dns.flags.RA
        serial, records = self._snapshot(lag_s)
        origin = next((o for o in self._origins if name == o or name.endswith(f".{o}")), None)
        if faults.servfail or faults.refused or origin is None:
            code = dns.rcode.SERVFAIL if faults.servfail else dns.rcode.REFUSED
            response.set_rcode(code)
            return response
        found, exists = _chain(records, name, kind)
        if found and not faults.nxdomain:
            response.answer.extend(found)
        if faults.nxdomain or not exists:
            response.answer.clear()
            response.set_rcode(dns.rcode.NXDOMAIN)
        if not response.answer or response.answer[-1].rdtype != dns.rdatatype.from_text(kind):
            soa = _SOA.format(zone=f"{origin}.", serial=serial, minimum=self._negative_ttl)
            response.authority.append(_rrset(origin, self._negative_ttl, "SOA", (soa,)))
        return response


class _Datagrams(asyncio.DatagramProtocol):
    def __init__(self, server: DnsServer, lag_s: float) -> None:
        self._server = server
        self._lag_s = lag_s
        self._pending: set[asyncio.Task[None]] = set()
        self._transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # by duck: asyncio's own datagram transport isn't an instance of the abstract one
        self._transport = cast("asyncio.DatagramTransport", transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        task = asyncio.get_running_loop().create_task(self._reply(data, addr))
        self._pending.add(task)  # the loop itself holds tasks weakly
        task.add_done_callback(self._pending.discard)

    async def _reply(self, data: bytes, addr: tuple[str, int]) -> None:
        source = f"{addr[0]}:{addr[1]}"
        answer = await self._server.answer(data, "udp", source, self._lag_s)
        if answer is not None and self._transport is not None:
            self._transport.sendto(answer, addr)


def _chain(records: Records, name: str, kind: str) -> tuple[list[dns.rrset.RRset], bool]:
    """The CNAMEs from `name` and what is at their end, and whether that end exists."""
    found: list[dns.rrset.RRset] = []
    for _ in range(16):
        if (name, kind) in records:
            found.append(_rrset(name, *_split(records, name, kind)))
            return found, True
        if (name, "CNAME") not in records:
            break
        found.append(_rrset(name, *_split(records, name, "CNAME")))
        name = _plain(records[name, "CNAME"][1][0])
    # a name exists if it, or one below it, has a record of any type
    return found, any(n == name or n.endswith(f".{name}") for n, _ in records)


def _split(records: Records, name: str, kind: str) -> tuple[int, str, tuple[str, ...]]:
    ttl, values = records[name, kind]
    return ttl, kind, values


def _rrset(name: str, ttl: int, kind: str, values: tuple[str, ...]) -> dns.rrset.RRset:
    return dns.rrset.from_text_list(f"{name}.", ttl, "IN", kind, values)


def _plain(name: str) -> str:
    return name.rstrip(".").lower()
