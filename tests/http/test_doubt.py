"""An endpoint that left a request unanswered: silence proves nothing, but others go elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import httpx
import httpx2
from http_lab import NAME, TIMED, Names, Shell, Upstream, facts

from resilient import Settings

Run = Callable[..., list[Upstream]]
#: nobody is put out for what they do in these tests
PATIENT: dict[str, Any] = {"eject_after": 1000}


def fetch(shell: Shell, client: Any, url: str) -> str:
    """The address that answered; empty after a timeout of 0.2 s."""
    try:
        return str(facts(shell.get(client, url, timeout=0.2))["address"])
    except (httpx2.ReadTimeout, httpx.ReadTimeout):
        return ""


@TIMED
def test_one_request_in_a_while_tries_the_silent_one(
    shell: Shell, names: Names, run_upstreams: Run, port: int
) -> None:
    silent, *others = run_upstreams(3)
    names.answers[NAME] = (silent.address, *(other.address for other in others))
    client = shell.client(Settings(**PATIENT))
    url = f"http://{NAME}:{port}/x"
    assert fetch(shell, client, url)
    silent.hang()
    answers = []
    ends = time.monotonic() + 2.0
    while time.monotonic() < ends:
        answers.append(fetch(shell, client, url))
    # At most every other 0.2 s one waits for it; others are served at once.
    assert 1 <= answers.count("") <= 6
    assert len(answers) > 20 * answers.count("")


@TIMED
def test_a_silent_one_is_used_again_when_it_answers(
    shell: Shell, names: Names, run_upstreams: Run, port: int
) -> None:
    silent, other = run_upstreams(2)
    names.answers[NAME] = (silent.address, other.address)
    client = shell.client(Settings(**PATIENT))
    url = f"http://{NAME}:{port}/x"
    assert fetch(shell, client, url)
    silent.hang()
    while fetch(shell, client, url):
        pass
    silent.go_on()
    time.sleep(0.25)
    answers = [fetch(shell, client, url) for _ in range(60)]
    assert answers.count(silent.address) > 10


@TIMED
def test_the_only_one_is_asked_all_the_same(
    shell: Shell, names: Names, run_upstreams: Run, port: int
) -> None:
    (only,) = run_upstreams(1)
    names.answers[NAME] = (only.address,)
    client = shell.client(Settings(**PATIENT))
    url = f"http://{NAME}:{port}/x"
    assert fetch(shell, client, url) == only.address
    only.hang()
    assert not fetch(shell, client, url)
    assert not fetch(shell, client, url)
    only.go_on()
    assert fetch(shell, client, url) == only.address
