"""A picture of curves: small panels side by side, both axes logarithmic."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from .svg import ACCENT, BAD, GREY, INK, Axis, Picture

__all__ = ["COLOURS", "Chart", "Curve", "draw"]

COLOURS = (ACCENT, "#1f9d6b", GREY, BAD)
COLUMNS, WIDE, HIGH, LEFT, TOP = 2, 480, 250, 58, 46


@dataclass(frozen=True, slots=True)
class Curve:
    """`points`: (x, y), y > 0; drawn as a line, or as lone points (`measured`)."""

    name: str
    points: Sequence[tuple[float, float]]
    colour: str
    measured: bool = False


@dataclass(frozen=True, slots=True)
class Chart:
    """One panel; `limit`: a line that should not be crossed."""

    title: str
    unit: str
    curves: Sequence[Curve]
    limit: float | None = None


def draw(title: str, subtitle: str, charts: Sequence[Chart]) -> str:
    """The SVG's text."""
    rows = -(-len(charts) // COLUMNS)
    picture = Picture(COLUMNS * WIDE + 20, 56 + rows * HIGH, title)
    picture.text(16, 26, title, size=15, bold=True)
    picture.text(16, 44, subtitle, colour=GREY)
    for number, chart in enumerate(charts):
        x, y = 10 + WIDE * (number % COLUMNS), 52 + HIGH * (number // COLUMNS)
        _chart(picture, x, y, chart)
    return picture.render()


def _chart(picture: Picture, x: float, y: float, chart: Chart) -> None:
    picture.text(
        x + 6, y + 20, ", ".join(filter(None, (chart.title, chart.unit))), size=12, bold=True
    )
    points = [point for curve in chart.curves for point in curve.points]
    if not points:
        return
    values = [value for _, value in points] + ([chart.limit] if chart.limit else [])
    across = Axis(*_decades([at for at, _ in points]), x + LEFT, x + WIDE - 20)
    up = Axis(*_decades(values), y + HIGH - 34, y + TOP)
    for at in _ticks(across):
        picture.line([(across.at(at), y + TOP), (across.at(at), y + HIGH - 34)])
        picture.text(across.at(at), y + HIGH - 18, f"{at:g}", size=10, colour=GREY, anchor="middle")
    for value in _ticks(up):
        picture.line([(x + LEFT, up.at(value)), (x + WIDE - 20, up.at(value))])
        picture.text(x + LEFT - 6, up.at(value) + 4, f"{value:g}", size=10, colour=GREY,
                     anchor="end")  # fmt: skip
    if chart.limit:
        height = up.at(chart.limit)
        picture.line([(x + LEFT, height), (x + WIDE - 20, height)], colour=BAD, dashed=True)
    for number, curve in enumerate(chart.curves):
        _curve(picture, across, up, curve)
        left = x + LEFT + 134 * number
        picture.line([(left, y + 33), (left + 14, y + 33)], colour=curve.colour, width=3)
        picture.text(left + 18, y + 37, curve.name, size=10, colour=INK)


def _curve(picture: Picture, across: Axis, up: Axis, curve: Curve) -> None:
    placed = [(across.at(at), up.at(value)) for at, value in sorted(curve.points)]
    if not curve.measured:
        picture.line(placed, colour=curve.colour, width=2)
    for x, y in placed:
        picture.dot(x, y, colour=curve.colour, hollow=curve.measured, radius=4 if curve.measured
                    else 2.5)  # fmt: skip


def _decades(values: Sequence[float]) -> tuple[float, float]:
    """The powers of ten around the values, at least one decade."""
    low = math.floor(math.log10(min(values)))
    high = math.ceil(math.log10(max(values)))
    return 10.0**low, 10.0 ** max(high, low + 1)


def _ticks(axis: Axis) -> list[float]:
    low, high = round(math.log10(axis.low)), round(math.log10(axis.high))
    return [10.0**power for power in range(low, high + 1)]
