"""Picks ports that are free on the addresses of all zones."""

from __future__ import annotations

import contextlib
import random
import socket
from collections.abc import Sequence

from .options import LabError

__all__ = ["choose_port"]

#: below the range from which kernels take the ports of outgoing connections
CANDIDATES = range(20_000, 30_000)


def choose_port(
    addresses: Sequence[str], wanted: int | None, usual: int, setting: str, prefer_usual: bool
) -> int:
    """`wanted`, or else `usual` where it is preferred and free, or else any free one."""
    if wanted is not None:
        if why := _taken(addresses, wanted):
            raise LabError(f"{setting}={wanted}: {why}; leave it out to get a free one")
        return wanted
    if prefer_usual and not _taken(addresses, usual):
        return usual
    for port in random.sample(CANDIDATES, 200):
        if not (why := _taken(addresses, port)):
            return port
    raise LabError(f"{setting}: no free port found on {', '.join(addresses)}: {why}")


def _taken(addresses: Sequence[str], port: int) -> str:
    """Why the port can't be had on all addresses; empty if it can."""
    with contextlib.ExitStack() as stack:
        for address in addresses:
            probe = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_STREAM))
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((address, port))
                probe.listen(1)
            except OSError as error:
                return f"{address}: {error.strerror}"
    return ""
