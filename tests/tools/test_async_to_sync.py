"""Modules that are made from others."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tools.async_to_sync import PAIRS, ROOT, Pair, formatted, made, twins

ASYNC = '''
"""Text, where async and await stay."""
import time
from contextlib import asynccontextmanager

async def run(client, queue):  # await nobody
    async with client.stream() as stream, queue:
        found = [part async for part in stream]
        async for item in queue:
            await item.aclose()
    return await client.get(await queue.head(), "await"), found
'''
SYNC = '''
"""Text, where async and await stay."""
import time
from contextlib import contextmanager

def run(client, queue):  # await nobody
    with client.stream() as stream, queue:
        found = [part for part in stream]
        for item in queue:
            item.close()
    return client.get(queue.head(), "await"), found
'''


def test_async_and_await_go_and_nothing_else() -> None:
    pair = Pair("a.py", "b.py", sync=True)
    assert made(ASYNC, pair).split("\n", 1)[1] == SYNC


def test_only_whole_names_are_changed_and_each_text_must_be_there() -> None:
    pair = Pair("a.py", "b.py", {"httpx2": "httpx"}, {"two": "three"})
    assert made("httpx2 httpx22 _httpx2 two", pair).split("\n")[1] == "httpx httpx22 _httpx2 three"
    with pytest.raises(ValueError, match="isn't there any more"):
        made("httpx2", pair)


PARTS = '''
class Old:
    """Of before."""


class AsyncNew:
    """With asyncio."""

    async def take(self):
        return await self.queue.get()


async def other():
    await nobody()
'''
MADE = '''
# Made from `AsyncNew` by `make generate`: change that one.
class Old:
    """With threads."""

    def take(self):
        return self.queue.get()


class AsyncNew:
    """With asyncio."""

    async def take(self):
        return await self.queue.get()


async def other():
    await nobody()
'''


def test_a_part_of_a_file_is_made_from_another_one_there() -> None:
    pair = twins("a.py", {"AsyncNew": "Old"}, texts={"asyncio": "threads"})
    assert made(PARTS, pair) == MADE
    assert made(MADE, pair) == MADE, "once more changes nothing"
    with pytest.raises(ValueError, match="AsyncGone isn't there any more"):
        made(PARTS, twins("a.py", {"AsyncGone": "Old"}))


@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: Path(pair.target).name)
def test_the_target_is_what_its_source_makes_it(pair: Pair) -> None:
    made_now = formatted(made((ROOT / pair.source).read_text(), pair), pair.target)
    assert (ROOT / pair.target).read_text() == made_now


def test_a_target_that_was_changed_by_hand_is_found(tmp_path: Path) -> None:
    """The command says which, and how it differs; it writes nothing."""
    for pair in PAIRS:
        for name in (pair.source, pair.target):
            copy = tmp_path / name
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_text((ROOT / name).read_text())
    for name in ("tools/async_to_sync.py", "pyproject.toml"):
        copy = tmp_path / name
        copy.parent.mkdir(exist_ok=True)
        copy.write_text((ROOT / name).read_text())
    changed = tmp_path / PAIRS[0].target
    changed.write_text(changed.read_text() + "\nextra = 1\n")
    command = (sys.executable, str(tmp_path / "tools/async_to_sync.py"), "--check")
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert PAIRS[0].target in done.stderr
    assert "-extra = 1" in done.stderr
    assert "extra = 1" in changed.read_text()
