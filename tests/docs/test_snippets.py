"""Every Python snippet of README and docs runs as it stands, on the lab, with warnings as errors.

What a page leaves to the reader (a function of theirs, an engine that is there) stands before the
snippet in a comment, `<!-- setup: … -->`, and is run with it.
"""

from __future__ import annotations

import ast
import importlib.util
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import groupby
from operator import attrgetter
from pathlib import Path

import psycopg
import pytest

from resilient.lab import Lab, LabError, LabOptions
from resilient.lab.binaries import find_binaries

from .pages import Snippet, snippets

#: a snippet that stands on several pages is run once
SNIPPETS = list({(each.code, each.setup): each for each in snippets()}.values())
BY_PAGE = {name: list(of) for name, of in groupby(SNIPPETS, attrgetter("page"))}
SIDE_BY_SIDE = 2
#: as in a notebook: a snippet may await; one after the other, and none knows of another
RUN = """
import ast, asyncio, faulthandler, inspect, json, sys
faulthandler.dump_traceback_later(40, exit=True)  # what hangs is shown
for name, text in json.load(sys.stdin).items():
    code = compile(text, name, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    scope = {"__name__": "snippet"}  # as if it were a module
    if code.co_flags & inspect.CO_COROUTINE:
        asyncio.run(eval(code, scope))
    else:
        exec(code, scope)
"""
Done = subprocess.CompletedProcess[str]


@pytest.fixture(scope="module")
def own_lab() -> Iterator[Lab]:
    try:
        find_binaries()
    except LabError as error:
        pytest.skip(str(error))
    with Lab(LabOptions()) as running:
        # Of two that create a table at once, one may fail, whatever IF NOT EXISTS says.
        with psycopg.connect(running.dsn, target_session_attrs="read-write") as conn:
            conn.execute("CREATE TABLE orders (id bigint, item text)")
        yield running


@pytest.fixture(scope="module")
def played(
    own_lab: Lab, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Future[Done]]]:
    """All pages, a few at a time; by their names."""
    folder = tmp_path_factory.mktemp("snippets")
    with ThreadPoolExecutor(SIDE_BY_SIDE) as workers:
        yield {page: workers.submit(play, of, own_lab, folder) for page, of in BY_PAGE.items()}


def play(of: list[Snippet], lab: Lab, folder: Path) -> Done:
    places = {"http://api.example": lab.upstream_url, "/tmp/": f"{folder}/"}
    given = {str(each): each.setup + each.code for each in of if not (each.not_run or lacks(each))}
    code = json.dumps(given)
    for place, ours in places.items():
        code = code.replace(place, ours)
    environment = {k: v for k, v in os.environ.items() if not k.startswith("RESILIENT_DATABASE")}
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", RUN],
        check=False,
        input=code,
        env=environment | lab.env(),
        capture_output=True,
        text=True,
        timeout=60,
    )


def lacks(snippet: Snippet) -> str:
    """A package that it needs and that isn't installed."""
    found = re.findall(r"^\s*(?:from|import) ([\w]+)", snippet.setup + snippet.code, re.M)
    return next((name for name in found if importlib.util.find_spec(name) is None), "")


@pytest.mark.lab
@pytest.mark.parametrize("page", BY_PAGE)
def test_the_snippets_of_a_page_run(played: dict[str, Future[Done]], page: str) -> None:
    done = played[page].result()
    assert done.stderr == ""
    assert done.returncode == 0
    left_out = {lacks(each) or each.not_run for each in BY_PAGE[page]} - {""}
    if left_out:
        pytest.skip(f"some were left out: {', '.join(sorted(left_out))}")


def test_snippets_are_python() -> None:
    """Those that aren't run as well."""
    for each in SNIPPETS:
        flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT | ast.PyCF_ONLY_AST
        compile(each.setup + each.code, str(each), "exec", flags=flags)


def test_few_are_not_run() -> None:
    assert [str(each) for each in SNIPPETS if each.not_run] == []
