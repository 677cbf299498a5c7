"""The seam to name resolution: what the HTTP drop-in asks of it, and the real thing behind.

Everything here runs on the monitor's loop.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Literal, Protocol

from .._dataclass import dataclass
from ..core.dns import Change
from ..monitor import resolvers
from ..settings import Settings


@dataclass(frozen=True, slots=True)
class Addresses:
    """An answer.  `ttl_s`: seconds that are left of it.  `names`: the chain of aliases."""

    addresses: tuple[str, ...]
    ttl_s: float
    canonical: str = ""
    names: tuple[str, ...] = ()
    mode: Literal["strict", "rotating"] | None = None
    #: what tells this answer from an earlier one that is merely given again
    stamp: float = 0.0
    #: only one family so far: the other one is still being asked for
    partial: bool = False


class AddressSource(Protocol):
    """Where addresses come from.  Errors are `resilient.errors.ResolutionError`."""

    async def lookup(self, name: str, fresh: bool, hurry: bool) -> Addresses:
        """The addresses of a name; `fresh` bypasses any cache.  `hurry`: somebody waits to
        connect, so that a `partial` answer is welcome."""
        ...

    def watch(self, name: str, changed: Callable[[], None]) -> Callable[[], None]:
        """Call `changed` when the name's answer changed; returns what ends that."""
        ...

    def report_dead(self, address: str) -> None:
        """A connection to this address failed: prefer others."""

    async def close(self) -> None:
        """Give back sockets and tasks."""


class ResolverSource:
    """The process's resolver on the monitor's loop, which PostgreSQL's clusters use as well."""

    def __init__(self, settings: Settings) -> None:
        self._resolver = resolvers.hold(settings)

    async def lookup(self, name: str, fresh: bool, hurry: bool) -> Addresses:
        partial = False
        if hurry:
            answer, partial = await self._resolver.resolve_early(name, fresh=fresh)
        else:
            answer = await self._resolver.resolve(name, "any", fresh=fresh)
        return Addresses(
            answer.addresses,
            max(0.0, answer.expires_at - time.monotonic()),
            answer.canonical_name,
            answer.chain,
            self._resolver.mode(name, "any"),
            answer.expires_at,
            partial,
        )

    def watch(self, name: str, changed: Callable[[], None]) -> Callable[[], None]:
        def on_change(change: Change) -> None:
            changed()

        return self._resolver.watch(name, on_change, "any")

    def report_dead(self, address: str) -> None:
        self._resolver.report_dead(address)

    async def close(self) -> None:
        await self._resolver.close()


SourceFactory = Callable[[Settings], AddressSource]


#: how a directory gets its source: replace it to resolve names in another way
factory: SourceFactory = ResolverSource
