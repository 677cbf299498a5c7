"""The connections that health checks use: one small pool per endpoint, on the monitor's loop."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..core.health import MAX_OUTSTANDING
from ..settings import Settings
from . import _pools
from ._async_stream import AsyncBackend
from ._library import Library
from ._origin import Origin
from ._probe import ProbeFactory, ProbeRefused
from ._slot import Slot

#: an idle connection of a health check is kept for so long, in seconds
KEEPALIVE_S = 30.0
SCHEMES = {"ws": "http", "wss": "https"}


class PoolProbe:
    """Health checks of one endpoint: certificates are verified as the client does."""

    def __init__(
        self,
        library: Library,
        like: Mapping[str, Any],
        slot: Slot,
        origin: Origin,
        tls_names: Mapping[str, str],
    ) -> None:
        self._library = library
        scheme = SCHEMES.get(origin.scheme, origin.scheme)
        host = f"[{origin.host}]" if ":" in origin.host else origin.host
        self._base = f"{scheme}://{host}:{origin.port}"
        self._pool = _pools.for_probes(library, MAX_OUTSTANDING, KEEPALIVE_S, like)
        network = self._pool._network_backend
        self._pool._network_backend = AsyncBackend(library, network, tls_names, slot)

    async def get(self, path: str) -> int:
        core = self._library.core
        try:
            response = await self._pool.request("GET", self._base + path)
        except (core.ConnectError, core.ConnectTimeout) as exc:
            raise ProbeRefused(str(exc)) from exc
        status: int = response.status
        return status

    async def aclose(self) -> None:
        await self._pool.aclose()


def probe_factory(library: Library, like: Mapping[str, Any], settings: Settings) -> ProbeFactory:
    """What dials health checks.  `like`: as the client does; see `_pools.manner`."""

    def make(slot: Slot, origin: Origin) -> PoolProbe:
        return PoolProbe(library, like, slot, origin, settings.tls_names)

    return make
