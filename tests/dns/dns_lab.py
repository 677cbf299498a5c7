"""Name servers that follow a script, for tests: the rules are those of `dns.yaml`'s header."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import select
import socket
import struct
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import dns.rrset

from resilient import Settings

Rule = Mapping[str, Any]


class ScriptedServer:
    """One server, UDP and TCP on the same loopback port."""

    def __init__(self, rules: Sequence[Rule], at: tuple[str, int] | None = None) -> None:
        self.rules = list(rules)
        self.queries: list[tuple[str, str, str]] = []
        self.sources: list[tuple[str, int]] = []
        self.ids: list[int] = []
        self.matched = [0] * len(self.rules)
        self.times: list[float] = []
        self.edns: list[bool] = []
        self.udp, self.tcp = _pair(at)
        self.address = self.udp.getsockname()
        self._later: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._stop, self._stopped = socket.socketpair()
        self._thread = threading.Thread(target=self._main, daemon=True)
        self._thread.start()

    def set(self, rules: Sequence[Rule]) -> None:
        """Follow another script from now on."""
        self.rules, self.matched = list(rules), [0] * len(rules)

    def __str__(self) -> str:
        return f"{self.address[0]}:{self.address[1]}"

    def close(self) -> None:
        self._stopped.send(b"x")
        self._thread.join()
        for sock in (self.udp, self.tcp, self._stop, self._stopped):
            sock.close()

    # -- serving

    def _main(self) -> None:
        clients: list[socket.socket] = []
        while True:
            now = time.monotonic()
            while self._later and self._later[0][0] <= now:
                heapq.heappop(self._later)[2]()
            left = max(0.0, self._later[0][0] - now) if self._later else None
            ready, _, _ = select.select([self.udp, self.tcp, self._stop, *clients], [], [], left)
            if self._stop in ready:
                break
            if self.udp in ready:
                data, source = self.udp.recvfrom(65535)
                self.sources.append(source)
                self._serve(data, "udp", lambda out, to=source: self.udp.sendto(out, to))
            if self.tcp in ready:
                clients.append(self.tcp.accept()[0])
            for client in [c for c in ready if c in clients]:
                if not self._serve_tcp(client):
                    clients.remove(client)
                    client.close()
        for client in clients:
            client.close()

    def _serve_tcp(self, client: socket.socket) -> bool:
        head = client.recv(2)
        if len(head) < 2:
            return False
        data = client.recv(struct.unpack("!H", head)[0])
        self._serve(data, "tcp", lambda out: client.send(struct.pack("!H", len(out)) + out))
        return True

    def _serve(self, data: bytes, proto: str, send: Callable[[bytes], object]) -> None:
        query = dns.message.from_wire(data)
        name = query.question[0].name.to_text(omit_final_dot=True).lower()
        rdtype = dns.rdatatype.to_text(query.question[0].rdtype)
        self.queries.append((name, rdtype, proto))
        self.times.append(time.monotonic())
        self.edns.append(query.edns >= 0)
        self.ids.append(query.id)
        rule = self._match(name, rdtype, proto)
        outs = _replies(query, name, rule)

        def act() -> None:
            try:
                for out in outs:
                    send(out)
            except OSError:
                pass  # the client has gone

        if rule.get("delay_s"):
            when = time.monotonic() + rule["delay_s"]
            heapq.heappush(self._later, (when, next(self._order), act))
        else:
            act()

    def _match(self, name: str, rdtype: str, proto: str) -> Rule:
        found: Rule = {"rcode": "NXDOMAIN"}
        for i, rule in reversed(list(enumerate(self.rules))):
            fits = (
                rule.get("q", "*") in ("*", name)
                and rule.get("type", "*") in ("*", rdtype)
                and rule.get("proto", proto) == proto
            )
            if fits:
                self.matched[i] += 1
                if rule.get("nth", self.matched[i]) == self.matched[i]:
                    found = rule
        return found


def _pair(at: tuple[str, int] | None) -> tuple[socket.socket, socket.socket]:
    """UDP and TCP sockets on one port, a free one unless it is given."""
    while True:
        udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        udp.bind(at or ("127.0.0.1", 0))
        tcp = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        tcp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            tcp.bind(udp.getsockname())
        except OSError:
            udp.close()
            tcp.close()
            if at:
                raise
            continue
        tcp.listen(64)
        return udp, tcp


def _replies(query: dns.message.Message, name: str, rule: Rule) -> list[bytes]:
    if rule.get("drop"):
        return []
    if rule.get("garbage"):
        return [b"\x00garbage\xff" * 3]
    if rule.get("raw"):
        return [raw(query) if callable(raw) else raw for raw in rule["raw"]]
    if rule.get("edns") == "drop" and query.edns >= 0:
        return []
    if rule.get("edns") == "formerr" and query.edns >= 0:
        refused = dns.message.make_response(query)
        refused.use_edns(False)
        refused.set_rcode(dns.rcode.FORMERR)
        return [refused.to_wire()]
    reply = answer(query, name, rule)
    if rule.get("wrong_id"):
        forged = answer(query, name, {"answers": [[name, "A", 600, "203.0.113.66"]]})
        forged.id = (query.id + 1) & 0xFFFF
        return [b"noise", forged.to_wire(), reply.to_wire()]
    return [reply.to_wire(max_size=65535)]


def answer(query: dns.message.Message, name: str, rule: Rule) -> dns.message.Message:
    """The reply that a rule describes."""
    reply = dns.message.make_response(query)
    if rule.get("ra", True):
        reply.flags |= dns.flags.RA
    reply.set_rcode(dns.rcode.from_text(rule.get("rcode", "NOERROR")))
    for owner, rdtype, ttl, data in rule.get("answers", ()):
        text = f"{name if owner == '*' else owner}."
        if rdtype in ("CNAME", "SRV"):
            data = f"{data}."
        reply.answer.append(dns.rrset.from_text(text, ttl, "IN", rdtype, data))
    if "soa" in rule:
        soa = f"ns.test. host.test. 1 3600 600 86400 {rule['soa']}"
        reply.authority.append(dns.rrset.from_text("test.", 3600, "IN", "SOA", soa))
    if rule.get("tc"):
        reply.flags |= dns.flags.TC
        reply.answer.clear()
    return reply


class Lab:
    """Several scripted servers; a context manager."""

    def __init__(self, *scripts: Sequence[Rule]) -> None:
        self.servers = [ScriptedServer(rules) for rules in scripts]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        for server in self.servers:
            server.close()

    @property
    def count(self) -> int:
        return sum(len(server.queries) for server in self.servers)

    @property
    def counts(self) -> list[int]:
        return [len(server.queries) for server in self.servers]

    def settings(self, **given: Any) -> Settings:
        """Settings that ask these servers, as `dns.yaml` presumes them."""
        values: dict[str, Any] = {
            "dns_nameservers": [str(server) for server in self.servers],
            "dns_search": [],
            "dns_ttl_floor_s": 0,
            "dns_ttl_ceiling_s": 1e9,
            "dns_stale_s": 0,
            "dns_refresh_ahead": 0,
        }
        return Settings(**{**values, **given})


class FakeClock:
    """A clock that stands still until it is moved."""

    def __init__(self, now: float = 0.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def a(name: str, *addresses: str, ttl: int = 100, **more: Any) -> Rule:
    """A rule: `name` has these addresses."""
    rdtype = "AAAA" if ":" in addresses[0] else "A"
    answers = [[name, rdtype, ttl, address] for address in addresses]
    return {"q": name, "type": rdtype, "answers": answers, **more}


def until(condition: Callable[[], bool], within_s: float = 3.0) -> bool:
    """Wait until `condition` holds; False if it doesn't in time."""
    end = time.monotonic() + within_s
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.005)
    return condition()


async def until_async(condition: Callable[[], bool], within_s: float = 3.0) -> bool:
    """The same, on a running loop."""
    end = time.monotonic() + within_s
    while not condition() and time.monotonic() < end:
        await asyncio.sleep(0.005)
    return condition()
