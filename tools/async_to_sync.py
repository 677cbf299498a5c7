"""Writes the modules that are another one's text with some words changed.

    python tools/async_to_sync.py [--check]      (make generate)

Each target says at its top where it comes from.  `--check` changes nothing and exits with 1 when
a target isn't what it would be made into.

Two kinds of pairs are here: the drop-ins for httpx, made from those for httpx2, and, where
removing `await` is right, blocking twins of asyncio modules, or of classes and functions in the
same module.  Locks, races, cancellation and
wake-ups are another matter in the two worlds: what has these is written by hand, twice.
"""

from __future__ import annotations

import argparse
import ast
import difflib
import io
import re
import subprocess
import sys
import tokenize
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MARK = "# Made from {source} by `make generate`: change that one.\n"
#: between the parts of a file while they are changed together
CUT = "# ✂\n"
Definition = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef

#: asyncio's word → the blocking one, as whole names
SYNC = {
    "AbstractAsyncContextManager": "AbstractContextManager",
    "AsyncExitStack": "ExitStack",
    "AsyncIterable": "Iterable",
    "AsyncIterator": "Iterator",
    "StopAsyncIteration": "StopIteration",
    "__aenter__": "__enter__",
    "__aexit__": "__exit__",
    "__aiter__": "__iter__",
    "__anext__": "__next__",
    "aclose": "close",
    "anext": "next",
    "asynccontextmanager": "contextmanager",
}


@dataclass(frozen=True)
class Pair:
    """`target` is `source` with `names` changed (whole names) and then `texts` (anything, each
    of which must be there).  `sync`: without `async` and `await`, and by `SYNC`.  `parts`: not
    all of it, but these classes and functions of one file, each of another one there."""

    source: str
    target: str
    names: Mapping[str, str] = field(default_factory=dict)
    texts: Mapping[str, str] = field(default_factory=dict)
    sync: bool = False
    parts: Mapping[str, str] = field(default_factory=dict)


def twins(file: str, parts: Mapping[str, str], **more: Mapping[str, str]) -> Pair:
    """Blocking twins of these asyncio classes and functions, in the same file."""
    names = {**parts, **more.get("names", {})}
    return Pair(file, file, names, more.get("texts", {}), sync=True, parts=parts)


