"""Requests that belong together: authentication, redirects."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx2
from side_by_side import Asked, Pair, Reply, Server

Serve = Callable[..., list[Server]]


def test_one_digest_flow_stays_on_one_endpoint(pair: Pair, serve: Serve, url: str) -> None:
    """Each server knows only the nonces that it gave."""

    def handle(one: Asked) -> Reply:
        mine = one.sock.getsockname()[0]
        if f'nonce="{mine}"' in one.headers.get("authorization", ""):
            return 200, {}, b"in"
        challenge = f'Digest realm="r", nonce="{mine}", qop="auth", algorithm=SHA-256'
        return 401, {"www-authenticate": challenge}, b"who?"

    serve(3, handle)

    def run(client: Any) -> Any:
        return [client.get(f"{url}/x", auth=httpx2.DigestAuth("u", "p")) for _ in range(12)]

    async def run_async(client: Any) -> Any:
        return [await client.get(f"{url}/x", auth=httpx2.DigestAuth("u", "p")) for _ in range(12)]

    seen = pair.one(run if pair.blocking else run_async, True)
    assert [response.status_code for response in seen.result] == [200] * 12
    assert len({one.extensions["resilient"]["endpoint"] for one in seen.result}) > 1


def test_one_redirect_chain_stays_on_one_endpoint(pair: Pair, serve: Serve, url: str) -> None:
    sessions: dict[str, set[str]] = {}

    def handle(one: Asked) -> Reply:
        mine = one.sock.getsockname()[0]
        step = int(one.path[1:])
        number = one.headers["x-number"]
        sessions.setdefault(number, set()).add(mine)
        if step < 3:
            return 302, {"location": f"/{step + 1}"}, b""
        return 200, {}, b"there"

    serve(3, handle)

    def run(client: Any) -> Any:
        return [client.get(f"{url}/0", headers={"x-number": str(n)}) for n in range(12)]

    async def run_async(client: Any) -> Any:
        return [await client.get(f"{url}/0", headers={"x-number": str(n)}) for n in range(12)]

    seen = pair.one(run if pair.blocking else run_async, True, follow_redirects=True)
    assert {response.text for response in seen.result} == {"there"}
    assert {len(addresses) for addresses in sessions.values()} == {1}
    assert len(set.union(*sessions.values())) > 1


def test_a_chain_goes_on_elsewhere_when_its_endpoint_dies(
    pair: Pair, serve: Serve, url: str
) -> None:
    def handle(one: Asked) -> Reply:
        if one.path == "/0":
            mine = one.sock.getsockname()[0]
            next(server for server in servers if server.address == mine).refuse()
            return 302, {"location": "/1", "connection": "close"}, b""
        return 200, {}, b"there"

    servers = serve(2, handle)
    seen = pair.one(lambda c: c.get(f"{url}/0"), True, follow_redirects=True)
    assert seen.text == "200 there"
