"""Names that are used once cost their questions, and none afterwards."""

from __future__ import annotations

import time

import pytest
from dns_world import UPSTREAM, Web1, World

from resilient.lab.namespace import inside, refusal

pytestmark = pytest.mark.skipif(not inside(), reason=refusal())

COUNT = 12


@pytest.mark.parametrize("ttl", [1, 2])
@pytest.mark.parametrize("kind", ["threads", "tasks"])
def test_names_used_once_are_asked_for_once(kind: str, ttl: int) -> None:
    names = [f"n{number}.test" for number in range(COUNT)]
    script = [{"q": name, "type": "A", "answers": [[name, "A", ttl, UPSTREAM]]} for name in names]
    with World([*script, {"q": "*", "soa": 900}]) as world, Web1(kind) as client:
        for name in names:
            client.get(f"http://{name}:{world.port}/").raise_for_status()
        time.sleep(ttl + 0.3)  # nothing is to happen
        assert len(world.asked()) == 2 * COUNT
        client.get(f"http://{names[0]}:{world.port}/").raise_for_status()
        assert len(world.asked()) > 2 * COUNT
