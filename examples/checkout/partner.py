"""The fraud check and the payment gateway of one zone: a stand-in for other people's services.

    partner.py ADDRESS PORT FOLDER

    GET  /health/live
    GET  /fraud/check?id=…       200, always fine
    POST /gateway/charge         with an Idempotency-Key: one charge for each key, whoever asks

Charges are files in FOLDER, which the zones share: a gateway's own storage outlives a zone.
"""

from __future__ import annotations

import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1  # head and body in one segment
    folder = Path()

    def do_GET(self) -> None:
        if self.path.startswith(("/health/live", "/fraud/check")):
            self.answer(200, {"fine": True})
        else:
            self.answer(404, {"error": "no such path"})

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        key = self.headers.get("Idempotency-Key", "")
        if self.path != "/gateway/charge" or not key.replace("-", "").isalnum():
            self.answer(400, {"error": "POST /gateway/charge with an Idempotency-Key"})
            return
        try:
            (self.folder / key).touch(exist_ok=False)  # one of any number that ask at once
            self.answer(201, {"charged": key})
        except FileExistsError:
            self.answer(200, {"charged": key, "again": True})

    def answer(self, status: int, told: object) -> None:
        body = json.dumps(told).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


class Server(ThreadingHTTPServer):
    """A thread a connection."""

    daemon_threads = True
    request_queue_size = 256

    def handle_error(self, *_: object) -> None:
        """A client that left in the middle is no news."""


if __name__ == "__main__":
    Handler.folder = Path(sys.argv[3])
    Server((sys.argv[1], int(sys.argv[2])), Handler).serve_forever()
