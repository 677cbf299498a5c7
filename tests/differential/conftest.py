"""`play`: the case's pool of each side and shell, on one server for the whole session."""

from __future__ import annotations

from collections.abc import Iterator
from fnmatch import fnmatch

import pytest

from .expected import EXPECTED
from .pg import Server, has_contrib, serve
from .play import Play, Proxy

SIDES = ("bare", "ours")
SHELLS = ("threads", "tasks")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what is known to be wrong (see expected.py)."""
    for item in items:
        if "tests/differential/" not in item.nodeid or "bare-t" in item.nodeid:
            continue
        name = item.nodeid.partition("tests/differential/")[2]
        for pattern, why in EXPECTED.items():
            if fnmatch(name.replace("[", "("), pattern.replace("[", "(")):
                item.add_marker(pytest.mark.xfail(strict=False, reason=why))
                break


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


@pytest.fixture(params=[f"{side}-{shell}" for side in SIDES for shell in SHELLS])
def play(
    request: pytest.FixtureRequest, differential_server: Server, differential_proxy: Proxy
) -> Iterator[Play]:
    side, shell = request.param.split("-")
    with Play(differential_server, differential_proxy, side, shell) as it:
        yield it


@pytest.fixture(params=[f"ours-{shell}" for shell in SHELLS])
def ours(
    request: pytest.FixtureRequest, differential_server: Server, differential_proxy: Proxy
) -> Iterator[Play]:
    """For what the bare pool has no word for."""
    side, shell = request.param.split("-")
    with Play(differential_server, differential_proxy, side, shell) as it:
        yield it


@pytest.fixture(params=["lsn", "ledger"])
def resolved(request: pytest.FixtureRequest, play: Play) -> Play:
    """The same play with each of the resolvers, which make no difference to the bare pool."""
    if play.bare and request.param != "lsn":
        pytest.skip("the bare pool resolves nothing")
    play.settings["commit_resolver"] = request.param
    play.dbname = "led" if request.param == "ledger" else "app"
    return play
