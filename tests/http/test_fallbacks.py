"""HTTP_FALLBACKS: other base URLs, asked when a URL's own endpoints fail."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
from http_lab import NAME, TIMED, Names, Shell, Upstream, facts

from resilient import Settings, errors

Run = Callable[..., list[Upstream]]
OTHER = "other.test"


def options(**values: Any) -> dict[str, Any]:
    return {"extensions": {"resilient": values}}


@pytest.fixture
def fallback(names: Names, run_upstreams: Run, port: int) -> tuple[Upstream, Settings]:
    (other,) = run_upstreams(1)
    names.answers[OTHER] = (other.address,)
    return other, Settings(http_fallbacks=[f"http://{OTHER}:{port}"])


def test_refused_goes_to_the_fallback_under_its_own_name(
    shell: Shell,
    names: Names,
    fallback: tuple[Upstream, Settings],
    subnet: str,
    port: int,
) -> None:
    other, settings = fallback
    names.answers[NAME] = (subnet + "1",)
    client = shell.client(settings)
    began = time.monotonic()
    response = shell.get(client, f"http://{NAME}:{port}/echo/a%2Fb?q=1&r=a%20b")
    assert time.monotonic() - began < 0.5
    assert facts(response) == {
        "address": other.address, "host": f"{OTHER}:{port}", "body": 0, "sni": None
    }  # fmt: skip
    assert response.extensions["resilient"]["endpoint"] == f"{other.address}:{port}"
    assert other.seen("GET /echo/a%2Fb") == 1
    assert str(response.request.url) == f"http://{NAME}:{port}/echo/a%2Fb?q=1&r=a%20b"


@TIMED
def test_a_base_path_is_kept(
    shell: Shell, names: Names, run_upstreams: Run, subnet: str, port: int
) -> None:
    (other,) = run_upstreams(1)
    names.answers[NAME] = (subnet + "1",)
    names.answers[OTHER] = (other.address,)
    client = shell.client(Settings(http_fallbacks=[f"http://{OTHER}:{port}/base/"]))
    shell.get(client, f"http://{NAME}:{port}/x")
    assert other.seen("GET /base/x") == 1


@TIMED
def test_a_bad_status_goes_to_the_fallback(
    shell: Shell,
    names: Names,
    run_upstreams: Run,
    fallback: tuple[Upstream, Settings],
    port: int,
) -> None:
    other, settings = fallback
    (one,) = run_upstreams(1)
    names.answers[NAME] = (one.address,)
    client = shell.client(settings)
    url = f"http://{NAME}:{port}/status?code=503"
    assert shell.get(client, f"{url}&except={other.address}").text == other.address
    both = shell.get(client, url)
    assert (both.status_code, both.text) == (503, one.address)  # the URL's own word


def test_a_post_stays_where_it_was_sent(
    shell: Shell,
    names: Names,
    fallback: tuple[Upstream, Settings],
    subnet: str,
    port: int,
) -> None:
    other, settings = fallback
    names.answers[NAME] = (subnet + "1",)
    client = shell.client(settings)
    with pytest.raises(shell.lib.ConnectError):
        shell.post(client, f"http://{NAME}:{port}/x", content=b"abc", timeout=0.2)
    assert other.seen("POST /x") == 0
    response = shell.post(
        client, f"http://{NAME}:{port}/x", content=b"abc", **options(idempotent=True)
    )
    assert facts(response)["body"] == 3


@TIMED
def test_a_hung_upstream_leaves_time_for_the_fallback(
    shell: Shell,
    names: Names,
    run_upstreams: Run,
    fallback: tuple[Upstream, Settings],
    port: int,
) -> None:
    other, settings = fallback
    (one,) = run_upstreams(1)
    names.answers[NAME] = (one.address,)
    client = shell.client(settings)
    one.hang()
    began = time.monotonic()
    response = shell.get(client, f"http://{NAME}:{port}/x", **options(deadline_s=0.8))
    assert facts(response)["address"] == other.address
    assert time.monotonic() - began < 0.8


@TIMED
def test_when_the_fallbacks_fail_too_the_url_is_waited_for(
    shell: Shell, names: Names, subnet: str, port: int
) -> None:
    names.answers[NAME] = (subnet + "1",)
    names.answers[OTHER] = (subnet + "2",)
    client = shell.client(Settings(http_fallbacks=[f"http://{OTHER}:{port}"]))
    began = time.monotonic()
    with pytest.raises(shell.lib.ConnectError) as caught:
        shell.get(client, f"http://{NAME}:{port}/x", **options(deadline_s=0.6))
    assert 0.55 <= time.monotonic() - began < 0.7
    assert isinstance(caught.value, errors.DeadlineExceeded)
    assert NAME in str(caught.value)


@TIMED
def test_a_slow_url_is_waited_for(
    shell: Shell,
    names: Names,
    run_upstreams: Run,
    fallback: tuple[Upstream, Settings],
    port: int,
) -> None:
    other, settings = fallback
    (one,) = run_upstreams(1)
    names.answers[NAME] = (one.address,)
    client = shell.client(Settings(http_fallbacks=settings.http_fallbacks, deadline_s=0.4))
    assert shell.get(client, f"http://{NAME}:{port}/slow?s=0.6", timeout=5).text == one.address
    with pytest.raises(shell.lib.ReadTimeout):
        shell.get(client, f"http://{NAME}:{port}/slow?s=0.6", timeout=0.2)
    assert other.seen("GET /slow") == 0


@TIMED
def test_no_deadline_is_none(
    shell: Shell, names: Names, fallback: tuple[Upstream, Settings], subnet: str, port: int
) -> None:
    """`deadline_s: None` says nothing."""
    other, settings = fallback
    names.answers[NAME] = (subnet + "1",)
    client = shell.client(settings)
    extensions = options(deadline_s=None)
    response = shell.get(client, f"http://{NAME}:{port}/x", **extensions)
    assert response.json()["address"] == other.address
