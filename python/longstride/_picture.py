"""Pictures as SVG: boxes, lines and words are collected and written out. Used by show and by bench's charts."""

import dataclasses
import os
import pathlib
from xml.sax.saxutils import escape

from ._refusal import refuse

INK, GREY, FAINT, GRID = "#222222", "#5a5a5a", "#969696", "#e4e4e4"
# Okabe and Ito's colours, which people with any of the usual colour blindnesses can tell apart, darkest first, without
# yellow, whose lines are lost on white: those of `longstride bench`.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00")


def check_svg_path(path: str | os.PathLike, name: str = "path") -> pathlib.Path:
    """To be called before the work."""
    result = pathlib.Path(path)
    if result.suffix.lower() != ".svg":
        refuse(name, "must end in .svg", path, "pictures are written as SVG")
    if not result.parent.is_dir():
        refuse(name, "must be in a folder that is there", path, f"make {result.parent}")
    return result


@dataclasses.dataclass(frozen=True)
class Picture:
    """A picture: a notebook displays it, `save` writes it, `print` shows it in characters."""

    svg: str  # a whole SVG document
    words: str  # the same in lines of text

    def _repr_svg_(self) -> str:
        return self.svg

    def save(self, path: str | os.PathLike) -> None:
        """Writes the picture.

        Args:
            path: a file whose name ends in .svg.
        Raises:
            ValueError: another ending, or a folder that is not there.
        """
        check_svg_path(path).write_text(self.svg, encoding="utf-8")

    def __str__(self) -> str:
        return self.words

    def __repr__(self) -> str:
        return f"<Picture: {self.words.splitlines()[0]}>"


def number(value: float) -> str:
    """Two decimals are a fiftieth of a pixel; zeros at the end only make the file longer."""
    text = f"{value:.2f}".rstrip("0").rstrip(".")
    return "0" if text == "-0" else text


def blend(a: tuple[int, int, int], b: tuple[int, int, int], share: float) -> str:
    return "#" + "".join(f"{round(x * (1 - share) + y * share):02x}" for x, y in zip(a, b))


class Drawing:
    """Marks on a page, in pixels, y down."""

    def __init__(self, width: float):
        self.width = width
        self.marks: list[str] = []

    def box(self, x: float, y: float, width: float, height: float, fill: str) -> None:
        left, top, across, down = map(number, (x, y, width, height))
        self.marks.append(f'<rect x="{left}" y="{top}" width="{across}" height="{down}" fill="{fill}"/>')

    def frame(self, x: float, y: float, width: float, height: float) -> None:
        left, top, across, down = map(number, (x, y, width, height))
        self.marks.append(f'<rect x="{left}" y="{top}" width="{across}" height="{down}" fill="none" stroke="{FAINT}"/>')

    def line(self, points: list[tuple[float, float]], colour: str, width: float = 1, dashed: bool = False) -> None:
        path = " ".join(f"{number(x)},{number(y)}" for x, y in points)
        dashes = ' stroke-dasharray="6 4"' if dashed else ""
        self.marks.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="{width}"{dashes}/>')

    def dot(self, x: float, y: float, colour: str) -> None:
        self.marks.append(f'<circle cx="{number(x)}" cy="{number(y)}" r="3.2" fill="{colour}"/>')

    def words(
        self, x: float, y: float, text: str, size: float = 12, colour: str = INK, anchor: str = "start", up: bool = False
    ) -> None:
        """(x, y) is where the baseline starts, is centred ("middle") or ends ("end"); `up`: read from bottom to top."""
        # XML takes no control characters, which names of processors and devices might have.
        text = escape("".join(c if c.isprintable() else "?" for c in text))
        left, base = number(x), number(y)
        turned = f' transform="rotate(-90 {left} {base})"' if up else ""
        self.marks.append(
            f'<text x="{left}" y="{base}" font-size="{size}" fill="{colour}" text-anchor="{anchor}"{turned}>{text}</text>'
        )

    def cells(self, x: float, y: float, side: float, runs: dict[str, list[tuple[int, int, int, int]]], across: int) -> None:
        """A square of across x across cells: {colour: [(column, row, columns, rows)]}, one path a colour."""
        scale = side / max(1, across)
        self.marks.append(
            f'<g transform="translate({number(x)} {number(y)}) scale({scale:.6g})" shape-rendering="crispEdges">'
        )
        for colour, boxes in runs.items():
            path = "".join(f"M{column} {row}h{columns}v{rows}h-{columns}z" for column, row, columns, rows in boxes)
            self.marks.append(f'<path fill="{colour}" d="{path}"/>')
        self.marks.append("</g>")

    def svg(self, height: float) -> str:
        across, down = number(self.width), number(height)
        head = (
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{across}" height="{down}" '
            f'viewBox="0 0 {across} {down}" font-family="DejaVu Sans, Verdana, sans-serif">'
        )
        return "\n".join([head, f'<rect width="{across}" height="{down}" fill="#ffffff"/>', *self.marks, "</svg>\n"])
