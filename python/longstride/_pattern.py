"""Pattern: what attends to what, as an immutable value. Its JSON text is the value; the library checks it."""

import functools
import json
import operator
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ._picture import Picture
from ._reach import MOST_TOKENS, Reach, reach_of
from ._refusal import refuse
from ._rules import RULES, defaults, rules_help
from ._show import MOST_PAIRS, picture_of, telling_length
from ._sight import counted_columns

# Fields that the library's own text leaves out, at the values that mean the same.
DILATED_DEFAULTS = {"head_offset": "modulo", "offsets": None, "mixing": "joint", "average": False, "padding": "masked"}
# A longer list of blocks goes to the operator as a tensor: as text it would cost more than the attention.
MOST_BLOCKS_AS_TEXT = 64


def plain(value: Any, name: str) -> Any:
    """`value` in JSON's types: integers and lists of any make (numpy, torch) become Python's."""
    if value is None or isinstance(value, (bool, float, str)):
        return value
    if isinstance(value, Mapping):
        return {str(key): plain(one, f"{name}.{key}") for key, one in value.items()}
    if hasattr(value, "tolist"):
        return plain(value.tolist(), name)
    try:
        return operator.index(value)
    except TypeError:
        pass
    try:
        return [plain(one, f"{name}[{i}]") for i, one in enumerate(value)]
    except TypeError:
        refuse(name, "must be a number, a text, a list or a mapping", type(value).__name__)


def text_of(data: Any) -> str:
    """JSON as the library writes it: one line, keys in order. NaN and infinities, which it does not know, are refused."""
    try:
        return json.dumps(data, sort_keys=True, separators=(",", ":"), allow_nan=False)
    except ValueError:
        refuse("numbers of a pattern", "must be finite", data)


def has_open_list(data: Mapping) -> bool:
    """Whether a rule "list" has no blocks of its own: they come with each call."""
    return any(b.get("pattern") == "list" and b.get("blocks") is None for b in data.get("blocks") or ())


def ask_library(text: str, heads: int, with_blocks: bool) -> None:
    """Raises the library's ValueError if it does not take the pattern: a call without a single query parses it."""
    nothing = torch.empty(0, 0, heads, 1, device="cpu")  # within torch.device("meta") too
    blocks = torch.empty(0, 4, dtype=torch.int32, device="cpu") if with_blocks else None
    with torch.no_grad(), torch.autocast("cpu", enabled=False):
        torch.ops.longstride.attention(nothing, nothing, nothing, text, blocks)