HTTPX = {"httpx2": "httpx", "httpcore2": "httpcore"}
PAIRS = (
    Pair(
        "resilient/http/_httpx2.py",
        "resilient/http/httpx.py",
        HTTPX,
        {
            '"""The four drop-ins on httpx:': '"""The same four drop-ins on httpx:',
            "from . import errors\n": "from . import _httpx_errors as errors\n",
            "\nLIBRARY = ": "\n"
            '__all__ = ["AsyncClient", "AsyncTransport", "Client", "Transport", "errors"]\n\n'
            "LIBRARY = ",
            "Callable[[bytes], str | None]": "Callable[[bytes], str]",
        },
    ),
    Pair(
        "resilient/http/errors.py",
        "resilient/http/_httpx_errors.py",
        HTTPX,
        {
            "The errors that the HTTP drop-in raises itself, each also one of httpx's.": (
                "The errors of `resilient.http.httpx`, each also one of httpx's."
            ),
        },
    ),
    Pair(
        "resilient/postgres/pool/aio.py",
        "resilient/postgres/pool/sync.py",
        {
            "ACT": "CT",
            "AsyncApart": "Apart",
            "AsyncReader": "Reader",
            "AsyncReplicaPool": "ReplicaPool",
            "AsyncResilientPool": "ResilientPool",
            "AsyncShell": "SyncShell",
            "more_async": "more",
            "shell_async": "shell_sync",
        },
        {
            '"""The asyncio pools: ': '"""The thread pools: ',
            "\nA new topology reaches a pool on its own loop.  `sync` is made from this.": "",
            "import asyncio\n": "import threading\n",
            "Awaitable, ": "",
            "Awaitable[T]": "T",
            "asyncio.Lock": "threading.Lock",
            "asyncio.sleep": "time.sleep",
            "last one of this task": "last one of this thread",
            "    def __del__(self) -> None:\n": "    def _dropped(self) -> None:\n",
            "is not None:\n            self._core.detach(wait=False)": """\
is not None:
            while self._core.replicas:
                self._core.replicas.popitem()[1].pool.close(timeout=1.0)
            self._end_replica_tasks()
            self._core.detach(wait=False)""",
            # What holds the state of a pool: a loop's turn, or a lock.
            "self._pool and not self._lock.locked() and self._plainly(timeout):": """\
self._pool and self._plainly(timeout):
            with self._lock:""",
            "            conn = self._next_idle(": "                conn = self._next_idle(",
            """\
            if self._waiting or self._pool_full_event or self._lock.locked():
                self._add_to_pool(conn)
            else:
                self._pool.append(conn)
            return
""": """\
            with self._lock:
                if not (self._waiting or self._pool_full_event or self._closed):
                    self._pool.append(conn)
                    return
            self._add_to_pool(conn)
            return
""",
        },
        sync=True,
    ),
    twins(
        "resilient/postgres/pool/apart.py",
        {"AsyncApart": "Apart"},
        names={"AsyncLock": "Lock", "listen_async": "listen"},
        texts={
            "an asyncio pool": "a thread pool",
            "an `async with` block": "a `with` block",
            "on the loop,": "in a thread,",
        },
    ),
    twins(
        "resilient/postgres/pool/null.py",
        {"AsyncResilientNullPool": "ResilientNullPool"},
        names={
            "ACT": "CT",
            "AsyncAddConnection": "AddConnection",
            "AsyncNullConnectionPool": "NullConnectionPool",
            "AsyncResilientPool": "ResilientPool",
        },
    ),
    twins(
        "resilient/postgres/pool/public.py",
        {
            "AsyncConnectionPool": "ConnectionPool",
            "AsyncNullConnectionPool": "NullConnectionPool",
        },
        names={
            "ACT": "CT",
            "AsyncConnectFailedCB": "ConnectFailedCB",
            "AsyncConnection": "Connection",
            "AsyncConnectionCB": "ConnectionCB",
            "AsyncConninfoParam": "ConninfoParam",
            "AsyncKwargsParam": "KwargsParam",
            "AsyncResilientNullPool": "ResilientNullPool",
            "AsyncResilientPool": "ResilientPool",
            "_PLAIN_ASYNC": "_PLAIN",
        },
    ),
    twins(
        "resilient/postgres/pool/reader.py",
        {"AsyncReader": "Reader"},
        texts={"an asyncio pool": "a thread pool", "Awaitable[T]": "T"},
    ),
    twins(
        "resilient/postgres/pool/replica_tasks.py",
        {"AsyncReplicaTask": "ReplicaTask"},
        names={
            "AsyncConnectionPool": "ConnectionPool",
            "AsyncMaintenanceTask": "MaintenanceTask",
        },
    ),
    twins(
        "resilient/postgres/pool/tasks.py",
        {"AsyncWork": "Work"},
        names={
            "AsyncConnectionPool": "ConnectionPool",
            "AsyncMaintenanceTask": "MaintenanceTask",
        },
        texts={"Awaitable[None]": "None"},
    ),
    twins(
        "resilient/postgres/session/connection.py",
        {"HookedAsyncConnection": "HookedConnection"},
        names={
            "AsyncConnection": "Connection",
            "AsyncPipeline": "Pipeline",
            "AsyncTransaction": "Transaction",
            "_async_cursor": "_cursor",
            "stop_async": "stop",
            "take_async": "take",
            "wait_async": "wait",
        },
        texts={"For asyncio.": "For threads.", "asyncio.CancelledError, ": ""},
    ),
    twins(
        "resilient/postgres/session/transaction.py",
        {"AsyncTransaction": "Transaction"},
    ),
    twins(
        "resilient/postgres/session/waiting.py",
        {"settle_async": "settle", "stop_async": "stop", "take_async": "take"},
        names={
            "AsyncConnection": "Connection",
            "AsyncRenewing": "Renewing",
            "settle_async": "settle",
            "wait_async": "wait",
        },
        texts={"asyncio.sleep": "time.sleep", "  # cancelled once more while cancelling": ""},
    ),
    twins(
        "resilient/postgres/pool/listening.py",
        {"listen_async": "listen"},
        texts={
            "an asyncio pool": "a thread pool",
            "conn.set_autocommit(True)": "conn.autocommit = True",
            "for notify in conn.notifies():\n                yield notify": (
                "yield from conn.notifies()"
            ),
            "asyncio.sleep": "time.sleep",
        },
    ),
)


