"""The lab's HTTP service with bad days.

    upstream.py ZONE ADDRESS PORT FOLDER

A word in FOLDER/mode is what it does: `ok`; `busy` answers 503 with Retry-After; `reset` carries
out every other order, then resets the connection whatever was asked.  FOLDER/connections has a line
for each connection that came in.
"""

from __future__ import annotations

import contextlib
import itertools
import socket
import struct
import sys
import time
from pathlib import Path
from urllib.parse import urlsplit

from resilient.lab.upstream_server import Handler, Server

RETRY_AFTER_S = 1
#: closing with this is a reset
LINGER = struct.pack("ii", 1, 0)


class Moody(Handler):
    """See the module."""

    folder = Path()
    _orders_count = itertools.count()

    def setup(self) -> None:
        super().setup()
        with (self.folder / "connections").open("a") as file:
            file.write(f"{time.monotonic()}\n")

    def handle(self) -> None:
        with contextlib.suppress(ConnectionError):  # ours, in most cases
            super().handle()

    def _dispatch(self, body: bytes) -> None:
        mode = (self.folder / "mode").read_text()
        if mode == "busy":
            self._reply(503, {"zone": self.zone}, {"Retry-After": str(RETRY_AFTER_S)})
        elif mode == "reset":
            order = urlsplit(self.path).query.removeprefix("id=")
            if order and next(self._orders_count) % 2:
                with self.orders.open("a") as file:
                    file.write(f"{order}\n")
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER)
            self.connection.close()
            raise ConnectionResetError
        else:
            super()._dispatch(body)


def main(argv: list[str]) -> None:
    """See the module."""
    Moody.zone, address, port, Moody.folder = argv[1], argv[2], int(argv[3]), Path(argv[4])
    Moody.orders = Moody.folder / "orders"
    Server((address, port), Moody).serve_forever()


if __name__ == "__main__":
    main(sys.argv)
