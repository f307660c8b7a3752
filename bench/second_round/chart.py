"""The chart of a round: what each case takes, as a share of what its peer takes, with what was asked for and the goal."""

import math
from typing import Any

from longstride._picture import COLOURS, GREY, GRID, INK, Drawing, Picture

from .report import MORE_IS_BETTER

WIDTH, LEFT, RIGHT, TOP, ROW = 860, 330, 70, 74, 17
HELD, MISSED, ASKED, GOAL = COLOURS[0], COLOURS[1], INK, COLOURS[2]


def times_the_peer(one: dict[str, Any], key: str) -> float | None:
    """Of the peer's time; rates turned round."""
    mine, theirs = one.get(key), one.get("peer_value")
    if mine is None or not theirs or mine <= 0:
        return None
    return theirs / mine if one["unit"] == MORE_IS_BETTER else mine / theirs


def drawn(facts: dict[str, Any], lines: list[dict[str, Any]]) -> Picture:
    rows = [one for one in lines if one["accept"] is not None and times_the_peer(one, "value") is not None]
    if not rows:
        raise ValueError("nothing to draw: no line has a figure asked for and a peer")
    places = [x for one in rows for key in ("value", "accept", "goal") if (x := times_the_peer(one, key)) is not None]
    low, high = math.floor(math.log2(min(*places, 0.5)) - 0.2), math.ceil(math.log2(max(*places, 2)))
    bottom = TOP + ROW * len(rows)

    def place(x: float) -> float:
        return LEFT + (math.log2(x) - low) / (high - low) * (WIDTH - LEFT - RIGHT)

    drawing = Drawing(WIDTH)
    drawing.words(16, 24, "Ours, as a share of the peer's time (left is quicker)", 15)
    drawing.words(16, 42, ", ".join(f"{key} {facts[key]}" for key in ("gpu", "torch", "commit") if key in facts), 11, GREY)
    at = 16
    for colour, label in ((HELD, "holds"), (MISSED, "does not"), (ASKED, "asked for"), (GOAL, "goal")):
        drawing.box(at, 52, 12 if colour in (HELD, MISSED) else 3, 10, colour)
        drawing.words(at + 17, 61, label, 11)
        at += 40 + 7 * len(label)
    for power in range(low, high + 1):
        x = place(2.0**power)
        drawing.line([(x, TOP), (x, bottom)], GREY if power == 0 else GRID)
        drawing.words(x, bottom + 16, f"{2**power}" if power >= 0 else f"1/{2**-power}", 11, GREY, "middle")
    for i, one in enumerate(rows):
        top, mine = TOP + ROW * i, times_the_peer(one, "value")
        drawing.words(LEFT - 8, top + 12, one["case"], 11, anchor="end")
        end = place(mine)
        drawing.box(LEFT, top + 3, max(1, end - LEFT), ROW - 6, HELD if one["holds"] is True else MISSED)
        marks = [end]
        for key, colour in (("accept", ASKED), ("goal", GOAL)):
            asked = times_the_peer(one, key)
            if asked is not None:
                marks.append(place(asked))
                drawing.box(marks[-1] - 1, top + 1, 2.5, ROW - 2, colour)
        drawing.words(max(marks) + 6, top + 12, f"{mine:.2f}", 11)
    title = "Ours, as a share of the peer's time"
    words = [title, *(f"{one['case']}: {times_the_peer(one, 'value'):.2f}" for one in rows)]
    return Picture(drawing.svg(bottom + 26), "\n".join(words))
