"""Servers that mean no good: they speak as much of PostgreSQL's protocol as they need.

with HostileServer(endless) as server: ...
"""

from __future__ import annotations

import base64
import contextlib
import socket
import struct
import threading
from collections.abc import Callable
from typing import Self

#: the manual's 55.7: type, length, body
OK = b"R" + struct.pack("!ii", 8, 0)
READY = b"Z" + struct.pack("!i", 5) + b"I"


def message(kind: bytes, body: bytes) -> bytes:
    return kind + struct.pack("!i", len(body) + 4) + body


def read_message(sock: socket.socket, *, typed: bool = True) -> bytes:
    """One message of the client, without its length."""
    head = _exactly(sock, 5 if typed else 4)
    (size,) = struct.unpack("!i", head[-4:])
    return head[:-4] + _exactly(sock, size - 4)


def _exactly(sock: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        more = sock.recv(count - len(data))
        if not more:
            raise ConnectionError
        data += more
    return data


def greet(sock: socket.socket) -> None:
    """Up to the point where the client has said who it is; no encryption."""
    while read_message(sock, typed=False)[:4] in (b"\x04\xd2\x16\x2f", b"\x04\xd2\x16\x30"):
        sock.sendall(b"N")


def endless(sock: socket.socket, counted: Callable[[int], None]) -> None:
    """Let everybody in, and answer the first question without an end."""
    greet(sock)
    sock.sendall(OK + READY)
    read_message(sock)
    field = b"r\0" + struct.pack("!ihihih", 0, 0, 16, 1, -1, 0)
    sock.sendall(message(b"T", struct.pack("!h", 1) + field))
    row = message(b"D", struct.pack("!hi", 1, 8000) + b"t" * 8000)
    while True:
        sock.sendall(row * 8)
        counted(len(row) * 8)


def endless_notices(sock: socket.socket, counted: Callable[[int], None]) -> None:
    """The same before the client is let in."""
    greet(sock)
    sock.sendall(OK)
    notice = message(b"N", b"SNOTICE\0VNOTICE\0C00000\0M" + b"x" * 8000 + b"\0\0")
    while True:
        sock.sendall(notice * 8)
        counted(len(notice) * 8)


def endless_message(sock: socket.socket, counted: Callable[[int], None]) -> None:
    """One message of a gigabyte."""
    greet(sock)
    sock.sendall(OK + READY)
    read_message(sock)
    sock.sendall(b"D" + struct.pack("!i", 1 << 30))
    while True:
        sock.sendall(b"x" * 65536)
        counted(65536)


def laborious(sock: socket.socket, counted: Callable[[int], None]) -> None:
    """SCRAM with two thousand million iterations: minutes of a processor's work."""
    greet(sock)
    sock.sendall(message(b"R", struct.pack("!i", 10) + b"SCRAM-SHA-256\0\0"))
    first = read_message(sock)
    nonce = first[first.rindex(b"r=") + 2 :]
    salt = base64.b64encode(b"0123456789abcdef")
    answer = b"r=" + nonce + b"server,s=" + salt + b",i=2000000000"
    sock.sendall(message(b"R", struct.pack("!i", 11) + answer))
    counted(1)
    read_message(sock)


class HostileServer:
    """Each connection gets a thread that does as told."""

    def __init__(self, behave: Callable[[socket.socket, Callable[[int], None]], None]) -> None:
        self._behave = behave
        self._listening = socket.create_server(("127.0.0.1", 0), backlog=50)
        self.port: int = self._listening.getsockname()[1]
        self.sent = 0
        self.connections = 0
        self._socks: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True, name="hostile").start()

    def _count(self, number: int) -> None:
        self.sent += number

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                sock, _ = self._listening.accept()
                self.connections += 1
                self._socks.append(sock)
                threading.Thread(target=self._serve, args=(sock,), daemon=True).start()

    def _serve(self, sock: socket.socket) -> None:
        with contextlib.suppress(OSError), sock:
            self._behave(sock, self._count)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        for sock in self._socks:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
