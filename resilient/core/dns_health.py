"""What is remembered of name servers: who failed lately, and who minds EDNS.

Rules of this file: `now` is the resolver's injected clock, in seconds, as all of it is cached.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import field

from .._dataclass import dataclass

__all__ = ["ServerHealth"]

#: first pause before a failing server may be asked first again, and the longest, in seconds
PENALTY_S = 30.0
MAX_PENALTY_S = 300.0
#: a server that minds EDNS is asked without it for so long at first and at most, in seconds
PLAIN_S = 300.0
MAX_PLAIN_S = 86400.0


@dataclass(slots=True)
class _Record:
    failures: int = 0
    until: float = 0.0
    #: it has answered a question with EDNS
    takes_edns: bool = False
    #: until when it is asked without, and how often that was found out
    plain_until: float = 0.0
    plain_count: int = 0


@dataclass(slots=True)
class ServerHealth:
    """Who failed lately.  A failing or lame server isn't asked first again for 30 s, then
    60 s … 300 s, as long as another is there; one success clears it.

    `now` is the resolver's injected clock, as this is a cached failure.
    """

    _records: dict[str, _Record] = field(default_factory=dict)
    _turn: int = 0

    def order(self, servers: Sequence[str], now: float, rotate: bool) -> tuple[int, ...]:
        """Indexes of `servers` in the order to ask them."""
        first = 0
        if rotate and servers:
            first, self._turn = self._turn % len(servers), self._turn + 1
        turned = [(first + i) % len(servers) for i in range(len(servers))]
        return tuple(sorted(turned, key=lambda i: self._penalised(servers[i], now)))

    def _penalised(self, server: str, now: float) -> bool:
        record = self._records.get(server)
        return record is not None and now < record.until

    def failed(self, server: str, now: float) -> None:
        """Note a failure of `server`."""
        record = self._records.setdefault(server, _Record())
        if now < record.until:
            return  # one outage counts once, however many callers meet it
        record.failures += 1
        record.until = now + min(MAX_PENALTY_S, PENALTY_S * 2 ** min(record.failures - 1, 8))

    def worked(self, server: str) -> None:
        """Note an answer of `server`."""
        record = self._records.get(server)
        if record is not None:
            record.failures, record.until = 0, 0.0

    def edns(self, server: str, now: float) -> bool:
        """False once `server` refused EDNS, or was silent to it, and answered without it."""
        record = self._records.get(server)
        return record is None or now >= record.plain_until

    def heard_edns(self, server: str, taken: bool) -> None:
        """A question with EDNS was answered; or refused or met by silence (not `taken`)."""
        if taken or server in self._records:
            self._records.setdefault(server, _Record()).takes_edns = taken

    def heard_plain(self, server: str, now: float) -> None:
        """A question without EDNS was answered.  Where none with it ever was, that is how to
        ask from now on; looked at again ever more rarely, as a lost packet looks the same."""
        record = self._records.setdefault(server, _Record())
        if not record.takes_edns and now >= record.plain_until:
            record.plain_until = now + min(MAX_PLAIN_S, PLAIN_S * 4.0**record.plain_count)
            record.plain_count = min(record.plain_count + 1, 8)
