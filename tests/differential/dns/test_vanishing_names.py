"""A name vanishes and comes back: plain httpx2 has it with its next request, so must ours.

FAULTS 57.
"""

from __future__ import annotations

import threading
import time

import httpx2
import pytest
from dns_world import UPSTREAM, Web1, World

from resilient.lab.namespace import inside, refusal

pytestmark = pytest.mark.skipif(not inside(), reason=refusal())

NAME = "pod.test"
HERE = {"q": NAME, "type": "A", "answers": [[NAME, "A", 1, UPSTREAM]]}
GONE = {
    "absent": {"q": "*", "rcode": "NXDOMAIN", "soa": 900},
    "failing": {"q": "*", "rcode": "SERVFAIL"},
}
AWAY_S = 1.5


@pytest.mark.parametrize("gone", GONE)
@pytest.mark.parametrize("kind", ["plain", "threads", "tasks"])
@pytest.mark.parametrize("known", [True, False], ids=["known before", "never known"])
def test_a_pod_dies_and_comes_back(kind: str, gone: str, known: bool) -> None:
    script = [HERE, {"q": "*", "soa": 900}]
    away = [GONE[gone]]
    with World(script if known else away) as world, Web1(kind) as client:
        url = f"http://{NAME}:{world.port}/"
        if known:
            client.get(url).raise_for_status()
        world.stop_web()
        world.servers[0].set(away)
        returned: list[float] = []

        def come_back() -> None:
            world.start_web()
            world.servers[0].set(script)
            returned.append(time.monotonic())

        begun = time.monotonic()
        timer = threading.Timer(AWAY_S, come_back)
        timer.start()
        while True:
            try:
                client.get(url).raise_for_status()
                break
            except httpx2.TransportError:
                assert time.monotonic() < begun + AWAY_S + 5
                time.sleep(0.005)
        late_s = time.monotonic() - returned[0]
        timer.join()
        assert late_s <= (0.1 if kind == "plain" else 0.5)
