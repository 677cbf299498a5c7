"""What a monitor does on a machine that is too small: it listens first, and dials less."""

from __future__ import annotations

import asyncio
import threading
import time

from resilient.core.model import Endpoint, Health, Observation, Role, Topology
from resilient.monitor.cluster import Cluster
from resilient.monitor.names import ConfiguredName
from resilient.monitor.prober import ClusterListener, Prober
from resilient.monitor.sockets import Link
from resilient.settings import Settings

ANSWER_S, PAUSE_S = 0.1, 0.6
PRIMARY = Observation(Role.PRIMARY, "s1", 1, "i-1")
NAMES = (ConfiguredName("127.0.0.1", 1),)


class Slowish(Prober):
    """Answers after `ANSWER_S`."""

    def __init__(self) -> None:
        self.asked = threading.Event()
        self.count = 0

    async def probe(self, endpoint: Endpoint) -> Observation:
        self.count += 1
        self.asked.set()
        await asyncio.sleep(ANSWER_S)
        return PRIMARY


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
    cluster = Cluster(NAMES, Settings(probe_interval_s=0.2), prober)
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


def test_who_is_being_dialled_is_not_asked_over_one_more_connection() -> None:
    prober, seen = Slowish(), Seen()
    cluster = Cluster(NAMES, Settings(probe_interval_s=0.1), prober)
    try:
        cluster.listen(seen)
        assert seen.up.wait(5)
        where = cluster.topology.endpoints[0].endpoint
        link = Link(where, 0)  # a pool's, that takes its time
        cluster.links.add(link)
        time.sleep(0.1)
        asked = prober.count
        for _ in range(50):
            cluster.observe(where, PRIMARY)
            time.sleep(0.02)
        assert prober.count <= asked + 1  # a second: ten without that
        prober.asked.clear()
        assert prober.asked.wait(2)  # nothing comes of it
    finally:
        cluster.close()
