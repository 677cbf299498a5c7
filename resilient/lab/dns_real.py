"""Name servers that others wrote: `knot` as the authority, a caching `unbound` in between.

with Knot("127.0.0.54", 5300, "db.test") as knot:
    with Unbound("127.0.0.55", 5301, {"db.test": knot}) as unbound:
        knot.flip("writer.db.test", "az1-db.db.test", 1)

Both come from Debian packages of these names; `missing()` says which isn't there.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Self

import dns.exception
import dns.message
import dns.query
import dns.rcode
import dns.update

from .options import LabError
from .processes import Spawner, server_account, tail

__all__ = ["Knot", "Unbound", "missing"]

_PLACES = f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin"
_START_S = 10.0

_KNOT = """server:
    rundir: {root}
    listen: {address}@{port}
database:
    storage: {root}/db
log:
  - target: stderr
    any: warning
acl:
  - id: local
    address: 127.0.0.0/8
    action: update
zone:
"""
_KNOT_ZONE = """  - domain: {zone}
    storage: {root}
    file: {zone}.zone
    zonefile-sync: -1
    zonefile-load: whole
    journal-content: none
    acl: local
"""
_ZONE = """{zone}. 60 SOA ns.{zone}. hostmaster.{zone}. 1 3600 600 86400 {negative_ttl}
{zone}. 60 NS ns.{zone}.
ns.{zone}. 60 A {address}
"""
_UNBOUND = """server:
    directory: "{root}"
    interface: {address}@{port}
    access-control: 127.0.0.0/8 allow
    chroot: ""
    username: ""
    pidfile: ""
    use-syslog: no
    logfile: ""
    num-threads: 1
    module-config: "iterator"
    do-not-query-localhost: no
    cache-min-ttl: 0
    cache-max-negative-ttl: 1
    infra-cache-min-rtt: 50
    do-ip6: no
    local-zone: "test." nodefault
"""
_UNBOUND_STUB = """stub-zone:
    name: "{zone}."
    stub-addr: {address}@{port}
"""


def missing() -> str:
    """Which of the programs isn't installed, in words for a skipped test; empty: none."""
    lacking = [name for name in ("knotd", "unbound") if _find(name) is None]
    packages = {"knotd": "knot", "unbound": "unbound"}
    names = " ".join(packages[name] for name in lacking)
    return f"not installed: {', '.join(lacking)} (Debian: apt-get install {names})" if names else ""


def _find(program: str) -> str | None:
    return shutil.which(program, path=_PLACES)


class _Program:
    """One server process in a temporary folder, which goes with it."""

    def __init__(self, program: str, address: str, port: int) -> None:
        self.address, self.port = address, port
        self._program = program
        self._stack = contextlib.ExitStack()
        self._process: subprocess.Popen[bytes] | None = None

    def __str__(self) -> str:
        return f"{self.address}:{self.port}"

    def __enter__(self) -> Self:
        path = _find(self._program)
        if path is None:
            raise LabError(missing())
        try:
            self._start(path)
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _start(self, path: str) -> None:
        folder = tempfile.TemporaryDirectory(prefix="resilient-lab-dns-")
        root = Path(self._stack.enter_context(folder))
        (root / "db").mkdir()
        (root / "conf").write_text(self._configure(root))
        spawner = Spawner(root, server_account())
        self._stack.callback(spawner.close)
        argv: list[str | Path] = [path, *self._options(), "-c", root / "conf"]
        log = root / "log"
        process = spawner.start(argv, log=log, cwd=root, as_server=False)
        self._process = process
        self._stack.callback(self._end)
        give_up_at = time.monotonic() + _START_S
        while not self._answers():
            if process.poll() is not None or time.monotonic() > give_up_at:
                raise LabError(f"{self._program} did not start on {self}\n{tail(log)}")
            time.sleep(0.02)

    def _configure(self, root: Path) -> str:
        raise NotImplementedError

    def _options(self) -> tuple[str, ...]:
        return ()

    def _question(self) -> str:
        """Something that it answers with NOERROR as soon as it is up."""
        raise NotImplementedError

    def _answers(self) -> bool:
        query = dns.message.make_query(self._question(), "SOA")
        try:
            reply = dns.query.udp(query, self.address, 0.2, self.port)
        except (OSError, dns.exception.DNSException):
            return False
        return reply.rcode() == dns.rcode.NOERROR

    def pause(self) -> None:
        """Stop answering: its port stays open, queries are lost."""
        if self._process is not None:
            self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Answer again."""
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)

    def _end(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def close(self) -> None:
        """End the process and remove its files; idempotent."""
        self._stack.close()


class Knot(_Program):
    """An authoritative server; its zones are changed by dynamic updates, at once."""

    def __init__(self, address: str, port: int, *zones: str, negative_ttl_s: int = 1) -> None:
        super().__init__("knotd", address, port)
        self.zones = zones
        self._negative_ttl = negative_ttl_s

    def _configure(self, root: Path) -> str:
        given = {"root": root, "address": self.address, "port": self.port}
        text = _KNOT.format(**given)
        for zone in self.zones:
            text += _KNOT_ZONE.format(zone=zone, **given)
            records = _ZONE.format(zone=zone, address=self.address, negative_ttl=self._negative_ttl)
            (root / f"{zone}.zone").write_text(records)
        return text

    def _question(self) -> str:
        return self.zones[0]

    def set_records(self, name: str, kind: str, values: Iterable[str], ttl_s: int) -> float:
        """Replace this record set (no values: remove the name); the moment, monotonic."""
        zone = max((z for z in self.zones if f".{name}".endswith(f".{z}")), key=len)
        update = dns.update.UpdateMessage(f"{zone}.")
        update.delete(f"{name}.")
        for value in values:
            update.add(f"{name}.", int(ttl_s), kind, value)
        reply = dns.query.tcp(update, self.address, 5, self.port)
        if reply.rcode() != dns.rcode.NOERROR:
            raise LabError(f"knot refuses the update of {name}: {dns.rcode.to_text(reply.rcode())}")
        return time.monotonic()

    def flip(self, name: str, target: str, ttl_s: int) -> float:
        """Point the CNAME `name` at `target`; the moment from which it says so."""
        return self.set_records(name, "CNAME", [f"{target}."], ttl_s)


class Unbound(_Program):
    """A caching resolver that asks the given authorities, and nobody else for other names."""

    def __init__(self, address: str, port: int, stubs: Mapping[str, Knot]) -> None:
        super().__init__("unbound", address, port)
        self._stubs = stubs

    def _configure(self, root: Path) -> str:
        text = _UNBOUND.format(root=root, address=self.address, port=self.port)
        for zone, knot in self._stubs.items():
            text += _UNBOUND_STUB.format(zone=zone, address=knot.address, port=knot.port)
        return text

    def _options(self) -> tuple[str, ...]:
        return ("-d",)

    def _question(self) -> str:
        return next(iter(self._stubs))
