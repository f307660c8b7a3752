"""The rules of blocks: all that Python asks of one, as include/longstride/pattern/blocks.h describes them.

JSON's defaults, the help of `Pattern.block_sparse`, the factory with its config and help, and what decoding needs are
read from RULES; a rule that is added is a row of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

TENTH = 1 - 0.9  # of C++'s usual(), to the last bit
USUAL_BLOCK_SIZE = 128


@dataclass(frozen=True)
class Option:
    """A field of a rule: its type, and its meaning in one line. One that may be left out has a default, or None."""

    type: str
    meaning: str
    default: Any = None


class Lookback(NamedTuple):
    """In tokens: query q sees no key in [sinks, q // grain * grain - back), and the rule still shows the same pairs when
    all positions from the sinks on move by a multiple of grain."""

    sinks: int
    back: int
    grain: int


@dataclass(frozen=True)
class Rule:
    """What a rule says of itself.

    Args:
        words: its definition, in lines as help shows them; i is the query's block and j the key's.
        fields: in the order of JSON.
        usual: at a block size, what the factory takes for what is not given; None: the factory does not make it.
        one_of: fields of which one that is given stands for all.
        needed_to_stay: of a rule as JSON has it: what must be given so that its causal rows are those of every longer
            sequence; "": they are.
        block_size: the one that it takes, which JSON leaves out; None: any.
        lookback: of a rule as JSON has it: how far back its rows look; None: some keys are never done with.
    """

    words: str
    fields: Mapping[str, Option]
    usual: Callable[[int], dict[str, Any]] | None
    needed_to_stay: Callable[[Mapping[str, Any]], str]
    one_of: tuple[str, ...] = ()
    block_size: int | None = None
    lookback: Callable[[Mapping[str, Any]], Lookback | None] = lambda block: None


WINDOW = Option("int", "tokens that a query sees around it")
DENSITY = Option("float", "1 - sparsity_ratio; give one of the two")


def stays(block: Mapping[str, Any]) -> str:
    return ""


def in_place_of_density(name: str) -> Callable[[Mapping[str, Any]], str]:
    return lambda block: name if "density" in block else ""


def window_lookback(block: Mapping[str, Any]) -> Lookback | None:
    b = block["block_size"]
    if "window" not in block:
        return None
    return Lookback(-(-block.get("global_tokens", 0) // b) * b, -(-block["window"] // b) // 2 * b, b)


def distance_lookback(block: Mapping[str, Any]) -> Lookback | None:
    b = block["block_size"]
    return Lookback(0, block["reach"] * max(block.get("rates", [1])) * b, b) if "reach" in block else None


def sliding_lookback(block: Mapping[str, Any]) -> Lookback | None:
    return Lookback(block.get("sink_tokens", 0), block["left"], 1) if "left" in block else None


def usual_levels(b: int) -> dict[str, Any]:
    levels = [{"stride": b, "window": 4 * b}, {"stride": 4 * b, "window": 16 * b}, {"stride": 16 * b, "global": True}]
    return {"levels": levels}


RULES: Mapping[str, Rule] = {
    "local_window": Rule(
        "window (tokens), or density. abs(i - j) <= floor(ceil(window / block_size) / 2).",
        {"window": WINDOW, "density": DENSITY},
        usual=lambda b: {"density": TENTH},
        one_of=("window", "density"),
        needed_to_stay=in_place_of_density("window"),
        lookback=window_lookback,
    ),
    "dilated_sparse": Rule(
        """rates (distances in blocks, one a head in turn; [1]), reach (how many on each side), or
density. abs(i - j) = n * rate, n = 0..reach.""",
        {
            "rates": Option("tuple[int, ...]", "distances in blocks, one per head in turn", [1]),
            "reach": Option("int", "how many distances are kept on each side"),
            "density": DENSITY,
        },
        usual=lambda b: {"density": TENTH},
        one_of=("reach", "density"),
        needed_to_stay=in_place_of_density("reach"),
        lookback=distance_lookback,
    ),
    "global_local": Rule(
        "window, global_tokens. The window, and the rows and columns of the first tokens.",
        {"window": WINDOW, "global_tokens": Option("int", "first tokens that see and are seen by all")},
        usual=lambda b: {"window": 512, "global_tokens": 64},
        needed_to_stay=stays,
        lookback=window_lookback,
    ),
    "strided": Rule(
        "stride_blocks. abs(i - j) <= 1, or j mod stride_blocks = 0.",
        {"stride_blocks": Option("int", "every how many key blocks one is seen by all")},
        usual=lambda b: {"stride_blocks": 4},
        needed_to_stay=stays,
    ),
    "axial": Rule(
        "grid_columns (unset: nearly square). i and j in one row or column of the grid of blocks.",
        {"grid_columns": Option("int", "columns of the grid of blocks; unset: nearly square")},
        usual=lambda b: {},
        needed_to_stay=lambda block: "" if block.get("grid_columns") else "grid_columns",
    ),
    "random": Rule(
        "density, seed (0). Drawn by KV head, the diagonal among them.",
        {"density": DENSITY, "seed": Option("int", "of the drawn blocks", 0)},
        usual=lambda b: {"density": TENTH},
        needed_to_stay=stays,
    ),
    "hierarchical": Rule(
        """levels, a list of {"stride": tokens, "window": tokens} or {"stride": tokens, "global":
True}. A union: rows of a level see its window, or everything.""",
        {"levels": Option("tuple[Level, ...]", "list of {stride, window} in tokens, or {stride, global: true}")},
        usual=usual_levels,
        needed_to_stay=stays,
    ),
    "sliding_window": Rule(
        "left, right, sink_tokens, of tokens: `Pattern.sliding_window`; block_size must be 1.",
        {
            "left": Option("int", "earlier tokens that a query sees; unset: all"),
            "right": Option("int", "later tokens that a query sees; unset: all"),
            "sink_tokens": Option("int", "first tokens that all see", 0),
        },
        usual=lambda b: {"left": 512, "right": 512},
        one_of=("left", "right"),
        needed_to_stay=stays,
        block_size=1,
        lookback=sliding_lookback,
    ),
    "list": Rule(
        """blocks, [rows, 4] integers (batch row or -1, KV head or -1, query block, key block). Left out,
they come with each call, as its `blocks`.""",
        {"blocks": Option("tuple[Block, ...]", "list of [batch row or -1, KV head or -1, query block, key block]")},
        usual=None,
        needed_to_stay=lambda block: "a rule in place of a list",
    ),
}
# Those that are patterns of the factory by themselves.
NAMED = {name: rule for name, rule in RULES.items() if rule.usual is not None}


def defaults(rule: str) -> dict[str, Any]:
    """Fields that JSON may leave out, and what they are then."""
    return {key: option.default for key, option in RULES[rule].fields.items() if option.default is not None}


def filled(block: Mapping[str, Any]) -> dict[str, Any]:
    """A rule of the factory with what it usually has where nothing is given."""
    rule = NAMED[block["pattern"]]
    size = block.get("block_size", rule.block_size or USUAL_BLOCK_SIZE)
    said = {"density" if key == "sparsity_ratio" else key for key in block}
    if said.intersection(rule.one_of):
        said.update(rule.one_of)
    assert rule.usual is not None  # NAMED has none of those
    usual = {**defaults(block["pattern"]), **rule.usual(size)}
    return {**{key: value for key, value in usual.items() if key not in said}, "block_size": size, **block}


def in_order(block: Mapping[str, Any]) -> dict[str, Any]:
    """A rule with its keys as C++ writes them."""
    order = ("pattern", "block_size", *RULES[block["pattern"]].fields)
    parts = {key: block[key] for key in order if key in block}
    if "levels" in parts:
        order = ("stride", "window", "global")
        parts["levels"] = [{key: level[key] for key in order if key in level} for level in parts["levels"]]
    return parts


def rules_help(indent: str) -> str:
    """Each rule with its fields and its definition, one under the other."""
    texts = [f'"{name}": ' + rule.words.replace("\n", f"\n{indent}    ") for name, rule in RULES.items()]
    return f"\n{indent}".join(texts)
