"""Throw-away PostgreSQL servers on loopback addresses: copies of one cluster, each a primary.

Behind one name only one of them counts at a time, so a moved record alone is a failover.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import psycopg
import pytest

from resilient import Settings
from resilient.lab import LabError
from resilient.lab.binaries import copy_binaries, find_binaries, usable_by
from resilient.lab.ports import choose_port
from resilient.lab.postgres import Member, ServerSettings
from resilient.lab.processes import Spawner, server_account
from resilient.postgres import AsyncConnectionPool, ConnectionPool


class Servers:
    """A context manager; `members` in the order of their addresses."""

    def __init__(
        self, addresses: Sequence[str], certificates: Sequence[tuple[bytes, bytes] | None] = ()
    ) -> None:
        self.addresses = tuple(addresses)
        self._certificates = (*certificates, *[None] * len(addresses))[: len(addresses)]

    def __enter__(self) -> Self:
        try:
            binaries = find_binaries()
        except LabError as error:
            pytest.skip(str(error))
        self.root = Path(tempfile.mkdtemp(prefix="resilient-lab-pg-"))
        self.root.chmod(0o711)
        account = server_account()
        if not usable_by(account, binaries):
            binaries = copy_binaries(binaries, self.root / "postgresql")
        self.spawner = Spawner(self.root, account)
        self.port = choose_port(self.addresses, None, 5432, "port", False)
        zones = tuple(f"s{i}" for i in range(len(self.addresses)))
        settings = ServerSettings(binaries, self.port, False, "", zones, 60.0)
        self.members = tuple(
            Member(zone, address, self.root / zone, settings, self.spawner)
            for zone, address in zip(zones, self.addresses, strict=True)
        )
        try:
            self._start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def _start(self) -> None:
        first, *others = self.members
        first.initdb()
        for member in others:
            member.copy_from(first)
        for member, pair in zip(self.members, self._certificates, strict=True):
            if pair is not None:
                self._secure(member, *pair)
            member.start()

    def _secure(self, member: Member, certificate: bytes, key: bytes) -> None:
        account = self.spawner.account
        for name, blob in (("server.crt", certificate), ("server.key", key)):
            path = member.data / name
            path.write_bytes(blob)
            path.chmod(0o600)
            if account.switch:
                os.chown(path, account.uid, account.gid)
        with (member.data / "postgresql.conf").open("a") as file:
            file.write("ssl = on\n")
        # Without TLS nobody gets in: a client that fell back to plain text would be refused,
        # and seen in the log.
        (member.data / "pg_hba.conf").write_text(
            "local all all trust\nhostssl all all 127.0.0.0/8 trust\n"
        )

    def __exit__(self, *exc: object) -> None:
        for member in self.members:
            member.remove()
        self.spawner.close()
        shutil.rmtree(self.root, ignore_errors=True)


class Pool:
    """A pool of either shell behind one face."""

    WHERE = "select host(inet_server_addr())"

    def __init__(self, kind: str, dsn: str, settings: Settings, **options: Any) -> None:
        cls: Any = ConnectionPool if kind == "sync" else AsyncConnectionPool
        self.is_async = kind == "async"
        options = {"min_size": 2, "timeout": 5, **options}
        self.inner = cls(dsn, settings=settings, open=False, **options)

    async def __aenter__(self) -> Self:
        await self._call(self.inner.open)
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._call(self.inner.close)

    async def _call(self, call: Any, *args: Any) -> Any:
        if self.is_async:
            return await call(*args)
        return await asyncio.to_thread(call, *args)

    def _where(self, timeout: float | None) -> str:
        with self.inner.connection(timeout) as conn:
            return str(conn.execute(self.WHERE).fetchone()[0])

    async def where(self, timeout: float | None = None) -> str:
        """The address of the server behind a checkout."""
        if not self.is_async:
            return await asyncio.to_thread(self._where, timeout)
        async with self.inner.connection(timeout) as conn:
            return str((await (await conn.execute(self.WHERE)).fetchone())[0])

    async def arrives(self, address: str, within_s: float) -> float:
        """Seconds until a checkout leads to `address`; errors on the way are waited out."""
        began = time.monotonic()
        said: object = None
        while time.monotonic() - began < within_s:
            try:
                said = await self.where(within_s)
            except psycopg.Error as exc:
                said = exc
            if said == address:
                return time.monotonic() - began
            await asyncio.sleep(0.01)
        raise AssertionError(f"{said!r} and not {address} after {within_s} s")

    @property
    def addresses(self) -> set[str]:
        """The endpoints in the published topology."""
        return {view.address for view in self.inner.topology.endpoints}
