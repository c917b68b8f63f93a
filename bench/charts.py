"""Charts as SVG text: horizontal bars with their spread, and lines. Readable on light and dark
pages; free of I/O."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from bench.percentiles import Spread

WIDTH = 760
LABELS = 230
VALUES = 150
ROW = 26
TOP = 44
LEFT, PLANE_WIDTH, PLANE_HEIGHT = 80, 510, 260
COLOURS = ("#2f7ed8", "#e07b39", "#3a9d5d", "#a259b5", "#8a8a8a", "#c9a227")
STYLE = (
    "text{font:13px system-ui,sans-serif;fill:#57606a}.title{font-size:15px;font-weight:600}"
    ".axis{stroke:#8c959f;stroke-width:1}.grid{stroke:#8c959f;stroke-opacity:.25}"
    ".spread{stroke:#24292f;stroke-width:1.5;stroke-opacity:.6}"
    "@media (prefers-color-scheme:dark){text{fill:#adbac7}.spread{stroke:#fff}}"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    label: str
    value: Spread
    colour: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """`points` are x and y, in the order of x."""

    label: str
    points: Sequence[tuple[float, float]]


def bars(title: str, rows: Sequence[Bar]) -> str:
    """One bar a row, as long as its median; a thin line goes from the lowest to the highest."""
    highest = max((row.value.highest for row in rows), default=1.0) or 1.0
    scale = (WIDTH - LABELS - VALUES) / highest
    parts = []
    for number, row in enumerate(rows):
        y = TOP + number * ROW
        value = row.value
        low, high = LABELS + value.lowest * scale, LABELS + value.highest * scale
        colour = COLOURS[row.colour % len(COLOURS)]
        long, thick = value.median * scale, ROW - 8
        parts += [
            f'<text x="{LABELS - 8}" y="{y + 16}" text-anchor="end">{escape(row.label)}</text>',
            f'<rect x="{LABELS}" y="{y + 3}" width="{long:.1f}" height="{thick}" fill="{colour}"/>',
            f'<line class="spread" x1="{low:.1f}" x2="{high:.1f}" y1="{y + 12}" y2="{y + 12}"/>',
            f'<text x="{high + 8:.1f}" y="{y + 16}">{number_text(value.median)}</text>',
        ]
    return _document(title, TOP + len(rows) * ROW + 12, parts)


@dataclass(frozen=True, slots=True, kw_only=True)
class Axes:
    """The plane of a line chart. x begins at 0; y at `bottom`, which is 0 on a linear axis and a
    power of ten on a logarithmic one."""

    right: float
    bottom: float
    top: float

    @classmethod
    def around(cls, points: Sequence[tuple[float, float]]) -> "Axes":
        """y is logarithmic when the values span more than 50 times."""
        right = _ceiling(max((x for x, _ in points), default=1.0))
        heights = [y for _, y in points if y > 0] or [1.0]
        low, high = min(heights), max(heights)
        if high / low <= 50:
            return cls(right=right, bottom=0.0, top=_ceiling(high))
        bottom, top = 10.0 ** math.floor(math.log10(low)), 10.0 ** math.ceil(math.log10(high))
        return cls(right=right, bottom=bottom, top=top)

    def place(self, x: float, y: float) -> tuple[float, float]:
        if self.bottom:
            share = math.log(max(y, self.bottom) / self.bottom) / math.log(self.top / self.bottom)
        else:
            share = y / self.top
        return LEFT + x / self.right * PLANE_WIDTH, TOP + PLANE_HEIGHT * (1 - share)

    def y_ticks(self) -> list[float]:
        if not self.bottom:
            return [self.top * step / 4 for step in range(5)]
        low, high = round(math.log10(self.bottom)), round(math.log10(self.top))
        return [10.0**power for power in range(low, high + 1)]


def lines(title: str, x_title: str, y_title: str, series: Sequence[Line]) -> str:
    axes = Axes.around([point for line in series for point in line.points])
    end, foot = LEFT + PLANE_WIDTH, TOP + PLANE_HEIGHT
    parts = [
        *_grid(axes),
        *(part for number, line in enumerate(series) for part in _line(axes, number, line)),
        f'<text x="{LEFT}" y="{TOP - 8}">{escape(y_title)}</text>',
        f'<text x="{end}" y="{foot + 38}" text-anchor="end">{escape(x_title)}</text>',
    ]
    return _document(title, foot + 50, parts)


def _grid(axes: Axes) -> list[str]:
    parts = []
    for tick in axes.y_ticks():
        _, y = axes.place(0, tick)
        end = LEFT + PLANE_WIDTH
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{end}" y1="{y:.1f}" y2="{y:.1f}"/>')
        text = number_text(tick)
        parts.append(f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{text}</text>')
    for step in range(5):
        x, y = axes.place(axes.right * step / 4, axes.bottom)
        text = number_text(axes.right * step / 4)
        parts.append(f'<text x="{x:.1f}" y="{y + 18:.1f}" text-anchor="middle">{text}</text>')
    return parts


def _line(axes: Axes, number: int, line: Line) -> list[str]:
    """With its entry in the legend."""
    colour = COLOURS[number % len(COLOURS)]
    placed = [axes.place(x, y) for x, y in line.points]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in placed)
    x, y = LEFT + PLANE_WIDTH + 16, TOP + 10 + number * 20
    return [
        f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>',
        *(f'<circle cx="{at:.1f}" cy="{to:.1f}" r="3" fill="{colour}"/>' for at, to in placed),
        f'<rect x="{x}" y="{y - 9}" width="12" height="12" fill="{colour}"/>',
        f'<text x="{x + 18}" y="{y + 2}">{escape(line.label)}</text>',
    ]


def number_text(value: float) -> str:
    """Three digits that matter, thousands apart."""
    if value == 0 or value >= 100:
        return f"{value:,.0f}"
    return f"{value:,.3g}"


def _ceiling(value: float) -> float:
    """The next 1, 2 or 5 times a power of ten."""
    if value <= 0:
        return 1.0
    power: float = 10 ** math.floor(math.log10(value))
    return next(step * power for step in (1, 2, 5, 10) if value <= step * power * (1 + 1e-9))


def _document(title: str, height: int, parts: Sequence[str]) -> str:
    body = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" '
        f'aria-label="{escape(title, quote=True)}">\n<style>{STYLE}</style>\n'
        f'<text class="title" x="12" y="20">{escape(title)}</text>\n{body}\n</svg>\n'
    )
