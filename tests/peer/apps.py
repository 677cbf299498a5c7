"""Other people's suites with their own pools and with ours: `make peer-apps`.

    python -m tests.peer.apps [--failovers S] django=<checkout> procrastinate=<checkout>

Each suite runs twice on a server of its own.  Told are both counts, and the tests that pass with
stock and don't with ours; `apps.txt` lists those that are left out of that, with reasons.  Exit
code 1: there are others.

With `--failovers 30` ours runs on three servers with synchronous replication, whose primary
changes every 30 seconds (an orderly switchover): the same tests pass.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ET
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

import psycopg
from psycopg.conninfo import conninfo_to_dict

from .failovers import Failovers, conninfo_of, failing_servers
from .plugin import start_server

HERE = Path(__file__).parent
#: a suite may take so long, in seconds
LIMIT_S = 3600.0
PASSED, FAILED, SKIPPED = "passed", "failed", "skipped"
#: test → one of those
Results = dict[str, str]


@dataclass(frozen=True)
class Suite:
    """`command`: arguments of Python, in the checkout; `{report}` is a file for the results,
    `{ours}` what makes it ours, empty for stock.  `prepare`: SQL for its database."""

    command: Sequence[str]
    read: Callable[[str, Path], Results]
    prepare: Sequence[str] = ()
    ours: Sequence[str] = ()
    stock: Sequence[str] = ()


def read_junit(output: str, report: Path) -> Results:
    """pytest's."""
    if not report.exists():
        raise SystemExit(f"the suite didn't run:\n{output[-3000:]}")
    results = {}
    for case in ET.parse(report).iter("testcase"):
        name = f"{case.get('classname')}::{case.get('name')}"
        kinds = {child.tag for child in case}
        failed = kinds & {"failure", "error"}
        results[name] = FAILED if failed else SKIPPED if "skipped" in kinds else PASSED
    return results


def read_unittest(output: str, report: Path) -> Results:
    """unittest's, of verbosity 2."""
    results = {}
    told = r"(ok|skipped|FAIL|ERROR|expected failure)"
    between = rf"(?:(?!{told}).*\n(?:(?!\w+ \().*\n)*?)?"  # what was logged meanwhile
    pattern = rf"^(\w+) \(([\w.]+)\)(?:.*\n)*?.*?\.\.\. {between}{told}"
    for name, where, _, told in re.findall(pattern, output, re.MULTILINE):
        kind = {"ok": PASSED, "expected failure": PASSED, "skipped": SKIPPED}.get(told, FAILED)
        results[where if where.endswith(name) else f"{where}.{name}"] = kind
    if not results:
        raise SystemExit(f"the suite didn't run:\n{output[-3000:]}")
    return results


#: a test that hangs is one that failed
PYTEST = ("-m", "pytest", "-q", "--junitxml={report}", "-p", "no:cacheprovider", "--timeout=30")
DJANGO = ("backends", "transactions", "transaction_hooks", "select_for_update", "postgres_tests")
SQLALCHEMY = (*PYTEST, "-p", "no:asyncio", "-p", "no:django", "{ours}")
SCHEMA = (
    "CREATE SCHEMA test_schema",
    "CREATE SCHEMA test_schema_2",
    "CREATE EXTENSION hstore",
    "CREATE EXTENSION citext",
    "ALTER DATABASE peer SET default_text_search_config = 'pg_catalog.english'",
)
ENGINE = ("test/dialect/postgresql", "test/engine")
#: of test/orm what meets the pool
ORM = tuple(
    f"test/orm/{name}"
    for name in (
        *("test_transaction.py", "test_session.py", "test_unitofwork.py", "test_unitofworkv2.py"),
        *("test_query.py", "test_merge.py", "test_versioning.py", "dml"),
    )
)
SUITES = {
    "procrastinate": Suite(
        (*PYTEST, "{ours}", "tests/integration"),
        read_junit,
        ours=("-p", "apps_plugin"),
    ),
    "sqlalchemy": Suite(
        (*SQLALCHEMY, "--dburi=postgresql+psycopg://{server}", *ENGINE, *ORM),
        read_junit,
        SCHEMA,
        ours=("-p", "apps_plugin"),
    ),
    "sqlalchemy-asyncio": Suite(
        (*SQLALCHEMY, "--dburi=postgresql+psycopg_async://{server}", "test/ext/asyncio", *ENGINE),
        read_junit,
        SCHEMA,
        # It waits for every task of its loop, and the engine that the suite keeps open has some.
        ours=("-p", "apps_plugin", "-k", "not AsyncCancellationTest"),
    ),
    "django": Suite(
        (
            *("tests/runtests.py", "--settings={settings}", "--parallel=1", "-v2", "--noinput"),
            *DJANGO,
        ),
        read_unittest,
        ours=("django_ours",),
        stock=("django_stock",),
    ),
}


