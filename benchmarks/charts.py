"""Line charts as SVG: plain text, the same for the same figures, readable on a light and on a dark page."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

_WIDTH, _HEIGHT = 760, 420
_LEFT, _RIGHT, _TOP, _BOTTOM = 72, 230, 44, 52
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#a6761d", "#56b4e9", "#7f7f7f", "#e69f00")
"""Told apart also by those who see fewer colours (Okabe and Ito's)."""
_LABEL_GAP = 15.0


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a chart: its name, and its points from left to right."""

    name: str
    points: Sequence[tuple[float, float]]


@dataclass(frozen=True, slots=True)
class Chart:
    """A chart.

    Attributes:
        across, up: what the axes are, with units.
        log_up: the axis that goes up is logarithmic, as the one across always is; else it begins at 0.
        level: a horizontal line, such as R, and its name.
    """

    title: str
    across: str
    up: str
    lines: Sequence[Line]
    log_up: bool = False
    level: tuple[float, str] | None = None

    def to_svg(self) -> str:
        """As an SVG document. Raises ValueError for a chart without points, or with one that its axes cannot show."""
        points = [point for line in self.lines for point in line.points]
        if not points:
            raise ValueError(f"{self.title}: nothing to draw")
        heights = [height for _, height in points] + ([self.level[0]] if self.level else [])
        if min(across for across, _ in points) <= 0 or (self.log_up and min(heights) <= 0):
            raise ValueError(f"{self.title}: a logarithmic axis has no room for 0")
        x, x_ticks = _axis([across for across, _ in points], _LEFT, _WIDTH - _RIGHT, log=True)
        y, y_ticks = _axis(heights, _HEIGHT - _BOTTOM, _TOP, log=self.log_up)
        parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{_HEIGHT}" '
            f'viewBox="0 0 {_WIDTH} {_HEIGHT}" font-family="system-ui, sans-serif" font-size="13">',
            f"<title>{escape(self.title)}</title>",
            f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="#ffffff"/>',
            _text(_LEFT, 24, self.title, size=15, weight="600"),
            _text((_LEFT + _WIDTH - _RIGHT) / 2, _HEIGHT - 12, self.across, anchor="middle"),
            f'<g transform="translate(18 {(_TOP + _HEIGHT - _BOTTOM) / 2:.0f}) rotate(-90)">'
            f"{_text(0, 0, self.up, anchor='middle')}</g>",
        ]
        for tick in y_ticks:
            parts.append(_stroke([(_LEFT, y(tick)), (_WIDTH - _RIGHT, y(tick))], "#e0e0e0"))
            parts.append(_text(_LEFT - 8, y(tick) + 4, _number(tick), anchor="end", colour="#555555"))
        for tick in x_ticks:
            parts.append(_stroke([(x(tick), _HEIGHT - _BOTTOM), (x(tick), _HEIGHT - _BOTTOM + 5)], "#888888"))
            parts.append(_text(x(tick), _HEIGHT - _BOTTOM + 20, _number(tick), anchor="middle", colour="#555555"))
        if self.level:
            height = y(self.level[0])
            parts.append(_stroke([(_LEFT, height), (_WIDTH - _RIGHT, height)], "#333333", dashes="6 4"))
            parts.append(_text(_LEFT + 6, height - 5, self.level[1], colour="#333333"))
        parts += self._drawn(x, y)
        return "\n".join((*parts, "</svg>")) + "\n"

    def _drawn(self, x: Callable[[float], float], y: Callable[[float], float]) -> list[str]:
        parts = []
        ends = []
        for line, colour in zip(self.lines, _COLOURS * (1 + len(self.lines) // len(_COLOURS)), strict=False):
            drawn = [(x(across), y(height)) for across, height in line.points]
            parts.append(_stroke(drawn, colour, width=2.2))
            parts += [f'<circle cx="{cx:.1f}" cy="{cy:.1f}" r="3.2" fill="{colour}"/>' for cx, cy in drawn]
            if drawn:
                ends.append((drawn[-1][1], line.name, colour))
        ends.sort()
        for place, (_, name, colour) in zip(_apart([height for height, _, _ in ends]), ends, strict=True):
            parts.append(_text(_WIDTH - _RIGHT + 10, place + 4, name, colour=colour))
        return parts


def _apart(heights: Sequence[float]) -> list[float]:
    """Places for labels near these heights, from the top down, that do not cover each other or leave the picture."""
    places: list[float] = []
    for height in heights:
        places.append(max(height, places[-1] + _LABEL_GAP) if places else height)
    lowest = float(_HEIGHT - _BOTTOM)
    for at in reversed(range(len(places))):
        places[at] = min(places[at], lowest)
        lowest = places[at] - _LABEL_GAP
    return places


def _axis(
    values: Sequence[float], start: float, end: float, *, log: bool
) -> tuple[Callable[[float], float], list[float]]:
    """Where a value stands, and the ticks."""
    if log:
        low, high = math.log(min(values)), math.log(max(values))
        span = high - low or 1.0
        return (lambda value: start + (end - start) * (math.log(value) - low) / span), _log_ticks(values)
    step = _step(max(values))
    top = step * math.ceil(max(values) / step) or 1.0
    return (lambda value: start + (end - start) * value / top), [step * at for at in range(round(top / step) + 1)]


def _log_ticks(values: Sequence[float]) -> list[float]:
    """The values themselves where they are few, as concurrency is; else 1, 2, 5, 10, ..."""
    if len(few := sorted(set(values))) <= 8:
        return few
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    ticks = [digit * 10.0**power for power in range(low, high + 1) for digit in (1, 2, 5)]
    return [tick for tick in ticks if min(values) <= tick <= max(values)]


def _step(highest: float) -> float:
    """A round number that goes four to eight times into what there is."""
    if highest <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(highest))
    return next(part * power for part in (0.2, 0.5, 1.0, 2.0) if highest / (part * power) <= 8)


def _number(value: float) -> str:
    for size, letter in ((1_000_000, "M"), (1_000, "k")):
        if value >= size * 10 or (value >= size and value % (size / 10) == 0 and value >= 1_000_000):
            return f"{value / size:g}{letter}"
    return f"{value:,g}" if value < 1 else f"{value:,.0f}" if value == round(value) else f"{value:g}"


def _stroke(points: Sequence[tuple[float, float]], colour: str, *, width: float = 1.0, dashes: str = "") -> str:
    placed = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    dashed = f' stroke-dasharray="{dashes}"' if dashes else ""
    return f'<polyline points="{placed}" fill="none" stroke="{colour}" stroke-width="{width:g}"{dashed}/>'


def _text(
    x: float, y: float, text: str, *, anchor: str = "start", colour: str = "#222222", size: int = 0, weight: str = ""
) -> str:
    more = (f' font-size="{size}"' if size else "") + (f' font-weight="{weight}"' if weight else "")
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{colour}"{more}>{escape(text)}</text>'
