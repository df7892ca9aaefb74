"""Line charts as SVG, coloured by the page's style sheet so that they follow light and dark."""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

WIDTH, HEIGHT = 640, 240
LEFT, RIGHT, TOP, BOTTOM = 56, 12, 12, 34


@dataclass(frozen=True)
class Line:
    """One curve: points (x, y), with None where there is no value. `style` is a class of the page's style sheet."""

    name: str
    x: Sequence[float]
    y: Sequence[float | None]
    style: str = "a"
    dots: bool = False


@dataclass
class Chart:
    """A chart of one or more curves over a common x. `marks` are vertical lines (x, text), such as spikes."""

    title: str
    x_label: str
    lines: list[Line]
    log_y: bool = False
    marks: list[tuple[float, str]] = field(default_factory=list)

    def svg(self) -> str:
        """The chart as an <svg> element; an empty string when there is nothing to draw."""
        points = [(x, y) for line in self.lines for x, y in zip(line.x, line.y) if self._usable(y)]
        if len(points) < 2:
            return ""
        xs, ys = [point[0] for point in points], [float(point[1] or 0) for point in points]
        x_range = (min(xs), max(xs) if max(xs) > min(xs) else min(xs) + 1)
        scale = [math.log10(y) for y in ys] if self.log_y else ys
        low, high = min(scale), max(scale)
        pad = (high - low) * 0.06 or abs(high) * 0.1 or 1.0
        y_range = (low - pad, high + pad)

        def at(x: float, y: float) -> tuple[float, float]:
            value = math.log10(y) if self.log_y else y
            return (
                LEFT + (x - x_range[0]) / (x_range[1] - x_range[0]) * (WIDTH - LEFT - RIGHT),
                TOP + (y_range[1] - value) / (y_range[1] - y_range[0]) * (HEIGHT - TOP - BOTTOM),
            )

        parts = [
            f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{html.escape(self.title)}">'
        ]
        parts += self._axes(x_range, y_range)
        for x, text in self.marks:
            place = at(x, 10 ** y_range[0] if self.log_y else y_range[0])[0]
            parts.append(
                f'<line class="mark" x1="{place:.1f}" x2="{place:.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}">'
                f"<title>{html.escape(text)}</title></line>"
            )
        for line in self.lines:
            parts += self._curve(line, at)
        parts += self._legend()
        parts.append("</svg>")
        return "".join(parts)

    def _usable(self, y: float | None) -> bool:
        return y is not None and math.isfinite(y) and (not self.log_y or y > 0)

    def _axes(self, x_range: tuple[float, float], y_range: tuple[float, float]) -> list[str]:
        parts: list[str] = []
        for value in ticks(*x_range, count=6):
            place = LEFT + (value - x_range[0]) / (x_range[1] - x_range[0]) * (WIDTH - LEFT - RIGHT)
            parts.append(
                f'<text class="tick" x="{place:.1f}" y="{HEIGHT - BOTTOM + 15}" text-anchor="middle">'
                f"{number(value)}</text>"
            )
        for value in ticks(*y_range, count=5):
            place = TOP + (y_range[1] - value) / (y_range[1] - y_range[0]) * (HEIGHT - TOP - BOTTOM)
            shown = number(10**value) if self.log_y else number(value)
            parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{place:.1f}" y2="{place:.1f}"/>')
            parts.append(f'<text class="tick" x="{LEFT - 6}" y="{place + 3.5:.1f}" text-anchor="end">{shown}</text>')
        middle = (LEFT + WIDTH - RIGHT) / 2
        parts.append(
            f'<text class="tick" x="{middle}" y="{HEIGHT - 3}" text-anchor="middle">{html.escape(self.x_label)}</text>'
        )
        return parts

    def _curve(self, line: Line, at: Callable[[float, float], tuple[float, float]]) -> list[str]:
        places = [at(x, float(y or 0)) for x, y in zip(line.x, line.y) if self._usable(y)]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        parts = [f'<polyline class="curve {line.style}" points="{path}"/>']
        if line.dots:
            values = [(x, y) for x, y in zip(line.x, line.y) if self._usable(y)]
            for (px, py), (x, y) in zip(places, values):
                parts.append(
                    f'<circle class="dot {line.style}" cx="{px:.1f}" cy="{py:.1f}" r="3">'
                    f"<title>{html.escape(line.name)}: {number(float(y or 0))} at {number(x)}</title></circle>"
                )
        return parts

    def _legend(self) -> list[str]:
        if len(self.lines) < 2:
            return []
        parts: list[str] = []
        for index, line in enumerate(self.lines):
            y = TOP + 14 + 16 * index
            parts.append(
                f'<line class="curve {line.style}" x1="{WIDTH - 150}" x2="{WIDTH - 130}" y1="{y - 4}" y2="{y - 4}"/>'
            )
            parts.append(f'<text class="tick" x="{WIDTH - 124}" y="{y}">{html.escape(line.name)}</text>')
        return parts


def ticks(low: float, high: float, count: int) -> list[float]:
    """At most about `count` round values within [low, high]."""
    span = high - low
    if span <= 0:
        return [low]
    raw = span / count
    base = 10 ** math.floor(math.log10(raw))
    step = next(base * factor for factor in (1, 2, 2.5, 5, 10) if base * factor >= raw)
    first = math.ceil(low / step) * step
    return [first + step * index for index in range(int((high - first) / step + 1e-9) + 1)]


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
