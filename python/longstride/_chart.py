"""Line charts over logarithmic axes, as SVG: time over length, for bench."""

import dataclasses
import math
from collections.abc import Sequence

from ._picture import COLOURS, GREY, GRID, Drawing, Picture

WIDTH, HEIGHT = 760, 460
LEFT, RIGHT, TOP, BOTTOM = 78, 24, 58, 58


@dataclasses.dataclass
class Line:
    label: str
    points: list[tuple[float, float]]  # (x, y), both > 0
    spread: list[tuple[float, float]]  # (lowest, highest) y of each point
    dashed: bool = False


def length_label(value: float) -> str:
    """1024 is 1k, as in the tables of the C++ program."""
    for unit, letter in ((1024**2, "M"), (1024, "k")):
        if value >= unit and value % unit == 0:
            return f"{value / unit:.0f}{letter}"
    return f"{value:.6g}"


class Axis:
    """Places values > 0 in [0, 1] by their logarithm, and knows its ticks."""

    def __init__(self, values: Sequence[float], base: int):
        unit = math.log2(base)
        low, high = math.log2(min(values)) / unit, math.log2(max(values)) / unit
        if base == 10:
            low, high = math.floor(low + 1e-9), math.ceil(high - 1e-9)
        if high - low < 1e-9:
            low, high = low - 0.5, high + 0.5
        self.low, self.span = low * unit, (high - low) * unit
        every = max(1, math.ceil((high - low) / 10))
        self.ticks = [float(base) ** power for power in range(math.ceil(low - 1e-9), math.floor(high + 1e-9) + 1, every)]
        if base == 2 and len(self.ticks) < 2:  # lengths between two powers
            self.ticks = sorted(set(values))
        if base == 10 and high - low < 2.5:  # a decade alone says little
            self.ticks += [5 * tick for tick in self.ticks[:-1]] + [2 * tick for tick in self.ticks[:-1]]

    def place(self, value: float) -> float:
        return (math.log2(value) - self.low) / self.span


def line_chart(title: str, subtitle: str, x_label: str, y_label: str, lines: Sequence[Line]) -> Picture:
    """x in powers of two, y in powers of ten; a bar from the lowest to the highest of each point.

    Args:
        lines: at least one with a point.
    """
    x_axis = Axis([x for line in lines for x, _ in line.points], 2)
    y_axis = Axis([y for line in lines for ends in line.spread for y in ends], 10)
    drawing = Drawing(WIDTH)
    drawing.words(LEFT, 26, title, 15)
    drawing.words(LEFT, 44, subtitle, 11, GREY)
    top, at = TOP + 6, float(LEFT)
    for i, line in enumerate(lines):
        width = 48 + 7.2 * len(line.label)
        if at > LEFT and at + width > WIDTH - RIGHT:
            top, at = top + 18, LEFT
        drawing.line([(at, top - 4), (at + 24, top - 4)], COLOURS[i % len(COLOURS)], 2.4, line.dashed)
        drawing.words(at + 30, top, line.label, 12)
        at += width
    top += 16
    right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM

    def place(x: float, y: float) -> tuple[float, float]:
        return LEFT + x_axis.place(x) * (right - LEFT), bottom - y_axis.place(y) * (bottom - top)

    for tick in y_axis.ticks:
        y = bottom - y_axis.place(tick) * (bottom - top)
        drawing.line([(LEFT, y), (right, y)], GRID)
        drawing.words(LEFT - 8, y + 4, f"{tick:.6g}", 11, GREY, "end")
    for tick in x_axis.ticks:
        x = LEFT + x_axis.place(tick) * (right - LEFT)
        drawing.line([(x, top), (x, bottom)], GRID)
        drawing.words(x, bottom + 18, length_label(tick), 11, GREY, "middle")
    drawing.line([(LEFT, bottom), (right, bottom)], GREY)
    drawing.words((LEFT + right) / 2, HEIGHT - 14, x_label, 12, anchor="middle")
    drawing.words(20, (top + bottom) / 2, y_label, 12, anchor="middle", up=True)
    for i, line in enumerate(lines):
        colour = COLOURS[i % len(COLOURS)]
        drawing.line([place(*point) for point in line.points], colour, 2.4, line.dashed)
        for (x, y), (low, high) in zip(line.points, line.spread):
            drawing.line([place(x, low), place(x, high)], colour, 1.2)
            drawing.dot(*place(x, y), colour)
    words = [title, subtitle, f"{y_label} over {x_label}"]
    words += [f"{line.label}: " + ", ".join(f"{length_label(x)} {y:.4g}" for x, y in line.points) for line in lines]
    return Picture(drawing.svg(HEIGHT), "\n".join(words))
