"""A monitor's loop that didn't run reads what came meanwhile before it judges anybody."""

from __future__ import annotations

import asyncio
import threading
import time

from resilient.core.model import Endpoint, Health, Observation, Role, Topology
from resilient.monitor.cluster import Cluster, ConfiguredName
from resilient.monitor.prober import ClusterListener, Prober
from resilient.settings import Settings

ANSWER_S, PAUSE_S = 0.1, 0.6


class Slowish(Prober):
    """Answers after `ANSWER_S`."""

    def __init__(self) -> None:
        self.asked = threading.Event()

    async def probe(self, endpoint: Endpoint) -> Observation:
        self.asked.set()
        await asyncio.sleep(ANSWER_S)
        return Observation(Role.PRIMARY, "s1", 1, "i-1")


class Seen(ClusterListener):
    """What was published."""

    def __init__(self) -> None:
        self.healths: list[Health] = []
        self.up = threading.Event()

    def topology_changed(self, old: Topology, new: Topology) -> None:
        self.healths += [view.health for view in new.endpoints]
        if new.writer is not None:
            self.up.set()


def test_a_pause_of_the_loop_is_no_silence() -> None:
    prober, seen = Slowish(), Seen()
    names = (ConfiguredName("127.0.0.1", 1),)
    cluster = Cluster(names, Settings(probe_interval_s=0.2), prober)
    try:
        cluster.listen(seen)
        assert seen.up.wait(5)
        for _ in range(3):
            prober.asked.clear()
            assert prober.asked.wait(5)
            cluster._monitor.call(time.sleep, PAUSE_S)
            time.sleep(PAUSE_S + 2 * ANSWER_S)
    finally:
        cluster.close()
    assert Health.SUSPECT not in seen.healths
