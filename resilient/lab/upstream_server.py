"""The HTTP service that the lab runs in each zone: a script of its own, standard library only.

    upstream_server.py ZONE ADDRESS PORT ORDERS_FILE

    GET  /health/ready           200, JSON
    GET  /whoami                 zone and process id
    POST /orders?id=…            records a side effect (or with the id in a JSON body): 201
    GET  /orders                 what was recorded, each as often as it was
    GET  /slow?s=1.5             200 after that many seconds
    ANY  /status/503?retry_after=2   that status, with Retry-After if asked for

Orders survive the process: they are lines of a file that only this zone appends to.
"""

from __future__ import annotations

import json
import os
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit


class Handler(BaseHTTPRequestHandler):
    """One connection; keeps it alive, answers in a single segment."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1  # collect head and body, so that one segment carries both
    zone = ""
    orders = Path()

    def do_GET(self) -> None:
        self._dispatch(self._read())

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Nothing: the log would only cost time."""

    def _read(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        body = b""
        while size := int(self.rfile.readline().split(b";")[0], 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        while self.rfile.readline().strip():
            pass
        return body

    def _dispatch(self, body: bytes) -> None:
        url = urlsplit(self.path)
        query = {key: values[-1] for key, values in parse_qs(url.query).items()}
        parts = url.path.strip("/").split("/")
        if parts == ["health", "ready"]:
            self._reply(200, {"status": "ready", "zone": self.zone})
        elif parts == ["whoami"]:
            self._reply(200, {"zone": self.zone, "pid": os.getpid(), "method": self.command})
        elif parts == ["orders"]:
            self._orders(body, query)
        elif parts == ["slow"]:
            time.sleep(float(query.get("s", "1")))
            self._reply(200, {"zone": self.zone})
        elif parts[0] == "status" and len(parts) == 2 and parts[1].isdigit():
            after = query.get("retry_after")
            self._reply(int(parts[1]), {"zone": self.zone}, {"Retry-After": after} if after else {})
        else:
            self._reply(404, {"error": "no such path", "zone": self.zone})

    def _orders(self, body: bytes, query: dict[str, str]) -> None:
        if self.command == "GET":
            lines = self.orders.read_text().splitlines() if self.orders.exists() else []
            self._reply(200, {"zone": self.zone, "orders": lines})
            return
        try:
            order = query.get("id") or str(json.loads(body)["id"])
        except (ValueError, KeyError, TypeError):
            self._reply(400, {"error": "an id is needed, in the query or in a JSON body"})
            return
        with self.orders.open("a") as file:  # O_APPEND and one write: lines never mix
            file.write(order.replace("\n", " ") + "\n")
        self._reply(201, {"zone": self.zone, "id": order})

    def _reply(self, status: int, body: object, headers: dict[str, str] | None = None) -> None:
        payload = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(payload)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD" and status not in (204, 304):
            self.wfile.write(payload)


for _method in ("POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"):
    setattr(Handler, f"do_{_method}", Handler.do_GET)


class Server(ThreadingHTTPServer):
    """A thread per connection."""

    daemon_threads = True
    request_queue_size = 256

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that left in the middle is no news."""


def main(argv: list[str]) -> None:
    """See the module."""
    Handler.zone, address, port, Handler.orders = argv[1], argv[2], int(argv[3]), Path(argv[4])
    Server((address, port), Handler).serve_forever()


if __name__ == "__main__":
    main(sys.argv)
