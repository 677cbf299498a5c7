"""What many clients ask of a server together: it tells how many they are, and a closed door is
checked."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack
from typing import Any

import psycopg
import pytest

from resilient.core.model import Endpoint
from resilient.core.topology import Known
from resilient.lab import Lab
from resilient.postgres import probe

from .conftest import Face, settings_of
from .in_band import until

pytestmark = pytest.mark.lab


def known(face: Face, address: str) -> Known:
    """What the monitor knows of the server."""
    state = face.pool._core.cluster._state
    return next(item for _, item in state.known if item.view.endpoint.address == address)


@pytest.mark.parametrize("more", [0, 12])
async def test_a_server_tells_how_many_clients_it_has(
    lab: Lab, orders: str, face: Face, more: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its sessions, as many to a client as this one has: two or one."""
    monkeypatch.setattr(probe, "COUNT_S", 0.3)
    settings = settings_of(lab, probe_interval_s=0.2)
    with ExitStack() as others:
        for member in (lab.primary, lab.standbys[0]):
            for _ in range(more):
                dsn = f"host={member.address} port={lab.port} user=app dbname=app"
                await asyncio.to_thread(lambda dsn=dsn: others.enter_context(psycopg.connect(dsn)))
        await face.open(lab.dsn, settings)
        try:
            await face.wait()
            least = {lab.primary: 1 + more // 2, lab.standbys[0]: 1 + more, lab.standbys[1]: 1}
            for member, clients in least.items():
                told = lambda m=member, c=clients: (  # noqa: E731
                    c <= known(face, m.address).clients <= c + 2  # the lab's own
                )
                await until(told, 8)
        finally:
            await face.close()


@pytest.mark.parametrize("kind", ["null-sync", "null-async"])
async def test_a_pool_that_keeps_nothing_hears_of_it_too(
    lab: Lab, orders: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the probe's own session, which is the one that such a client has for sure."""
    monkeypatch.setattr(probe, "COUNT_S", 0.3)
    face = Face(kind)
    with ExitStack() as others:
        for _ in range(12):
            dsn = f"host={lab.primary.address} port={lab.port} user=app dbname=app"
            await asyncio.to_thread(lambda dsn=dsn: others.enter_context(psycopg.connect(dsn)))
        await face.open(lab.dsn, settings_of(lab, probe_interval_s=0.2))
        try:
            assert await face.where() == lab.primary.address
            await until(lambda: 13 <= known(face, lab.primary.address).clients <= 15, 8)
            await until(lambda: 1 <= known(face, lab.standbys[0].address).clients <= 3, 8)
        finally:
            await face.close()


async def test_a_closed_door_is_checked_by_a_connect(
    lab: Lab, orders: str, face: Face, monkeypatch: pytest.MonkeyPatch
) -> None:
    """libpq dials a server that refused only when somebody listens again."""
    dialled: list[Endpoint] = []
    dial_params = probe.dial_params

    def counted(endpoint: Endpoint) -> Any:
        dialled.append(endpoint)
        return dial_params(endpoint)

    monkeypatch.setattr(probe, "dial_params", counted)
    dsn = f"host={lab.primary.address} port={lab.port} user=app dbname=app"
    await face.open(dsn, settings_of(lab))
    try:
        await face.wait()
        assert await face.where() == lab.primary.address
        await asyncio.to_thread(lab.primary.kill)
        await until(lambda: bool(face.pool._core.cluster._prober._refused), 3)
        before = len(dialled)
        sent = face.pool._core.cluster._probe_number
        await asyncio.sleep(0.5)
        assert face.pool._core.cluster._probe_number > sent + 3
        assert len(dialled) == before
        await asyncio.to_thread(lab.primary.start)
        assert await face.where(timeout=10.0) == lab.primary.address
        assert not face.pool._core.cluster._prober._refused
    finally:
        await face.close()
