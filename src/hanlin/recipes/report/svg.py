"""Line charts as SVG, coloured by the page's style sheet so that they follow light and dark."""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

WIDTH, HEIGHT = 480, 230
"""Of the drawing; the page shows it about as large on a desk, and smaller, with larger letters, on a telephone."""
LEFT, RIGHT, TOP, BOTTOM = 56, 14, 12, 36


@dataclass(frozen=True)
class Line:
    """One curve: points (x, y), with None where there is no value. `style` is a class of the page's style sheet."""

    name: str
    x: Sequence[float]
    y: Sequence[float | None]
    style: str = "a"
    dots: bool = False
    """Each point is drawn, and tells its values."""
    joined: bool = True
    """Points are joined in their order."""


@dataclass
class Chart:
    """A chart of one or more curves over a common x. `marks` are vertical lines (x, text), such as spikes. With `log_y`
    values that are not above 0 are left out; likewise with `log_x`, whose axis has powers of two."""

    title: str
    x_label: str
    lines: list[Line]
    log_y: bool = False
    log_x: bool = False
    marks: list[tuple[float, str]] = field(default_factory=list[tuple[float, str]])

    def figure(self) -> dict[str, Any] | None:
        """{"title", "svg", "legend": [{"name", "style"}] of the curves, where there are several}; None when there is
        nothing to draw."""
        drawing = self.svg()
        drawn = [line for line in self.lines if self._points(line)]
        legend = [{"name": line.name, "style": line.style} for line in drawn] if len(drawn) > 1 else []
        return {"title": self.title, "svg": drawing, "legend": legend} if drawing else None

    def svg(self) -> str:
        """The chart as an <svg> element; an empty string when there is nothing to draw. A single point is a dot."""
        points = [point for line in self.lines for point in self._points(line)]
        if not points:
            return ""
        xs = [math.log2(x) if self.log_x else x for x, _ in points]
        ys = [math.log10(y) if self.log_y else y for _, y in points]
        x_range = (min(xs), max(xs)) if max(xs) > min(xs) else (xs[0] - 1, xs[0] + 1)
        margin = (max(ys) - min(ys)) * 0.06 or abs(ys[0]) * 0.1 or 1.0
        y_range = (min(ys) - margin, max(ys) + margin)

        def at(x: float, y: float) -> tuple[float, float]:
            across, up = math.log2(x) if self.log_x else x, math.log10(y) if self.log_y else y
            return _across(across, x_range), _down(up, y_range)

        parts = [
            f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{html.escape(self.title)}">'
        ]
        parts += self._axes(x_range, y_range)
        for x, text in self.marks:
            place = _across(math.log2(x) if self.log_x else x, x_range)
            parts.append(
                f'<line class="mark" x1="{place:.1f}" x2="{place:.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}">'
                f"<title>{html.escape(text)}</title></line>"
            )
        for line in self.lines:
            parts += self._curve(line, at)
        parts.append("</svg>")
        return "".join(parts)

    def _points(self, line: Line) -> list[tuple[float, float]]:
        """What can be drawn of a curve."""
        return [(float(x), float(y)) for x, y in zip(line.x, line.y) if y is not None and self._usable(x, y)]

    def _usable(self, x: float, y: float) -> bool:
        return math.isfinite(x) and math.isfinite(y) and (not self.log_x or x > 0) and (not self.log_y or y > 0)

    def _axes(self, x_range: tuple[float, float], y_range: tuple[float, float]) -> list[str]:
        parts: list[str] = []
        across = ticks(*x_range, count=6)
        if self.log_x:
            across = [value for value in across if value == int(value)]
        for value, shown in zip(across, labels([2**value if self.log_x else value for value in across])):
            parts.append(
                f'<text class="tick" x="{_across(value, x_range):.1f}" y="{HEIGHT - BOTTOM + 15}" '
                f'text-anchor="middle">{shown}</text>'
            )
        down = log_ticks(*y_range) if self.log_y else ticks(*y_range, count=5)
        for value, shown in zip(down, labels([10**value if self.log_y else value for value in down])):
            place = _down(value, y_range)
            parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{place:.1f}" y2="{place:.1f}"/>')
            parts.append(f'<text class="tick" x="{LEFT - 6}" y="{place + 3.5:.1f}" text-anchor="end">{shown}</text>')
        middle = (LEFT + WIDTH - RIGHT) / 2
        parts.append(
            f'<text class="tick" x="{middle}" y="{HEIGHT - 4}" text-anchor="middle">{html.escape(self.x_label)}</text>'
        )
        return parts

    def _curve(self, line: Line, at: Callable[[float, float], tuple[float, float]]) -> list[str]:
        points = self._points(line)
        parts: list[str] = []
        if line.joined and len(points) > 1:
            path = " ".join(f"{x:.1f},{y:.1f}" for x, y in (at(*point) for point in points))
            parts.append(f'<polyline class="curve {line.style}" points="{path}"/>')
        if line.dots or not line.joined or len(points) == 1:
            for x, y in points:
                across, down = at(x, y)
                parts.append(
                    f'<circle class="dot {line.style}" cx="{across:.1f}" cy="{down:.1f}" r="3">'
                    f"<title>{html.escape(line.name)}: {number(y)} at {number(x)}</title></circle>"
                )
        return parts


def draw(charts: Iterable[Chart]) -> list[dict[str, Any]]:
    """The charts that have something to draw, for the page."""
    return [drawn for chart in charts if (drawn := chart.figure()) is not None]


def _across(value: float, x_range: tuple[float, float]) -> float:
    return LEFT + (value - x_range[0]) / (x_range[1] - x_range[0]) * (WIDTH - LEFT - RIGHT)


def _down(value: float, y_range: tuple[float, float]) -> float:
    return TOP + (y_range[1] - value) / (y_range[1] - y_range[0]) * (HEIGHT - TOP - BOTTOM)


def ticks(low: float, high: float, count: int) -> list[float]:
    """At most about `count` round values within [low, high]."""
    span = high - low
    if span <= 0:
        return [low]
    raw = span / count
    base = 10 ** math.floor(math.log10(raw))
    step = next(base * factor for factor in (1, 2, 2.5, 5, 10) if base * factor >= raw)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    # Whole multiples, so that 0 is 0 and not what the rounding of a sum leaves.
    return [step * index for index in range(first, last + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """The exponents within [low, high] of 1, 2 and 5 times the powers of ten, or of the powers alone where those are
    many; where there are fewer than two, those of about five round values."""
    for leading in ((1, 2, 5), (1,)):
        powers = range(math.floor(low), math.ceil(high) + 1)
        found = [at for power in powers for one in leading if low <= (at := power + math.log10(one)) <= high]
        if 2 <= len(found) <= 7:
            return found
    if high - low > 2:
        return ticks(math.ceil(low), math.floor(high), count=5)
    return [math.log10(value) for value in ticks(10**low, 10**high, count=5) if value > 0]


def labels(values: Sequence[float]) -> list[str]:
    """An axis's values as text, with as many digits as tell them apart."""
    short = [number(value) for value in values]
    return short if len(set(short)) == len(short) else [f"{value:.6g}" for value in values]


def number(value: float) -> str:
    """A number in as few characters as keep it readable."""
    if value == 0:
        return "0"
    size = abs(value)
    if size >= 1e9:
        return f"{value / 1e9:.3g}G"
    if size >= 1e6:
        return f"{value / 1e6:.3g}M"
    if size >= 1e4:
        return f"{value / 1e3:.3g}k"
    if size < 1e-3:
        return f"{value:.1e}"
    return f"{value:.3g}" if size < 1000 else f"{value:.0f}"
