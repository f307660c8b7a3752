"""Pattern.show(): who sees whom as a picture and in characters."""

import json
import math

from torch import Tensor

from ._picture import FAINT, GREY, Drawing, Picture, blend
from ._sight import counted_cells

# Cells a side: two pixels or more in a picture, one character each in text.
PICTURE_CELLS, TEXT_CELLS = 128, 64
PANELS_A_ROW = 4
LEFT, TOP, GAP, LEGEND = 64, 112, 30, 58
WHITE, BLUE, BLACK = (255, 255, 255), (0, 114, 178), (0, 0, 0)
# Pairs are asked for one by one; beyond this many a picture takes minutes.
MOST_PAIRS = 2**31


def telling_length(text: str) -> int:
    """Tokens that show what a pattern does: its longest segment, sixteen of its blocks or four of its windows."""
    data = json.loads(text)
    lengths = list((data.get("dilated") or {}).get("segment_lengths", []))
    for block in data.get("blocks", []):
        if block["pattern"] == "sliding_window":
            lengths.append(4 * (1 + sum(block.get(side, 0) for side in ("left", "right"))) + block["sink_tokens"])
        elif block["pattern"] == "list":
            last = max((max(row[2:]) for row in block.get("blocks") or []), default=15)
            lengths.append(block["block_size"] * (1 + last))
        else:
            lengths.append(16 * block["block_size"])
    return min(max(32, *lengths, 0), 2048)


def colour_of(count: float, single: bool) -> str:
    """The shade of a cell, white if nothing is seen in it."""
    if count <= 0:
        return ""
    if single:
        return blend(BLUE, WHITE, 0.45) if count < 1.5 else blend(BLUE, BLACK, min(0.3 * (count - 2), 0.75))
    # Shares go down to 1 / rate^2: a logarithmic scale from 1/512, which is just visible, to every pair once.
    if count <= 1:
        return blend(WHITE, BLUE, 0.15 + 0.75 * min(max(1 + math.log2(count) / 9, 0), 1))
    return blend(BLUE, BLACK, min(0.1 + 0.18 * (count - 1), 0.75))


def runs_of(cells: Tensor, single: bool) -> dict[str, list[tuple[int, int, int, int]]]:
    """Boxes by colour: runs of one colour in a row, joined with equal runs of the rows above."""
    result: dict[str, list[tuple[int, int, int, int]]] = {}
    open_runs: dict[tuple[int, int, str], int] = {}  # (column, columns, colour) -> first row

    def close(run: tuple[int, int, str], first: int, end: int) -> None:
        column, columns, colour = run
        result.setdefault(colour, []).append((column, first, columns, end - first))

    rows = cells.tolist()
    for y, row in enumerate(rows):
        colours = [colour_of(count, single) for count in row]
        here: dict[tuple[int, int, str], int] = {}
        x = 0
        while x < len(colours):
            end = x
            while end < len(colours) and colours[end] == colours[x]:
                end += 1
            if colours[x]:
                run = (x, end - x, colours[x])
                here[run] = open_runs.pop(run, y)
            x = end
        for run, first in open_runs.items():
            close(run, first, y)
        open_runs = here
    for run, first in open_runs.items():
        close(run, first, len(rows))
    return result


def panel(drawing: Drawing, x: float, y: float, side: float, cells: Tensor, n: int, single: bool, title: str) -> None:
    drawing.cells(x, y, side, runs_of(cells, single), cells.size(0))
    drawing.frame(x, y, side, side)
    drawing.words(x + side / 2, y - 40, title, 13, anchor="middle")
    parts = min(4, n) or 1
    for i in range(parts + 1):
        at, token = side * i / parts, str(round(n * i / parts))
        drawing.line([(x + at, y - 5), (x + at, y)], FAINT)
        drawing.words(x + at, y - 8, token, 10, GREY, "middle")
        drawing.line([(x - 5, y + at), (x, y + at)], FAINT)
        drawing.words(x - 8, y + at + 4, token, 10, GREY, "end")
    drawing.words(x + side / 2, y - 22, "key position, in tokens", 11, anchor="middle")
    drawing.words(x - 46, y + side / 2, "query position, in tokens", 11, anchor="middle", up=True)


def legend(drawing: Drawing, y: float, most: int, tokens: int) -> None:
    if tokens == 1:
        drawing.words(LEFT, y, "shade: how often a query sees a key", 12)
        steps = [(float(times), str(times)) for times in range(1, min(max(most, 1), 5) + 1)]
    else:
        drawing.words(LEFT, y, f"shade: pairs seen in a cell of {tokens} x {tokens} tokens", 12)
        steps = [(4.0**-i, "all" if i == 0 else f"1/{4**i}") for i in (3, 2, 1, 0)]
        steps += [(float(times), f"{times} times") for times in range(2, min(most, 4) + 1)]
    for i, (count, words) in enumerate(steps):
        x = LEFT + 72 * i
        drawing.box(x, y + 10, 20, 14, colour_of(count, tokens == 1))
        drawing.words(x + 24, y + 22, words, 11)


def characters(cells: Tensor, single: bool) -> list[str]:
    """One line a row: "." nothing, 1 to 9 how often; of cells of several tokens, "-", "+", "#" for how much of them."""

    def one(count: float) -> str:
        if count <= 0:
            return "."
        if single:
            return str(min(round(count), 9))
        return "-" if count < 0.25 else "+" if count < 0.75 else "#"

    return [" ".join(one(count) for count in row) for row in cells.tolist()]


def picture_of(name: str, text: str, rows: Tensor | None, n: int, heads: int, batch_row: int) -> Picture:
    """Who sees whom in n tokens under the pattern of this text, one panel a head.

    Args:
        name: an expression of the pattern, for the title.
        text, rows: the operator's arguments `pattern` and `blocks`.
    """
    cells = counted_cells(text, rows, n, heads, batch_row, PICTURE_CELLS)
    mean, single = cells.mean(), cells.side == 1
    share = cells.pairs / max(1, heads * n * n)
    plural = "" if heads == 1 else "s"
    facts = f"{n} tokens, {heads} KV head{plural}: {cells.pairs} pairs seen, {100 * share:.3g} % of all"

    across = min(heads, PANELS_A_ROW)
    side = {1: 480, 2: 380}.get(across, 280)
    width, height = LEFT + side + GAP, TOP - 44 + side
    drawing = Drawing(max(LEFT + 480 + GAP, across * width))
    # What does not fit the page is cut; the text has all of it.
    letters = int((drawing.width - 40) / 6.6)
    drawing.words(20, 26, name if len(name) <= letters else name[: letters - 3] + "...", 12)
    drawing.words(20, 46, facts, 12, GREY)
    for head in range(heads):
        x, y = LEFT + head % across * width, TOP + head // across * height
        panel(drawing, x, y, side, mean[head], n, single, f"KV head {head}")
    bottom = TOP + (heads - 1) // across * height + side + 30
    most = round(mean.max().item()) if mean.numel() else 1
    legend(drawing, bottom, most, cells.side)

    small = cells.joined(TEXT_CELLS)
    lines = [facts, name]
    if small.side > 1:
        lines.append(f'a cell is {small.side} x {small.side} tokens: "-" less than a quarter of them, "+", "#" from three')
    for head in range(heads):
        lines += ["", f"KV head {head}: queries down, keys right", *characters(small.mean()[head], small.side == 1)]
    return Picture(drawing.svg(bottom + LEGEND), "\n".join(lines))