def run(suite: Suite, checkout: Path, ours: bool, failovers_s: float | None) -> Results:
    """Its tests by what became of them, on new servers."""
    with ExitStack() as stack:
        lab = None if failovers_s is None else stack.enter_context(failing_servers())
        conninfo = start_server(stack) if lab is None else conninfo_of(lab)
        dsn = conninfo_to_dict(f"{conninfo} target_session_attrs=read-write")
        host, port, user, name = (str(dsn[key]) for key in ("host", "port", "user", "dbname"))
        with psycopg.connect(**dsn, autocommit=True) as conn:  # type: ignore[arg-type]
            for statement in suite.prepare:
                conn.execute(statement.encode())
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        report = folder / "report.xml"
        words: Mapping[str, str] = {
            "report": str(report),
            "server": f"{user}@{host}:{port}/{name}" if lab is None else several(dsn),
            "settings": "".join(suite.ours if ours else suite.stock),
        }
        extra = suite.ours if ours else suite.stock
        command = [sys.executable]
        for word in suite.command:
            command += extra if word == "{ours}" else [word.format(**words)]
        env = {
            **os.environ,
            "PGHOST": host,
            "PGPORT": port,
            "PGUSER": user,
            "PGDATABASE": name,
            **({"PGTARGETSESSIONATTRS": "read-write"} if lab else {}),
            # The checkout's own package first: our plugin is imported before its conftest.
            "PYTHONPATH": os.pathsep.join(map(str, (checkout / "lib", HERE, HERE.parents[1]))),
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        forced = Failovers(lab, failovers_s) if lab and failovers_s else None
        with forced or nullcontext():
            done = subprocess.run(
                command, cwd=checkout, env=env, timeout=LIMIT_S, check=False,
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            )  # fmt: skip
        if forced:
            print(f"{forced.count} failovers", flush=True)
        if kept := os.environ.get("PEER_KEEP"):
            Path(kept, f"{checkout.name}-{'ours' if ours else 'stock'}.txt").write_text(done.stdout)
        return suite.read(done.stdout, report)


def several(dsn: Mapping[str, object]) -> str:
    """Of a URL that names several hosts, what follows its scheme."""
    hosts = "&".join(f"host={host}:{dsn['port']}" for host in str(dsn["host"]).split(","))
    return f"{dsn['user']}@/{dsn['dbname']}?{hosts}"


def left_out(name: str, failovers: bool) -> dict[str, str]:
    """`suite  test  reason`, one a line: test → reason; a `*` is anything.  `suite/failovers`:
    only while failovers are forced."""
    alike = {name, name.split("-", maxsplit=1)[0]}
    if failovers:
        alike |= {f"{each}/failovers" for each in alike}
    lines = (HERE / "apps.txt").read_text().splitlines()
    rows = (line.split(maxsplit=2) for line in lines if line.strip() and line[0] != "#")
    return {test: reason for suite, test, reason in rows if suite in alike}


def reason(test: str, reasons: Mapping[str, str]) -> str:
    """Why it is left out; empty: it isn't."""
    for each, why in reasons.items():
        if fnmatchcase(test, each.replace("[", "[[]")):
            return why
    return ""


def counts(results: Results) -> str:
    found = [f"{sum(1 for r in results.values() if r == kind)} {kind}"
             for kind in (PASSED, FAILED, SKIPPED)]  # fmt: skip
    return ", ".join(found)


def compare(name: str, path: Path, failovers_s: float | None) -> bool:
    """Run it twice and tell; False: a test fails with ours only, and nothing excuses it."""
    stock = run(SUITES[name], path, False, None)
    ours = run(SUITES[name], path, True, failovers_s)
    reasons = left_out(name, failovers_s is not None)
    worse = sorted(
        test for test, result in stock.items()
        if result == PASSED and ours.get(test, "missing") != PASSED
    )  # fmt: skip
    excused = {test: why for test in worse if (why := reason(test, reasons))}
    print(f"{name}: stock {counts(stock)}; ours {counts(ours)}")
    for test in worse:
        print(f"  {ours.get(test, 'missing')} {test}  {excused.get(test, '!')}")
    if kept := os.environ.get("PEER_KEEP"):
        Path(kept, f"{name}.json").write_text(json.dumps({"stock": stock, "ours": ours}))
    return len(worse) == len(excused)


def a_suite(text: str) -> tuple[str, Path]:
    """`django=<checkout>`"""
    name, _, path = text.partition("=")
    if name not in SUITES or not Path(path).is_dir():
        raise argparse.ArgumentTypeError(f"{text}: one of {', '.join(SUITES)}, = its checkout")
    return name, Path(path)


def main(argv: Sequence[str]) -> int:
    """1: a test fails with ours that passes with stock."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.peer.apps",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--failovers", type=float, metavar="S", help="one every S seconds")
    parser.add_argument("suite", nargs="+", type=a_suite, help="name=checkout")
    options = parser.parse_args(argv)
    fine = [compare(name, path, options.failovers) for name, path in options.suite]
    return 0 if all(fine) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
