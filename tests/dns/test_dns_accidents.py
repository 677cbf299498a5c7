"""Accidents of our own: those who wait hear of them, and a watch goes on."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from dns_lab import Lab, a, until_async

from resilient.dns import Change
from resilient.errors import NameServersFailed


class Bug(Exception):
    """Nobody expects it."""


def _broken(*args: Any) -> Any:
    raise Bug("a bug")


async def test_those_who_wait_hear_of_an_accident(
    kind: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with Lab([a("a.test", "192.0.2.1")]) as lab:
        resolver = kind(lab.settings())
        with monkeypatch.context() as patch:
            patch.setattr("resilient.dns._engine.fetch", _broken)
            calls = [resolver.resolve("a.test") for _ in range(20)]
            async with asyncio.timeout(1):
                errors = await asyncio.gather(*calls, return_exceptions=True)
        assert {type(error) for error in errors} == {NameServersFailed}
        assert "Bug: a bug" in str(errors[0])
        assert "event=dns.failed name=a.test" in caplog.text
        await asyncio.sleep(0.25)
        assert (await resolver.resolve("a.test")).addresses == ("192.0.2.1",)
        await resolver.close()


@pytest.mark.parametrize("where", ["fetch", "Engine.local"])
async def test_a_watch_outlives_an_accident(
    kind: Any, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    with Lab([a("a.test", "192.0.2.1", ttl=1)]) as lab:
        resolver = kind(lab.settings())
        changes: list[Change] = []
        resolver.watch("a.test", changes.append)
        assert await until_async(lambda: lab.count == 1)
        with monkeypatch.context() as patch:
            hit: list[Any] = []

            def broken(*args: Any) -> Any:
                hit.append(args)
                raise Bug

            patch.setattr(f"resilient.dns._engine.{where}", broken)
            assert await until_async(lambda: bool(hit))
        lab.servers[0].set([a("a.test", "192.0.2.2", ttl=1)])
        assert await until_async(lambda: bool(changes))
        await resolver.close()
