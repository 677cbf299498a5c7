"""Three upstreams behind one name, and what can go wrong with them."""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Self

from resilient.lab import DnsServer
from resilient.lab.namespace import use_resolv_conf
from resilient.lab.options import zone_address
from resilient.lab.ports import choose_port
from resilient.lab.processes import Spawner, server_account
from resilient.lab.upstreams import Upstream

__all__ = ["NAME", "TTL_S", "World", "Zone"]

NAME, TTL_S = "api.test", 1.0
ZONES = ("az1", "az2", "az3")
DNS = "127.0.0.54"
#: what a woken upstream gets to work off its backlog
SETTLE_S = 0.3


class Zone(Upstream):
    """The upstream of one zone, as a process of `upstream.py`."""

    def __init__(self, zone: str, port: int, root: Path, spawner: Spawner) -> None:
        super().__init__(zone, zone_address(zone), port, root, spawner)
        self.set_mode("ok")

    def start(self) -> None:
        argv: list[str | Path] = [sys.executable, "-I", Path(__file__).with_name("upstream.py")]
        argv += [self.zone, self.address, str(self.port), self._folder]
        self._process = self._spawner.start(
            argv, log=self._folder / "log", cwd=self._folder, as_server=False
        )
        self._paused = False

    def set_mode(self, mode: str) -> None:
        """What it does from now on; see upstream.py."""
        self._folder.mkdir(exist_ok=True)
        new = self._folder / "mode.new"
        new.write_text(mode)
        new.replace(self._folder / "mode")

    def forget(self) -> None:
        """No orders, no connections so far."""
        for name in ("orders", "connections"):
            (self._folder / name).unlink(missing_ok=True)

    @property
    def connections(self) -> list[float]:
        """When each came in; monotonic."""
        path = self._folder / "connections"
        return [float(line) for line in path.read_text().splitlines()] if path.exists() else []


class World:
    """A context manager; needs a namespace of its own, for port 53 and /etc/resolv.conf."""

    def __enter__(self) -> Self:
        self._stack = ExitStack()
        root = Path(tempfile.mkdtemp(prefix="resilient-bench-http-"))
        self._stack.callback(shutil.rmtree, root, ignore_errors=True)
        spawner = Spawner(root, server_account())
        self._stack.callback(spawner.close)
        addresses = [zone_address(zone) for zone in ZONES]
        self.port = choose_port(addresses, None, 8080, "http_port", True)
        self.zones = {zone: Zone(zone, self.port, root, spawner) for zone in ZONES}
        for zone in self.zones.values():
            self._stack.callback(zone.kill)
            zone.start()
        self.dns = DnsServer(NAME)
        self._stack.callback(self.dns.close)
        self.dns.set_records(NAME, "A", addresses, TTL_S)
        self.dns.settle()
        self.dns.listen(DNS, 53)
        before = Path("/etc/resolv.conf").read_text()
        use_resolv_conf(f"nameserver {DNS}\noptions timeout:1 attempts:2\n")
        self._stack.callback(use_resolv_conf, before)
        for zone in self.zones.values():
            zone.wait_ready()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def url(self) -> str:
        """By name."""
        return f"http://{NAME}:{self.port}"

    @property
    def orders(self) -> list[int]:
        """Ids, each as often as it was carried out."""
        return [int(order) for zone in self.zones.values() for order in zone.orders]

    def settle(self) -> None:
        """Let upstreams that hang carry out what they were sent: that is what servers do."""
        for zone in self.zones.values():
            zone.resume()
        time.sleep(SETTLE_S)

    def heal(self) -> None:
        """As new; nothing is remembered, and nobody still has a request of an earlier client."""
        for zone in self.zones.values():
            zone.kill()
            zone.set_mode("ok")
            zone.forget()
            zone.start()
            self.dns.add_address(NAME, zone.address)
        for zone in self.zones.values():
            zone.wait_ready()
