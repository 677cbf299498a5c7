"""A picture of the ratios: a panel a place, a line a case, 1 is the bare library."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from ..svg import ACCENT, BAD, GREY, INK, LINE, Axis, Picture
from .cases import CASES
from .placement import PLACEMENTS
from .targets import WHERE, target

__all__ = ["draw"]

WIDTH, LEFT, RIGHT, ROW, HEAD, FOOT = 980, 330, 720, 17, 40, 24
AXIS = Axis(0.5, 8.0, LEFT, RIGHT)
TICKS = (0.5, 0.75, 1.0, 1.5, 2.0, 4.0, 8.0)
#: the columns of numbers: heading → where they end
COLUMNS = {"ratio": 790, "added µs": 860, "wanted": 960}

Row = dict[str, Any]


def draw(rows: Sequence[Row]) -> str:
    """The SVG's text; rows are those of `overhead.jsonl`."""
    panels = list(_panels(rows))
    height = 50 + sum(HEAD + FOOT + ROW * len(lines) for _, lines in panels)
    title = "What it costs while nothing fails"
    picture = Picture(WIDTH, height, title)
    picture.text(16, 26, title, size=15, bold=True)
    legend = "the dot is the ratio to the bare library, the bar what noise does to the bare one"
    picture.text(16, 43, f"{legend} (1 is as quick), the red line what is wanted", colour=GREY)
    top = 50.0
    for words, lines in panels:
        _panel(picture, top, words, lines)
        top += HEAD + FOOT + ROW * len(lines)
    return picture.render()


def _panels(rows: Sequence[Row]) -> Iterator[tuple[str, list[Row]]]:
    timed = [row for row in rows if row["case"] in CASES]
    order = {case: number for number, case in enumerate(CASES)}
    timed.sort(key=lambda row: (order[row["case"]], row["shell"] != "sync"))
    for trip_ms in sorted({row["round_trip_ms"] for row in timed}):
        for placement in PLACEMENTS:
            for workers in sorted({row["workers"] for row in timed}):
                of_panel = (trip_ms, placement, workers)
                lines = [row for row in timed if _place(row) == of_panel]
                if lines:
                    where = f"Over a network of {trip_ms:g} ms" if trip_ms else WHERE[placement]
                    yield f"{where}; {workers} at once" if workers > 1 else where, lines
    imports = [row for row in rows if row["case"] == "import" and target(row)]
    if imports:
        yield "Importing both drop-ins, against all that they stand on", imports


def _place(row: Row) -> tuple[float, str, int]:
    return row["round_trip_ms"], row.get("placement", "free"), row["workers"]


def _panel(picture: Picture, top: float, words: str, lines: Sequence[Row]) -> None:
    picture.text(16, top + 24, words, size=13, bold=True)
    bottom = top + HEAD + ROW * len(lines)
    for value in TICKS:
        x = AXIS.at(value)
        plain = value != 1.0
        picture.line([(x, top + HEAD - 2), (x, bottom)], colour=LINE if plain else GREY)
        picture.text(x, bottom + 12, f"×{value:g}", size=10, colour=GREY, anchor="middle")
    for name, x in COLUMNS.items():
        picture.text(x, top + 34, name, size=10, colour=GREY, anchor="end")
    for number, row in enumerate(lines):
        _line(picture, top + HEAD + ROW * number + ROW / 2, row)


def _line(picture: Picture, y: float, row: Row) -> None:
    picture.line([(16, y + ROW / 2), (WIDTH - 16, y + ROW / 2)], width=0.4)
    ours = row.get("side") != "aws"
    colour = ACCENT if ours else GREY
    picture.text(LEFT - 10, y + 4, _name(row), size=11, colour=colour if ours else INK,
                 anchor="end")  # fmt: skip
    wanted = target(row)
    limit = _limit(row, wanted)
    if limit is not None:
        x = AXIS.at(limit)
        picture.line([(x, y - 7), (x, y + 7)], colour=BAD, width=1.6)
    if "noise_ratio" in row:
        low, high = sorted((AXIS.at(row["noise_ratio"]), AXIS.at(1.0)))
        picture.rectangle(low, y - 2, max(high - low, 1.0), 4, LINE)
    picture.dot(AXIS.at(row["ratio"]), y, colour=colour, radius=4)
    missed = wanted is not None and not wanted[1]
    added = row["added_us"] if "added_us" in row else (row["ms"] - row["bare_ms"]) * 1e3
    numbers = (f"{row['ratio']:.3f}", f"{added:+.1f}", wanted[0] if wanted else "")
    for words, x in zip(numbers, COLUMNS.values(), strict=True):
        picture.text(x, y + 4, words, size=11, colour=BAD if missed else INK, anchor="end",
                     bold=missed)  # fmt: skip


def _name(row: Row) -> str:
    if row["case"] == "import":
        return "import"
    side = {"lsn": "", "resilient": ""}.get(row["side"], f", {row['side']}")
    return f"{CASES[row['case']].text}{side} ({row['shell']})"


def _limit(row: Row, wanted: tuple[str, bool] | None) -> float | None:
    """What is wanted, as a ratio."""
    if wanted is None:
        return None
    number = float(wanted[0].removeprefix("≤ ").removesuffix(" µs"))
    if wanted[0].startswith("≤ +"):
        return float((row["bare"]["us"] + number) / row["bare"]["us"])
    if wanted[0].endswith("µs"):
        return float(number / row["bare"]["us"])
    return number
