"""A picture of measurements: a panel a question, a line a client, a dot a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from .svg import ACCENT, BAD, GREY, INK, LINE, Axis, Picture

__all__ = ["Line", "Panel", "draw"]

WIDTH, LEFT, RIGHT, ROW, HEAD, FOOT = 980, 200, 640, 17, 46, 26
TICKS = ((0.005, "5 ms"), (0.02, "20 ms"), (0.1, "0.1 s"), (0.5, "0.5 s"), (2, "2 s"), (10, "10 s"),
         (30, "30 s"))  # fmt: skip
AXIS = Axis(0.003, 40.0, LEFT, RIGHT)
#: where the first column of numbers ends, and how far apart they are
COLUMN, APART = 710, 54


@dataclass(frozen=True, slots=True)
class Line:
    """One client.  `seconds`: of each run that came back; `never`: how many didn't.

    `numbers`: heading → value, the same headings in all lines; those of `bad` must be 0.
    """

    name: str
    ours: bool
    seconds: tuple[float, ...]
    median: float | None
    never: int
    numbers: Mapping[str, float]
    bad: frozenset[str] = frozenset({"lost", "dupl.", "ghosts", "wrong"})


@dataclass(frozen=True, slots=True)
class Panel:
    """One question."""

    title: str
    lines: Sequence[Line] = field(default_factory=tuple)

    @property
    def height(self) -> float:
        """In pixels."""
        return HEAD + ROW * len(self.lines) + FOOT


def draw(title: str, panels: Sequence[Panel]) -> str:
    """The SVG's text."""
    picture = Picture(WIDTH, 50 + sum(panel.height for panel in panels), title)
    picture.text(16, 26, title, size=15, bold=True)
    legend = "a ring is a run, the dot is their median, × never came back; on the right: "
    picture.text(16, 43, legend + "errors and connections per run, the others in all runs",
                 colour=GREY)  # fmt: skip
    top = 50.0
    for panel in panels:
        _panel(picture, top, panel)
        top += panel.height
    return picture.render()


def _panel(picture: Picture, top: float, panel: Panel) -> None:
    picture.text(16, top + 26, panel.title, size=13, bold=True)
    bottom = top + HEAD + ROW * len(panel.lines)
    for value, label in TICKS:
        x = AXIS.at(value)
        picture.line([(x, top + HEAD - 2), (x, bottom)])
        picture.text(x, bottom + 12, label, size=10, colour=GREY, anchor="middle")
    for column, name in enumerate(panel.lines[0].numbers if panel.lines else ()):
        picture.text(COLUMN + APART * column, top + 40, name, size=10, colour=GREY, anchor="end")
    for number, line in enumerate(panel.lines):
        _line(picture, top + HEAD + ROW * number + ROW / 2, line)


def _line(picture: Picture, y: float, line: Line) -> None:
    picture.line([(16, y + ROW / 2), (WIDTH - 16, y + ROW / 2)], colour=LINE, width=0.4)
    colour = ACCENT if line.ours else GREY
    words = ACCENT if line.ours else INK
    picture.text(LEFT - 10, y + 4, line.name, size=11, colour=words, anchor="end", bold=line.ours)
    for seconds in line.seconds:
        picture.dot(AXIS.at(seconds), y, colour=colour, hollow=True)
    if line.median is not None:
        picture.dot(AXIS.at(line.median), y, colour=colour, radius=4)
    for number in range(line.never):
        picture.cross(RIGHT + 12 + 3 * number, y)
    for column, (name, value) in enumerate(line.numbers.items()):
        wrong = bool(value) and name in line.bad
        picture.text(COLUMN + APART * column, y + 4, f"{value:g}", size=11,
                     colour=BAD if wrong else INK, anchor="end", bold=wrong)  # fmt: skip