def made(source: str, pair: Pair) -> str:
    """The target's text before it is formatted.  ValueError where a text isn't found."""
    if not pair.parts:
        return MARK.format(source=pair.source) + _changed(source, pair)
    found = {name: _segment(source, name) for name in pair.parts}
    changed = _changed(CUT.join(found.values()), pair).split(CUT)
    for (name, target), text in zip(pair.parts.items(), changed, strict=True):
        mark = MARK.format(source=f"`{name}`")
        old = _segment(source, target)
        source = source.replace(mark + old, old).replace(old, mark + text)
    return source


def _segment(source: str, name: str) -> str:
    """The text of a class or function of a module."""
    for node in ast.parse(source).body:
        if isinstance(node, Definition) and node.name == name:
            first = min([node.lineno, *(one.lineno for one in node.decorator_list)])
            return "".join(source.splitlines(keepends=True)[first - 1 : node.end_lineno])
    raise ValueError(f"{name} isn't there any more")


def _changed(source: str, pair: Pair) -> str:
    names = {**SYNC, **pair.names} if pair.sync else pair.names
    text = _without_await(source) if pair.sync else source
    if names:
        known = re.compile(rf"\b(?:{'|'.join(map(re.escape, names))})\b")
        text = known.sub(lambda found: names[found[0]], text)
    for old, new in pair.texts.items():
        if old not in text:
            raise ValueError(f"{pair.source}: {old!r} isn't there any more")
        text = text.replace(old, new)
    return text


def _without_await(source: str) -> str:
    """Python without the words `async` and `await`; comments and strings stay as they are."""
    lines = source.splitlines(keepends=True)
    found = [
        token
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type == tokenize.NAME and token.string in ("async", "await")
    ]
    for token in reversed(found):
        (row, start), (_, end) = token.start, token.end
        line = lines[row - 1]
        lines[row - 1] = line[:start] + line[end:].removeprefix(" ")
    return "".join(lines)


def formatted(text: str, name: str) -> str:
    """As ruff sorts imports and lays it out."""
    ruff = (sys.executable, "-m", "ruff")
    for command in (("check", "--select", "I", "--fix-only", "--quiet"), ("format", "--quiet")):
        text = subprocess.run(
            [*ruff, *command, "--stdin-filename", name, "-"],
            input=text,
            text=True,
            capture_output=True,
            check=True,
            cwd=ROOT,
        ).stdout
    return text


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; its exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing")
    check = parser.parse_args(argv).check
    stale = 0
    for pair in PAIRS:
        target = ROOT / pair.target
        text = formatted(made((ROOT / pair.source).read_text(), pair), pair.target)
        there = target.read_text() if target.exists() else ""
        if text == there:
            continue
        stale = 1
        if check:
            sys.stderr.write(f"{pair.target} isn't what {pair.source} makes it: make generate\n")
            lines = there.splitlines(keepends=True), text.splitlines(keepends=True)
            sys.stderr.writelines(difflib.unified_diff(*lines, "there", "made", n=1))
        else:
            target.write_text(text)
    return stale if check else 0


if __name__ == "__main__":
    sys.exit(main())
