"""Pictures, drawn by hand: a few shapes, axes, and nothing to install."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape

__all__ = ["ACCENT", "BAD", "GREY", "INK", "LINE", "Axis", "Picture"]

INK, GREY, LINE, ACCENT, BAD = "#1f2933", "#7b8794", "#d9dee4", "#0b6bcb", "#c2261c"
FONT = "font-family='system-ui,-apple-system,Segoe UI,Helvetica,Arial,sans-serif'"


@dataclass(frozen=True, slots=True)
class Axis:
    """A logarithmic (or plain) scale from values to pixels."""

    low: float
    high: float
    start: float
    end: float
    logarithmic: bool = True

    def at(self, value: float) -> float:
        """The pixel; values outside stand at the edge."""
        value = min(max(value, self.low), self.high)
        if self.logarithmic:
            share = math.log(value / self.low) / math.log(self.high / self.low)
        else:
            share = (value - self.low) / (self.high - self.low)
        return self.start + share * (self.end - self.start)


@dataclass(slots=True)
class Picture:
    """Shapes in order; later ones cover earlier ones."""

    width: float
    height: float
    title: str
    shapes: list[str] = field(default_factory=list)

    def text(
        self, x: float, y: float, words: str, *, size: float = 12, colour: str = INK,
        anchor: str = "start", bold: bool = False,
    ) -> None:  # fmt: skip
        """`anchor`: start, middle, end."""
        weight = " font-weight='600'" if bold else ""
        self.shapes.append(
            f"<text x='{x:.1f}' y='{y:.1f}' font-size='{size:g}' fill='{colour}'"
            f" text-anchor='{anchor}'{weight}>{escape(words)}</text>"
        )

    def line(
        self, points: Sequence[tuple[float, float]], *, colour: str = LINE, width: float = 1,
        dashed: bool = False,
    ) -> None:  # fmt: skip
        """Through all points."""
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        dash = " stroke-dasharray='4 3'" if dashed else ""
        self.shapes.append(
            f"<polyline points='{path}' fill='none' stroke='{colour}'"
            f" stroke-width='{width:g}'{dash}/>"
        )

    def dot(
        self, x: float, y: float, *, colour: str, hollow: bool = False, radius: float = 3
    ) -> None:
        """A measurement."""
        fill = "#ffffff" if hollow else colour
        self.shapes.append(
            f"<circle cx='{x:.1f}' cy='{y:.1f}' r='{radius:g}' fill='{fill}' fill-opacity='0.8'"
            f" stroke='{colour}'/>"
        )

    def cross(self, x: float, y: float, *, colour: str = BAD, size: float = 3.5) -> None:
        """A measurement that has no end."""
        for dx in (-size, size):
            self.line([(x - dx, y - size), (x + dx, y + size)], colour=colour, width=1.6)

    def rectangle(self, x: float, y: float, width: float, height: float, colour: str) -> None:
        """Filled."""
        self.shapes.append(
            f"<rect x='{x:.1f}' y='{y:.1f}' width='{width:.1f}' height='{height:.1f}'"
            f" fill='{colour}'/>"
        )

    def render(self) -> str:
        """The file's text."""
        head = (
            f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {self.width:g} {self.height:g}'"
            f" width='{self.width:g}' height='{self.height:g}' role='img' {FONT}>"
            f"<title>{escape(self.title)}</title>"
            f"<rect width='{self.width:g}' height='{self.height:g}' fill='#ffffff'/>"
        )
        return head + "\n".join(self.shapes) + "</svg>\n"
