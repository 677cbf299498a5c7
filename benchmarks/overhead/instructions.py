"""`python -m benchmarks.overhead.instructions`: a call's instructions, ours and psycopg_pool's.

Counted by callgrind (valgrind), so that a busy machine changes nothing: the thread that calls, in
a process of its own for each side.  A figure is the difference of 2 N calls and N calls, by N.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from resilient.lab import Lab, LabOptions
from resilient.lab.namespace import inside, reexec_inside

from ..progress import say
from ..rows import Rows, machine
from .cells import Cell, chosen, every
from .database import Place, prepare
from .weight import environment

__all__ = ["main", "table"]

OUT = Path("build/benchmarks")
SIDES = ("bare", "ours", "off")
#: (median, worst): what is wanted at most, against psycopg_pool
WANTED = {"ours": (1.05, 1.15), "off": (1.02, 1.02)}
#: cells of one process: each begins with some seconds of imports
AT_ONCE = 24
MARKS = 3
VALGRIND = (
    *("valgrind", "--tool=callgrind", "--separate-threads=yes", "--instr-atstart=no"),
    "--dump-line=no",
)
SHIM = """\
#include <valgrind/callgrind.h>
void begin(void) { CALLGRIND_START_INSTRUMENTATION; }
void mark(void) { CALLGRIND_DUMP_STATS; }
"""
NOTES = """\
`python -m benchmarks.overhead.instructions --out benchmarks/results`: instructions of the client's
calling thread for a call, psycopg_pool's, ours (`lsn`, replay on), and ours with
`RESILIENT_REPLAY=off` and `RESILIENT_COMMIT_RESOLVER=off`. Worst first. `run` is beside the bare
`transaction()`; of `executemany`, *rows* are those that are sent. Cells that weren't counted are
left out; the same command goes on with them.

"""
_TOTAL = re.compile(r"^(?:totals|summary): (\d+)", re.M)
HEAD = (
    "| mode | pattern | statements | given | rows | does | shell | psycopg_pool | ours | ratio"
    " | all off | ratio |\n|---|---|---:|---|---:|---|---|---:|---:|---:|---:|---:|"
)


def counts(
    place: Place, side: str, cells: Sequence[Cell], library: Path
) -> Iterator[tuple[Cell, int]]:
    """Instructions of a call, of the thread that calls.  `library`: its package's folder."""
    with tempfile.TemporaryDirectory() as folder:
        marks = _marks(Path(folder))
        (Path(folder) / "resilient").symlink_to(library)
        subprocess.run(
            [
                *(*VALGRIND, f"--callgrind-out-file={folder}/out"),
                *(sys.executable, "-m", "benchmarks.overhead.counted", side),
                *(place.conninfo(), marks),
            ],
            input="\n".join(json.dumps(asdict(cell)) for cell in cells),
            cwd=folder,  # where Python looks for modules first; the benchmark is this one's
            env=environment() | {"PYTHONPATH": os.getcwd(), "PYTHONHASHSEED": "0"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE if not os.environ.get("SHOW") else None,
            text=True,
            check=True,
        )
        # First all cells of threads, then all of tasks, as the process takes them.
        ordered = sorted(cells, key=lambda cell: cell.shell != "sync")
        totals = [_total(Path(f"{folder}/out.{n}-01")) for n in range(1, MARKS * len(cells) + 1)]
    for number, cell in enumerate(ordered):
        _, once, twice = totals[MARKS * number : MARKS * (number + 1)]
        yield cell, round((twice - once) / cell.repeats)


def _marks(folder: Path) -> str:
    """The library by which the counted process tells where it is."""
    (folder / "marks.c").write_text(SHIM)
    made = folder / "marks.so"
    subprocess.run(
        ["cc", "-O2", "-shared", "-fPIC", "-o", str(made), str(folder / "marks.c")], check=True
    )
    return str(made)


def _total(dump: Path) -> int:
    found = _TOTAL.findall(dump.read_text(errors="replace"))
    return int(found[-1])


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Markdown: each cell's instructions and ratios, worst first, and median and worst of all."""
    known: dict[str, dict[str, int]] = {}
    for row in rows:
        known.setdefault(row["cell"], {})[row["side"]] = row["instructions"]
    whole = {key: found for key, found in known.items() if {"bare", "ours"} <= set(found)}
    lines = [HEAD]
    for key, found in sorted(whole.items(), key=lambda item: -item[1]["ours"] / item[1]["bare"]):
        bare = found["bare"]
        values = [key.replace("/", " | "), _grouped(bare)]
        for side in SIDES[1:]:
            count = found.get(side)
            values += ["", ""] if count is None else [_grouped(count), f"{count / bare:.3f}"]
        lines.append(f"| {' | '.join(values)} |")
    lines.append("")
    for side, (median, worst) in WANTED.items():
        ratios = [found[side] / found["bare"] for found in whole.values() if side in found]
        if ratios:
            lines.append(
                f"{'ours' if side == 'ours' else 'all off'}, {len(ratios)} cells: median"
                f" {statistics.median(ratios):.3f} (wanted {median}), worst {max(ratios):.3f}"
                f" (wanted {worst})  "
            )
    return "\n".join(lines) + "\n"


def _grouped(count: int) -> str:
    return f"{count:,}".replace(",", "\u202f")


def main(argv: Sequence[str]) -> int:
    """0: all was counted."""
    options = _options(argv)
    rows = Rows(options.out / "instructions.jsonl")
    if not options.report:
        reexec_inside([sys.executable, "-m", "benchmarks.overhead.instructions", *argv])
        _count(options, rows)
    found = rows.read()
    text = table(found)
    (options.out / "instructions.md").write_text(NOTES + text)
    print(json.dumps(found, ensure_ascii=False) if options.json else text)
    return 0


def _options(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.overhead.instructions", description=__doc__
    )
    parser.add_argument("--full", action="store_true", help="all cells; goes on where it stopped")
    parser.add_argument("--only", help="cells whose name has this regular expression in it")
    parser.add_argument("--side", action="append", choices=SIDES, help="several are possible (all)")
    parser.add_argument("--again", action="store_true", help="also what was counted before")
    parser.add_argument("--library", default=os.getcwd(), help="folder with the library's package")
    parser.add_argument("--out", type=Path, default=OUT, help=f"folder of the results ({OUT})")
    parser.add_argument("--report", action="store_true", help="only show what is there")
    parser.add_argument("--json", action="store_true", help="the results as JSON on stdout")
    return parser.parse_args(argv)


def _count(options: argparse.Namespace, rows: Rows) -> None:
    cells = list(every()) if options.full else chosen()
    if options.only:
        cells = [cell for cell in cells if re.search(options.only, cell.key)]
    done = set() if options.again else rows.done()
    library = Path(options.library).resolve() / "resilient"
    with Lab(LabOptions(zones=2, sync=False, http=False)) as lab:
        if inside():
            lab.use_system_resolver()
        place = Place((lab.primary.address,), lab.port)
        prepare(place)
        about = {"postgresql": str(lab.admin(None, "SHOW server_version")[0][0])}
        for standby in lab.standbys:
            standby.stop()
        for side in options.side or SIDES:
            left = [cell for cell in cells if f"{side}/{cell.key}" not in done]
            for some in (left[n : n + AT_ONCE] for n in range(0, len(left), AT_ONCE)):
                say(f"{side}: {len(some)} cells")
                for cell, instructions in counts(place, side, some, library):
                    rows.add(
                        {
                            "key": f"{side}/{cell.key}",
                            "cell": cell.key,
                            "side": side,
                            "instructions": instructions,
                            "machine": machine(),
                            **about,
                        }
                    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
