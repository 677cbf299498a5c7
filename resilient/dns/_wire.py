"""Messages on sockets: one `Ask` carried out, as a generator of waits.

`exchange` yields a `Wait` and is sent True (the socket is ready) or False (its time is
over); it never blocks.  So sync and async share all of it but the waiting itself.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Generator

from resilient._parse import NameServer
from resilient.core.dns_query import Ask, Broken, Malformed, Outcome, Silence

from .._dataclass import dataclass
from ._message import Query, make_query, parse_reply

__all__ = ["Wait", "exchange"]

_BIGGEST = 65535


@dataclass(frozen=True, slots=True)
class Wait:
    """Wait for `sock` to be readable (or writable) until the real monotonic time `until`.
    `noise`: what was heard so far was no reply."""

    sock: socket.socket
    write: bool
    until: float
    noise: bool = False


def exchange(ask: Ask, server: NameServer) -> Generator[Wait, bool, Outcome]:
    """Send the question and wait for the reply that matches it."""
    query = make_query(ask.question, ask.edns)
    try:
        sock, address = _socket(server, ask.tcp)
    except (OSError, ValueError) as exc:
        return Broken(str(exc), local=True)
    try:
        talk = _over_tcp if ask.tcp else _over_udp
        return (yield from talk(sock, address, query, ask))
    except OSError as exc:
        return Broken(exc.strerror or str(exc))
    finally:
        sock.close()


def _socket(server: NameServer, tcp: bool) -> tuple[socket.socket, tuple[str | int, ...]]:
    """A socket of its own for each question: the kernel picks a random source port."""
    host, _, scope = server.address.partition("%")
    six = ":" in host
    address: tuple[str | int, ...] = (host, server.port)
    if six:
        index = int(scope) if scope.isdigit() else socket.if_nametoindex(scope) if scope else 0
        address = (host, server.port, 0, index)
    kind = socket.SOCK_STREAM if tcp else socket.SOCK_DGRAM
    sock = socket.socket(socket.AF_INET6 if six else socket.AF_INET, kind)
    sock.setblocking(False)
    return sock, address


def _over_udp(
    sock: socket.socket,
    address: tuple[str | int, ...],
    query: Query,
    ask: Ask,
) -> Generator[Wait, bool, Outcome]:
    # Connected: the kernel drops what comes from another address or port (RFC 5452
    # section 9.1) and reports a refused port at once.
    sock.connect(address)
    sock.send(query.wire)
    noise = False
    while (yield Wait(sock, False, ask.until, noise)):
        try:
            data = sock.recv(_BIGGEST)
        except BlockingIOError:
            continue
        reply = parse_reply(data, query, ask.question)
        if reply is not None:
            return reply
        noise = True  # may be forged: the true reply can still come
    return Silence()


def _over_tcp(
    sock: socket.socket,
    address: tuple[str | int, ...],
    query: Query,
    ask: Ask,
) -> Generator[Wait, bool, Outcome]:
    try:
        sock.connect(address)
    except BlockingIOError:
        if not (yield Wait(sock, True, ask.until)):
            return Silence()
    error = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    if error:
        raise OSError(error, "connect failed over TCP")
    wire = query.wire
    # A query is far below any send buffer, so that one send takes it whole.
    sock.send(struct.pack("!H", len(wire)) + wire)
    length = yield from _read(sock, 2, ask.until)
    body = length and (yield from _read(sock, struct.unpack("!H", length)[0], ask.until))
    if not body:
        return Silence()
    return parse_reply(body, query, ask.question) or Malformed()


def _read(sock: socket.socket, count: int, until: float) -> Generator[Wait, bool, bytes]:
    """Exactly `count` bytes, or none when time is over."""
    data = b""
    while len(data) < count:
        if not (yield Wait(sock, False, until)):
            return b""
        try:
            part = sock.recv(count - len(data))
        except BlockingIOError:
            continue
        if not part:
            raise ConnectionResetError("closed by the name server")
        data += part
    return data
