"""Clients of other people with ours below them: asked as often as with the plain one."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import httpx2
import pytest
from side_by_side import Asked, Pair, Reply, Server

import resilient.http
from resilient import Settings

openai = pytest.importorskip("openai", reason="openai isn't installed")
Serve = Callable[..., list[Server]]
MODELS = json.dumps({"object": "list", "data": []}).encode()


@pytest.fixture
def pair() -> Pair:
    return Pair(blocking=True, settings=Settings(deadline_s=0.3))


def sdk(client: Any, url: str) -> Any:
    return openai.OpenAI(api_key="k", base_url=f"{url}/v1", http_client=client)


def json_reply(status: int, **more: str) -> Reply:
    return status, {"content-type": "application/json", **more}, MODELS


def test_a_long_completion_is_computed_once(pair: Pair, serve: Serve, url: str) -> None:
    def slow(one: Asked) -> Reply:
        time.sleep(0.6)
        return json_reply(200)

    servers = serve(2, slow)
    plain, ours = pair.each(lambda c: sdk(c, url).models.list())
    assert len(plain.result.data) == len(ours.result.data) == 0
    assert sum(len(server.asked) for server in servers) == 2


@pytest.mark.parametrize("status", [429, 503])
def test_an_sdk_does_its_own_retries(pair: Pair, serve: Serve, url: str, status: int) -> None:
    servers = serve(3, lambda one: json_reply(status, **{"retry-after-ms": "10"}))
    counts = []
    for ours in (False, True):
        before = sum(len(server.asked) for server in servers)
        seen = pair.one(lambda c: sdk(c, url).models.list(), ours)
        assert isinstance(seen.result, openai.APIStatusError)
        counts.append(sum(len(server.asked) for server in servers) - before)
    assert counts == [3, 3]


def test_the_default_timeout_is_the_librarys(pair: Pair) -> None:
    """SDKs compare it with httpx2's to see whether somebody chose another."""
    with pair.client(True) as client:
        assert client.timeout == httpx2.Timeout(5.0)
        assert httpx2.Timeout(5.0) == client.timeout
        assert client.timeout != httpx2.Timeout(6.0)
        assert repr(client.timeout) == "Timeout(timeout=5.0)"
        assert isinstance(client, resilient.http.Client)
