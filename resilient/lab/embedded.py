"""The lab: three zones on one machine, up in seconds, gone without a trace.

with Lab(LabOptions()) as lab:
    run = lab.inject("crash", promote_after_s=1.0)
    run.wait_writable()
    lab.rejoin()
"""

from __future__ import annotations

import atexit
import contextlib
import os
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Self

from . import guard
from .binaries import copy_binaries, find_binaries, usable_by
from .cluster import Cluster, Observer
from .dns_server import DnsServer
from .faults import FaultRun, Plan, play
from .namespace import inside, refusal, use_resolv_conf
from .netfilter import PacketDrops
from .options import FAULTS, HTTP_FAULTS, LabError, LabOptions, zone_address, zone_prefix
from .ports import choose_port
from .postgres import Member, MemberState
from .processes import Spawner, dismiss, end_on_sigterm, server_account, start_guard
from .upstreams import Upstream, all_orders

__all__ = ["Lab"]

Progress = Callable[[str], None]


class Lab:
    """A context manager around everything: servers, names, upstreams, faults.

    Its methods are for one thread; faults play on a thread of the lab's own.
    """

    WRITER: ClassVar = "writer.db.test"
    READER: ClassVar = "reader.db.test"
    UPSTREAM: ClassVar = "api.test"

    def __init__(
        self, options: LabOptions | None = None, *, progress: Progress | None = None
    ) -> None:
        self.options = options or LabOptions()
        self.progress = progress or (lambda line: None)
        self.skipped_faults: dict[str, str] = {}
        self.observer: Observer | None = None
        self.upstreams: tuple[Upstream, ...] = ()
        self._owner = os.getpid()
        self._closing = threading.Lock()
        self._stack = contextlib.ExitStack()
        self._run: FaultRun | None = None
        self._thread: threading.Thread | None = None

    # ---- up and down -----------------------------------------------------------------

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def start(self) -> Self:
        """Bring everything up, once.  Whatever goes wrong on the way, nothing is left behind."""
        if hasattr(self, "root"):
            raise LabError("this lab was started before: make a new one")
        atexit.register(self.close)
        try:
            self._start()
        except BaseException:
            self.close()
            raise
        return self

    def close(self) -> None:
        """Take everything down and leave nothing; idempotent, and no business of a fork's."""
        if os.getpid() != self._owner:
            return
        with self._closing:
            atexit.unregister(self.close)
            self._call_off(timeout_s=1.0)
            self._stack.close()

    def _start(self) -> None:
        stack = self._stack
        account = server_account()
        binaries = find_binaries()
        stack.callback(end_on_sigterm())
        self.root = self._make_root()
        stack.callback(dismiss, start_guard(self.root))  # the last to go
        stack.callback(guard.clean, self.root)
        self._spawner = Spawner(self.root, account)
        stack.callback(self._spawner.close)
        if not usable_by(account, self.root):
            raise LabError(
                f"data_dir={self.root.parent}: user {account.name}, whom PostgreSQL runs as, can't "
                "get there; choose a folder that others may enter"
            )
        if not usable_by(account, binaries):
            binaries = copy_binaries(binaries, self.root / "postgresql")
        self._serve_names()
        self._set_up_drops()
        self._start_upstreams()
        self.progress(f"PostgreSQL from {binaries}")
        addresses = [zone_address(zone) for zone in self.options.zone_names]
        self.port = choose_port(addresses, self.options.port, 5432, "port", inside())
        self.cluster = Cluster(self.options, self.root, binaries, self.port, self._spawner)
        stack.callback(self.cluster.remove)
        self.cluster.start(self.progress)
        stack.callback(self.observe, None)
        for upstream in self.upstreams:
            upstream.wait_ready()
        for fault, why in self.skipped_faults.items():
            self.progress(f"{fault} has to be skipped: {why}")
        self.progress(f"up: {self.dsn}, names from {self.dns_address}")

    def _make_root(self) -> Path:
        folder = self.options.data_dir
        try:
            root = Path(tempfile.mkdtemp(prefix="resilient-lab-", dir=folder)).resolve()
        except OSError as error:
            raise LabError(f"data_dir={folder}: {error.strerror}: it must be a folder") from error
        root.chmod(0o711)
        if len(f"{root}/azN/s/.s.PGSQL.65535.lock") > 107:
            root.rmdir()
            raise LabError(f"data_dir={folder}: too long for Unix sockets, 70 characters will do")
        return root

    def _serve_names(self) -> None:
        options = self.options
        self.dns = DnsServer("db.test", self.UPSTREAM)
        self._stack.callback(self.dns.close)
        for zone in options.zone_names:
            name = self.member_name(zone)
            self.dns.set_records(name, "A", [zone_address(zone)], options.address_ttl_s)
        self.dns.flip(self.WRITER, self.member_name("az1"), options.dns_ttl_s)
        self.dns.flip(self.READER, self.member_name("az2"), options.dns_ttl_s)
        if options.http:
            addresses = [zone_address(zone) for zone in options.zone_names]
            self.dns.set_records(self.UPSTREAM, "A", addresses, options.dns_ttl_s)
        self.dns.settle()
        address = "127.0.0.53" if inside() else "127.0.0.1"
        port = options.dns_port
        if port is None and inside():
            with contextlib.suppress(LabError):  # another lab may have port 53 already
                self._dns_at = self.dns.listen(address, 53)
                return
        self._dns_at = self.dns.listen(address, port or 0)

    def _set_up_drops(self) -> None:
        self._drops = PacketDrops(f"resilient_lab_{os.getpid()}_{self.root.name[-8:]}")
        why = self._drops.probe() if inside() else refusal()
        if why:
            self.skipped_faults["blackhole"] = why
        else:
            self._stack.callback(self._drops.clear)
        if not self.options.http:
            self.skipped_faults |= dict.fromkeys(HTTP_FAULTS, "the lab was started with http=False")

    def _start_upstreams(self) -> None:
        if not self.options.http:
            return
        zones = self.options.zone_names
        addresses = [zone_address(zone) for zone in zones]
        port = choose_port(addresses, self.options.http_port, 8080, "http_port", inside())
        self.http_port = port
        self.upstreams = tuple(
            Upstream(zone, zone_address(zone), port, self.root, self._spawner) for zone in zones
        )
        for upstream in self.upstreams:
            self._stack.callback(upstream.kill)
            upstream.start()

    # ---- what is there ---------------------------------------------------------------

    @property
    def members(self) -> tuple[Member, ...]:
        """All database servers, az1 first."""
        return self.cluster.members

    @property
    def primary(self) -> Member:
        """The one that the lab made the primary (a zombie isn't)."""
        return self.cluster.primary

    @property
    def standbys(self) -> tuple[Member, ...]:
        """All others, in whatever state."""
        return self.cluster.standbys

    @property
    def dsn(self) -> str:
        """For an application: all hosts by address, as a libpq conninfo string."""
        hosts = ",".join(member.address for member in self.members)
        return f"host={hosts} port={self.port} user=app dbname=app"

    @property
    def writer_dsn(self) -> str:
        """For an application that knows only the writer's name, which our DNS server serves."""
        return f"host={self.WRITER} port={self.port} user=app dbname=app"

    @property
    def reader_dsn(self) -> str:
        """The same for the reader's name."""
        return f"host={self.READER} port={self.port} user=app dbname=app"

    @property
    def dns_address(self) -> str:
        """Where our DNS server listens, `address:port`."""
        return f"{self._dns_at[0]}:{self._dns_at[1]}"

    @property
    def upstream_url(self) -> str:
        """Base URL of the HTTP upstreams, by name."""
        if not self.upstreams:
            raise LabError("http=False: this lab has no upstreams")
        return f"http://{self.UPSTREAM}:{self.http_port}"

    @property
    def orders(self) -> list[str]:
        """Ids of all orders that any upstream carried out, duplicates kept."""
        return all_orders(self.upstreams)

    def env(self, zone: str = "az1") -> dict[str, str]:
        """Environment for a client that runs in `zone`."""
        hosts = ",".join(f"{member.address}:{self.port}" for member in self.members)
        zones = ",".join(f"{name}={zone_prefix(name)}" for name in self.options.zone_names)
        return {
            "RESILIENT_DATABASE_URL": f"postgresql://app@{hosts}/app",
            "RESILIENT_DNS_NAMESERVERS": self.dns_address,
            "RESILIENT_ZONES": zones,
            "RESILIENT_ZONE": zone,
        }

    def member_name(self, zone: str) -> str:
        """The DNS name of the zone's database server."""
        return f"{zone}-db.db.test"

    def upstream(self, zone: str) -> Upstream:
        """The upstream of this zone; LabError if there is none."""
        for upstream in self.upstreams:
            if upstream.zone == zone:
                return upstream
        raise LabError(f"zone {zone!r} has no HTTP upstream")

    def admin(self, zone: str | None, query: str) -> list[tuple[object, ...]]:
        """Run SQL as superuser on the zone's server (None: the primary), not over the network."""
        member = self.primary if zone is None else self.cluster.member(zone)
        return member.execute(query)

    def use_system_resolver(self) -> None:
        """Make our DNS server this namespace's resolver (needs a namespace and port 53)."""
        if self._dns_at[1] != 53:
            raise LabError(f"dns_port={self._dns_at[1]}: the system's resolver asks port 53 only")
        use_resolv_conf(f"nameserver {self._dns_at[0]}\noptions timeout:1 attempts:2\n")

    # ---- faults ----------------------------------------------------------------------

    def inject(
        self,
        fault: str,
        *,
        promote_after_s: float | None = None,
        dns_after_s: float = 0.5,
        resume_after_s: float = 1.0,
        zone: str | None = None,
    ) -> FaultRun:
        """Begin a fault; returns at once, the rest happens on a thread of the lab's.

        `promote_after_s` counts from `fault_at` (None: 1.0; for a switchover 0), `dns_after_s`
        and, for a zombie, `resume_after_s` from `writable_at`; without a promotion `dns_after_s`
        counts from `fault_at`.  `zone`: whose upstream is hit (az1); a database fault hits the
        primary.
        """
        if fault not in FAULTS:
            raise LabError(f"fault {fault!r}: there are {', '.join(FAULTS)}")
        if fault in self.skipped_faults:
            raise LabError(f"{fault} is skipped: {self.skipped_faults[fault]}")
        if self._run is not None and not self._run.done:
            raise LabError(f"{self._run.fault} is still under way: wait_done() first")
        if promote_after_s is None:
            promote_after_s = 0.0 if fault == "switchover" else 1.0
        where = (zone or "az1") if fault in HTTP_FAULTS else self.primary.zone
        run = FaultRun(Plan(fault, where, promote_after_s, dns_after_s, resume_after_s))
        self._run = run
        self._thread = threading.Thread(
            target=play, args=(self, run), name=f"lab-{fault}", daemon=True
        )
        self._thread.start()
        return run

    def heal(self) -> None:
        """Undo every fault but the promotion: packets pass, who was stopped runs, names agree.

        A standby or an old primary that is down stays so, and an old primary that runs is as
        wrong as it was, until `rejoin`.  A primary that nobody has replaced is started again.
        """
        self._call_off()
        self._drops.clear()
        for member in self.members:
            member.resume()
        if self.primary.state is MemberState.DOWN:  # killed, and nobody was promoted
            self.primary.start()
        for upstream in self.upstreams:
            upstream.resume()
            self.dns.add_address(self.UPSTREAM, upstream.address)
        self.flip_writer()

    def rejoin(self) -> dict[str, str]:
        """Make every other member a streaming standby of the primary, and heal the rest.

        How each one that needed it came back (`restart`, `pg_rewind`, `pg_basebackup`).
        """
        self._call_off()
        done: dict[str, str] = {}
        if self.primary.state is not MemberState.UP:
            self.heal()
        for member in self.standbys:
            if member.state is MemberState.STOPPED:
                member.kill()  # it must not wake up as a second primary first
        for member in self.standbys:
            # one whose primary was away for a moment comes back by itself
            if not self.cluster.is_streaming(member, patience_s=1.0):
                self.progress(f"{member.zone} rejoins")
                # a zone that is lost stays so until its old primary has been stopped; an orderly
                # shutdown would wait there for standbys that it can't reach
                member.stop("immediate" if self._drops.active else "fast", timeout_s=1.0)
                self._drops.clear()
                done[member.zone] = self.cluster.rejoin(member)
        self.heal()
        return done

    def blackhole(self, zone: str) -> None:
        """Lose every packet to and from this zone, silently, until `heal`."""
        if "blackhole" in self.skipped_faults:
            raise LabError(f"blackhole is skipped: {self.skipped_faults['blackhole']}")
        self._drops.drop(zone_prefix(zone))

    def flip_writer(self, avoid: str = "") -> float:
        """Point the names where the roles are; the moment of it."""
        standby = [m for m in self.standbys if m.zone != avoid and m.is_standby]
        at = self._point(self.WRITER, self.primary)
        if standby:
            self._point(self.READER, standby[0])
        return at

    def observe(self, observer: Observer | None) -> None:
        """Keep the observer of the last promotion, end the one before."""
        if self.observer is not None:
            self.observer.close()
        self.observer = observer

    def _point(self, name: str, member: Member) -> float:
        return self.dns.flip(name, self.member_name(member.zone))

    def _call_off(self, timeout_s: float = 60.0) -> None:
        if self._run is not None and self._thread is not None:
            self._run.cancel()
            self._thread.join(timeout_s)
