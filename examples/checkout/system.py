"""Two zones on one machine: in each a database server, a payment service, a fraud check and a
gateway; before them HAProxy, beside them the keeper (keeper.py), which no zone holds."""

from __future__ import annotations

import csv
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Self

from keeper import Checks, Keeper

from resilient.lab import Lab, LabError, LabOptions
from resilient.lab.ports import choose_port

HERE = Path(__file__).parent
ZONES = ("az1", "az2")
BALANCER = "127.0.0.10"
READY_S = 60.0
CONFIG = """\
global
  stats socket {socket} mode 600
defaults
  mode http
  timeout connect 1s
  timeout client 30s
  timeout server 30s
  timeout check 1s
frontend shop
  bind {balancer}:{port}
  default_backend services
backend services
  option httpchk GET /health/ready
  http-check expect status 200
  option redispatch
  retries 2
  default-server check inter {interval_ms}ms fall {threshold} rise {threshold} on-marked-down shutdown-sessions
  server az1 {az1}:{service_port}
  server az2 {az2}:{service_port}
"""  # noqa: E501
Say = Callable[[str], None]


class System:
    """Everything, up in `with`.  `say` is told what happens."""

    def __init__(self, checks: Checks, say: Say) -> None:
        self.checks, self._say = checks, say
        self._stack = ExitStack()
        self._processes: dict[str, list[subprocess.Popen[bytes]]] = {zone: [] for zone in ZONES}

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()

    def _start(self) -> None:
        if shutil.which("haproxy") is None:
            raise LabError("HAProxy isn't installed (Debian: haproxy)")
        enter = self._stack.enter_context
        self.lab = enter(Lab(LabOptions(zones=2, sync=True, http=False)))
        # in the lab's folder: whatever becomes of us, its guard ends who works there
        self.folder = self.lab.root / "checkout"
        self.charges = self.folder / "charges"
        self.charges.mkdir(parents=True)
        self.address = {m.zone: m.address for m in self.lab.members}
        places = [*self.address.values(), BALANCER]
        ports = [choose_port(places, None, usual, "port", True) for usual in (8081, 8082, 8083)]
        self.service_port, self.partner_port, port = ports
        for name in ("fraud.api.test", "gateway.api.test"):
            self.lab.dns.set_records(name, "A", self.address.values(), 1)
        self._stack.callback(self._end)
        for zone in ZONES:
            self.start_services(zone)
        self.url = f"http://{BALANCER}:{port}"
        self._balance(port)
        self.wait_ready()
        self.keeper = enter(Keeper(self.lab, self.checks, self._say))

    def start_services(self, zone: str) -> None:
        """The zone's fraud check, gateway and payment service."""
        address, at = self.address[zone], str(self.partner_port)
        self._run(zone, "partner.py", address, at, str(self.charges), flags=("-I", "-S"))
        urls = [f"http://{name}.api.test:{at}" for name in ("fraud", "gateway")]
        self._run(zone, "service.py", address, str(self.service_port), *urls)

    def _run(self, zone: str, script: str, *argv: str, flags: tuple[str, ...] = ()) -> None:
        """`flags`: the interpreter's; who needs the standard library only starts sooner."""
        environment = {**os.environ, **self.lab.env(zone)}
        environment["RESILIENT_HTTP_HEALTH_PATH"] = "/health/live"
        with (self.folder / f"{script}-{zone}.log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, *flags, str(HERE / script), *argv],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.folder,
                start_new_session=True,  # Ctrl-C is ours to handle
            )
        self._processes[zone].append(process)

    def _balance(self, port: int) -> None:
        config = self.folder / "haproxy.cfg"
        self._socket = self.folder / "haproxy"
        config.write_text(
            CONFIG.format(
                socket=self._socket,
                balancer=BALANCER,
                port=port,
                interval_ms=round(self.checks.interval_s * 1000),
                threshold=self.checks.threshold,
                service_port=self.service_port,
                **self.address,
            )
        )
        with (self.folder / "haproxy.log").open("ab") as log:
            process = subprocess.Popen(
                ["haproxy", "-db", "-q", "-f", config],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.folder,
                start_new_session=True,
            )
        self._processes.setdefault("balancer", []).append(process)

    # -- what the balancer thinks

    def in_rotation(self, checked: bool = False) -> set[str]:
        """Zones whose service HAProxy sends customers to; `checked`: whose last check was fine."""
        with suppress(OSError), socket.socket(socket.AF_UNIX) as talk:
            talk.settimeout(2)
            talk.connect(str(self._socket))
            talk.sendall(b"show stat\n")
            text = b"".join(iter(lambda: talk.recv(65536), b"")).decode()
            return {
                row["svname"]
                for row in csv.DictReader(text.removeprefix("# ").splitlines())
                if row["svname"] in ZONES
                and row["status"].startswith("UP")
                and (not checked or row["check_status"] == "L7OK")
            }
        return set()

    def wait_ready(self) -> None:
        """Both services are in rotation, as checked."""
        until(lambda: self.in_rotation(checked=True) == set(ZONES), READY_S, self._logs)

    def _logs(self) -> str:
        texts = (f"{file.name}: {file.read_text()[-600:]}" for file in self.folder.glob("*.log"))
        return "the services aren't ready\n" + "\n".join(texts)

    # -- zones

    def lose_zone(self, zone: str) -> float:
        """Power and network of the zone are gone at once; the moment of it, monotonic."""
        at = time.monotonic()
        if "blackhole" not in self.lab.skipped_faults:
            self.lab.blackhole(zone)
        member = self.lab.cluster.member(zone)
        killer = threading.Thread(target=member.kill)  # what follows doesn't wait for it
        killer.start()
        for process in self._processes[zone]:
            process.kill()
            process.wait()
        self._processes[zone].clear()
        killer.join()
        return at

    def bring_back(self, zone: str) -> None:
        """The zone has power again: its database follows the primary, its services start."""
        self.lab.heal()
        self.keeper.take_back(zone)
        self.start_services(zone)
        self.wait_ready()

    def _end(self) -> None:
        for processes in self._processes.values():
            for process in processes:
                process.kill()
                process.wait()


def until(reached: Callable[[], object], patience_s: float, why: Callable[[], str]) -> None:
    """Wait for it; `LabError` with `why` when it doesn't come."""
    give_up_at = time.monotonic() + patience_s
    while not reached():
        if time.monotonic() > give_up_at:
            raise LabError(why())
        time.sleep(0.05)