def check(data: Any, text: str) -> None:
    dilated = data.get("dilated") if isinstance(data, Mapping) else None
    heads = 1
    if isinstance(dilated, Mapping) and isinstance(dilated.get("segment_lengths"), list):
        # As many heads as the options want: one a group under head_partition, one a column of a table of offsets.
        groups = max(1, len(dilated["segment_lengths"]))
        offsets = dilated.get("offsets")
        heads = groups if offsets is None else max(1, len(offsets) // groups if isinstance(offsets, list) else 1)
        if heads < groups and dilated.get("mixing") == "head_partition":
            refuse(
                "offsets",
                f"must have at least one column a group, {groups}, under head_partition",
                f"{heads} columns",
            )
    ask_library(text, heads, isinstance(data, Mapping) and has_open_list(data))


def normal_block(block: Mapping) -> dict:
    one = {key: value for key, value in block.items() if value is not None}
    if "sparsity_ratio" in one:
        one["density"] = 1 - one.pop("sparsity_ratio")
    if RULES[one["pattern"]].block_size is not None:
        one.pop("block_size", None)
    for key, value in defaults(one["pattern"]).items():
        one.setdefault(key, value)
    if "density" in one:
        one["density"] = float(one["density"])
    if "levels" in one:
        # "global": false says nothing beside a window.
        one["levels"] = [
            {key: value for key, value in level.items() if value is not None and value is not False}
            for level in one["levels"]
        ]
    return one


def normal(data: Mapping) -> dict:
    """The checked pattern as the library would write it, so that equal patterns have equal texts."""
    result: dict[str, Any] = {"causal": bool(data.get("causal"))}
    if data.get("dilated") is not None:
        result["dilated"] = {
            key: value
            for key, value in data["dilated"].items()
            if value is not None and (key not in DILATED_DEFAULTS or value != DILATED_DEFAULTS[key])
        }
    if data.get("blocks"):
        result["blocks"] = [normal_block(block) for block in data["blocks"]]
    return result


@functools.lru_cache(maxsize=256)
def checked_text(text: str) -> str:
    """The normal text of a pattern. Raises the library's ValueError."""
    try:
        data = json.loads(text)
    except (ValueError, RecursionError):
        data = {}  # the library says what is wrong with it
    check(data, text)
    return text_of(normal(data))


class Pattern:
    """What attends to what: dilated groups, block patterns, or both in one softmax. An immutable value.

    Made by `Pattern.dilated`, `Pattern.block_sparse`, `Pattern.sliding_window`, `Pattern.from_json`; joined by `|`. Equal patterns are `==` and
    have one hash; `repr` gives an expression that makes the pattern again. It may be pickled and copied.

    Definitions: docs/semantics.md and docs/block_sparse.md of the project.
    """

    __slots__ = ("_text",)
    _text: str

    def __init__(self, text: str):
        object.__setattr__(self, "_text", checked_text(text))

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"a Pattern does not change: cannot set {name}; make another one")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"a Pattern does not change: cannot delete {name}")

    def __reduce__(self):
        return Pattern, (self._text,)

    def __copy__(self) -> "Pattern":
        return self

    def __deepcopy__(self, memo: dict) -> "Pattern":
        return self

    def __eq__(self, other: object) -> bool:
        return self._text == other._text if isinstance(other, Pattern) else NotImplemented

    def __hash__(self) -> int:
        return hash((Pattern, self._text))

    @staticmethod
    def from_json(text: str) -> "Pattern":
        """The pattern of a JSON text: {"causal": true, "dilated": {...}, "blocks": [{...}, ...]}.

        Args:
            text: as `json()` and the library write it (include/longstride/pattern/json.h has every key).
        Raises:
            ValueError: text that is no JSON, an unknown key or name (with the nearest one), a missing key, a value of a
                wrong type or out of range.
        """
        if not isinstance(text, str):
            refuse("pattern", "must be a text in JSON", type(text).__name__)
        return Pattern(text)

    @staticmethod
    def dilated(
        segment_lengths: Sequence[int],
        dilation_rates: Sequence[int],
        *,
        causal: bool = False,
        head_offset: str = "modulo",
        offsets: Sequence[int] | None = None,
        mixing: str = "joint",
        average: bool = False,
        padding: str = "masked",
    ) -> "Pattern":
        """LongNet's dilated attention (Ding et al., arXiv 2307.02486, section 3): one group per (segment, rate).

        Args:
            segment_lengths: in tokens, >= 1, one a group; longer than the sequence is the same as the sequence.
            dilation_rates: every rate-th token of a segment is sampled, >= 1, one a group.
            causal: whether a query sees only keys at its own and earlier positions.
            head_offset: which residue of a segment KV head j samples: "modulo" (j mod rate: the paper), "block"
                (floor(j / ceil(kv_heads / rate)): torchscale), "group" (group index mod rate: dilated-attention-pytorch).
            offsets: groups x kv_heads integers >= 0, row by row, in place of the named rule.
            mixing: "joint" (one softmax over all groups) or "head_partition" (the KV heads are cut into one range per
                group).
            average: with "head_partition": out is divided by the number of groups.
            padding: "masked" (padding does not exist) or "zero_keys" (torchscale's pretrained models).
        Raises:
            ValueError: an empty list, lists of different lengths, a number that is not positive, an unknown name (with
                the nearest one), average without head_partition.
        """
        fields = {
            "segment_lengths": segment_lengths,
            "dilation_rates": dilation_rates,
            "head_offset": head_offset,
            "offsets": offsets,
            "mixing": mixing,
            "average": average,
            "padding": padding,
        }
        return Pattern(text_of({"causal": causal, "dilated": {key: plain(v, key) for key, v in fields.items()}}))

    @staticmethod
    def block_sparse(rule: str, block_size: int, *, causal: bool = False, **fields: Any) -> "Pattern":
        """A rule of blocks: a pair (query, key) is seen iff its block is active and, if causal, key <= query.

        Args:
            rule: the name of a rule; below, i is the query's block and j the key's.
            block_size: in tokens, >= 1.
            causal: whether a query sees only keys at its own and earlier positions.
            **fields: of the rule:

                {rules}

                density, in (0, 1], is the share of blocks that is active; sparsity_ratio = 1 - density may be given in
                its place.
        Raises:
            ValueError: an unknown rule or field (with the nearest one), a missing field, a value out of range.
        """
        block = {"pattern": rule, "block_size": block_size, **fields}
        return Pattern(
            text_of({"causal": causal, "blocks": [{key: plain(value, key) for key, value in block.items()}]})
        )

    @staticmethod
    def sliding_window(
        left: int | None = None, right: int | None = None, *, sink_tokens: int = 0, causal: bool = False
    ) -> "Pattern":
        """A window by token: query q sees key k iff q - left <= k <= q + right, or k is one of the first sink_tokens.

        Args:
            left: earlier tokens that a query sees besides itself, >= 0; None: all of them.
            right: later tokens that it sees, >= 0; None: all of them.
            sink_tokens: first tokens of each document that all its queries see, >= 0 (StreamingLLM, Xiao et al., arXiv
                2309.17453).
            causal: whether a query sees only keys at its own and earlier positions; `right` says nothing then.
        Raises:
            ValueError: a number that is negative or no integer.
        """
        sides = {name: side for name, side in (("left", left), ("right", right)) if side is not None}
        return Pattern.block_sparse("sliding_window", 1, causal=causal, **sides, sink_tokens=sink_tokens)

    @property
    def causal(self) -> bool:
        """Whether a query sees only keys at its own and earlier positions."""
        return json.loads(self._text)["causal"]

    def with_causal(self, causal: bool) -> "Pattern":
        """This pattern with `causal` as given."""
        return Pattern(text_of({**json.loads(self._text), "causal": causal}))

    def json(self) -> str:
        """One line of JSON; `Pattern.from_json` of it is an equal pattern. Options at their defaults are left out."""
        return self._text

    def __or__(self, other: "Pattern") -> "Pattern":
        """Both in one softmax: a pair counts once if any block pattern shows it, and once more for every dilated group.

        At most one of the two has dilated groups, since their offsets count from the first; both have one `causal`.
        """
        if not isinstance(other, Pattern):
            return NotImplemented
        a, b = json.loads(self._text), json.loads(other._text)
        if a["causal"] != b["causal"]:
            refuse("patterns of a union", "must have one causal", "True and False", "use with_causal()")
        if "dilated" in a and "dilated" in b:
            refuse(
                "patterns of a union",
                "must not both have dilated groups",
                f"{self!r} and {other!r}",
                "give one Pattern.dilated all segment lengths and rates",
            )
        joined: dict[str, Any] = {"causal": a["causal"], "blocks": a.get("blocks", []) + b.get("blocks", [])}
        if "dilated" in a or "dilated" in b:
            joined["dilated"] = a.get("dilated") or b.get("dilated")
        return Pattern(text_of(joined))

    def mask(self, n: int, heads: int = 1, *, batch_row: int = 0, blocks: Tensor | None = None) -> Tensor:
        """Who sees whom in a sequence of n tokens: bool [heads, n, n], True where query (row) sees key (column).

        Args:
            n: tokens, >= 0. Memory grows with heads x n x n.
            heads: KV heads, which offsets and rules may differ by; one mask each.
            batch_row: which row's, where a "list" differs by it.
            blocks: int32 [rows, 4], for a "list" that has none of its own.
        Raises:
            ValueError: what `attention` refuses, such as fewer heads than groups under head_partition.
        """
        check_sizes(n, heads, batch_row)
        text, rows = self.call_arguments(blocks)
        seen = torch.zeros(heads, n, n, dtype=torch.bool, device="cpu")
        for first, counted in counted_columns(text, rows, n, heads, batch_row):
            seen[:, :, first : first + counted.size(2)] = counted > 0
        return seen

    def show(self, n: int | None = None, heads: int = 1, *, batch_row: int = 0, blocks: Tensor | None = None) -> Picture:
        """Who sees whom in a sequence of n tokens, as a picture: queries down, keys right, darker where a pair counts
        more than once. A notebook displays it; `print` shows it in characters.

        Args:
            n: tokens, >= 0; None: the longest segment, sixteen blocks or four windows, from 32 to 2048. Beyond 128 a cell
                of the picture is several tokens. heads x n x n is at most 2^31.
            heads: KV heads, side by side.
            batch_row, blocks: as in `mask`.
        Returns:
            A picture with `svg` and `save(path)`.
        Raises:
            ValueError: what `mask` raises; more pairs than 2^31.
        """
        n = telling_length(self._text) if n is None else n
        check_sizes(n, heads, batch_row)
        if heads * n * n > MOST_PAIRS:
            refuse("n", "must have heads x n x n <= 2^31 to be drawn", f"{n} with heads {heads}", "show fewer tokens")
        return picture_of(repr(self), *self.call_arguments(blocks), n, heads, batch_row)

    def reach(self, n: int, heads: int = 1) -> Reach:
        """How far a stack of layers carries a token: each moves what a key holds to every query that sees it in some head.

        Args:
            n: tokens of one sequence, in [1, 8192].
            heads: KV heads.
        Returns:
            `density`, the share of pairs that a head shows; `reached`, that with a path of 1, 2, ... layers; `all`.
        Raises:
            ValueError: n out of its range; what `mask` refuses.
        """
        if not 1 <= n <= MOST_TOKENS:
            remedy = "a pattern reaches in a shorter sequence what it does in a longer one of more segments or blocks"
            refuse("n", f"must be in [1, {MOST_TOKENS}]", n, remedy)
        return reach_of(self.mask(n, heads), json.loads(self._text)["causal"])

    def call_arguments(self, blocks: Tensor | None = None) -> tuple[str, Tensor | None]:
        """The operator's arguments `pattern` and `blocks` for this pattern."""
        if blocks is not None or len(self._text) <= 16 * MOST_BLOCKS_AS_TEXT:
            return self._text, blocks
        return beside_list(self._text)

    def __repr__(self) -> str:
        data = json.loads(self._text)
        causal = {"causal": True} if data["causal"] else {}
        parts = []
        if "dilated" in data:
            fields = dict(data["dilated"])
            lists = f"{fields.pop('segment_lengths')}, {fields.pop('dilation_rates')}"
            parts.append(f"Pattern.dilated({lists}{keywords({**causal, **fields})})")
        for block in data.get("blocks", []):
            fields = dict(block)
            name = fields.pop("pattern")
            if name == "sliding_window":
                given = {key: value for key, value in fields.items() if (key, value) != ("sink_tokens", 0)}
                parts.append(f"Pattern.sliding_window({keywords({**given, **causal})[2:]})")
            else:
                size = fields.pop("block_size")
                parts.append(f"Pattern.block_sparse({name!r}, {size}{keywords({**causal, **fields})})")
        return " | ".join(parts)


# What `help` says of the rules stands where they do.
Pattern.block_sparse.__doc__ = (Pattern.block_sparse.__doc__ or "").replace("{rules}", rules_help(16 * " "))


def keywords(fields: Mapping[str, Any]) -> str:
    return "".join(f", {key}={value!r}" for key, value in fields.items())


def check_sizes(n: Any, heads: Any, batch_row: Any) -> None:
    for name, value, least in (("n", n, 0), ("heads", heads, 1), ("batch_row", batch_row, 0)):
        if not isinstance(value, int) or value < least:
            refuse(name, f"must be an integer >= {least}", value)


@functools.lru_cache(maxsize=16)
def beside_list(text: str) -> tuple[str, Tensor | None]:
    """The text without the blocks of its one list, and those as the operator takes them; other texts as they are."""
    data = json.loads(text)
    lists = [block for block in data.get("blocks", []) if block["pattern"] == "list" and "blocks" in block]
    if len(lists) != 1 or has_open_list(data):
        return text, None
    rows = torch.tensor(lists[0].pop("blocks"), dtype=torch.int32, device="cpu").reshape(-1, 4)
    return text_of(data), rows
