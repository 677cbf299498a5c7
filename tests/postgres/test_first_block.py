"""What a session's first block has to know of its server: asked before, where nobody waits."""

from __future__ import annotations

import pytest

from resilient.lab import Lab
from resilient.postgres.session.keeper import link_of

from .conftest import Face, settings_of

pytestmark = pytest.mark.lab


@pytest.mark.parametrize("resolver", ["auto", "lsn", "ledger"])
async def test_the_worker_that_fills_the_pool_asks(
    lab: Lab, orders: str, face: Face, resolver: str
) -> None:
    settings = settings_of(lab, commit_resolver=resolver)
    await face.open(lab.dsn, settings, min_size=3, max_size=3)
    try:
        await face.wait()
        links = [link_of(conn) for conn in face.pool._pool]
        assert len(links) == 3
        assert all(link is not None and link.commit_facts is not None for link in links)
    finally:
        await face.close()


async def test_nothing_is_asked_where_no_commit_is_resolved(
    lab: Lab, orders: str, face: Face
) -> None:
    await face.open(lab.dsn, settings_of(lab, commit_resolver="off"), min_size=1, max_size=1)
    try:
        await face.wait()
        assert [link.commit_facts for conn in face.pool._pool if (link := link_of(conn))] == [None]
    finally:
        await face.close()


async def test_who_waits_for_a_connection_has_it_at_once(lab: Lab, orders: str, face: Face) -> None:
    await face.open(lab.dsn, settings_of(lab), min_size=0, max_size=1)
    try:
        if face.is_async:
            async with face.pool.connection() as conn:
                met = link_of(conn).commit_facts  # type: ignore[union-attr]
        else:
            with face.pool.connection() as conn:
                met = link_of(conn).commit_facts  # type: ignore[union-attr]
        assert met is None
    finally:
        await face.close()
