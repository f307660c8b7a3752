"""SparseAttentionConfig: a block-sparse pattern by its name and its own options."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from .._read import number
from .._refusal import refuse
from .. import _rules
from .._rules import NAMED, USUAL_BLOCK_SIZE, filled
from ..nn import _learned
from ..nn._checks import require_positive
from ..nn._config import refuse_unknown
from ._value import Config, Level, Rule, blocks

OF_LEARNED = ("sparsity_ratio", "density", "min_sparsity_ratio", "max_sparsity_ratio", "hidden", "temperature")


def options_of(rule: _rules.Rule) -> tuple[str, ...]:
    """Its fields as options: a density is also given as its complement."""
    names = [name for name in rule.fields if name != "density"]
    return (*names, "sparsity_ratio", "density") if "density" in rule.fields else tuple(names)


# Of each pattern the options that it takes, besides "pattern" and "block_size".
TAKES = {
    **{name: options_of(rule) for name, rule in NAMED.items()},
    "hybrid": ("blocks",),
    "learned": OF_LEARNED,
}
OF_EVERY = (
    ("pattern", "str", "dilated_sparse"),
    ("block_size", "int | None", None),
    ("sparsity_ratio", "float | None", None),
    ("density", "float | None", None),
)
OF_RULES = {
    name: (name, f"{option.type} | None", None)
    for rule in NAMED.values()
    for name, option in rule.fields.items()
    if name != "density"
}
RuleOptions = dataclasses.make_dataclass("RuleOptions", [*OF_EVERY, *OF_RULES.values()], bases=(Config,), frozen=True)
RuleOptions.__module__ = __name__  # where its hints are found


@dataclass(frozen=True)
class SparseAttentionConfig(RuleOptions):
    """A block-sparse pattern by name. Only options that the pattern takes may be given; docs/factory.md has the table.

    Args:
        pattern: a rule of `Pattern.block_sparse` but "list", "hybrid" (the union of `blocks`), or "learned".
        block_size: tokens, >= 1; None: 128, of sliding_window 1.
        sparsity_ratio, density: share of block pairs left out, or computed, in (0, 1); one of the two; else 0.9 left out.
        window, global_tokens, left, right, sink_tokens: tokens. rates, reach, stride_blocks, grid_columns: blocks.
        seed: of random. levels: of hierarchical, {"stride", "window"} or {"stride", "global": True} in tokens.
        blocks: of hybrid: the patterns that are united, as in a pattern's JSON.
        min_sparsity_ratio, max_sparsity_ratio, hidden, temperature: of learned.
    Raises:
        ValueError: an unknown pattern, an option of another one (with the nearest), a number out of range.
    """

    blocks: tuple[Rule, ...] = ()
    min_sparsity_ratio: float | None = None
    max_sparsity_ratio: float | None = None
    hidden: int | None = None
    temperature: float | None = None

    def validate(self) -> None:
        """Raises ValueError."""
        self.block_patterns()
        self.learned_blocks()

    def given(self) -> dict[str, Any]:
        """The options that are set, once they are known to be the pattern's."""
        if self.block_size is not None:
            require_positive("block_size", self.block_size)
        for name in ("sparsity_ratio", "density", "min_sparsity_ratio", "max_sparsity_ratio"):
            ratio = getattr(self, name)
            if ratio is not None and not 0 < ratio < 1:
                refuse(name, "must be in (0, 1)", number(ratio))
        if self.pattern not in TAKES:
            refuse_unknown("pattern", self.pattern, TAKES)
        takes = TAKES[self.pattern]
        options = {}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if value is None or (field.name == "blocks" and not value):
                continue
            if field.name not in ("pattern", "block_size", *takes):
                refuse_unknown(f"option of pattern {self.pattern}", field.name, takes)
            options[field.name] = value
        return options

    def block_patterns(self) -> list[dict[str, Any]]:
        """The rules of blocks that these options say, as in a pattern's JSON and as modules take them; none for learned.

        Where a pattern needs an option that is not given: sparsity_ratio 0.9, window 512, global_tokens 64,
        stride_blocks 4, levels {b, window 4b}, {4b, window 16b}, {16b, everything} for block_size b, left and right 512.
        """
        options = self.given()
        if self.pattern == "learned":
            return []
        if self.pattern == "hybrid":
            if not self.blocks:
                remedy = 'as in [{"pattern": "local_window", "block_size": 64, "window": 256}]'
                refuse("blocks", "must hold the block patterns that hybrid unites", "none", remedy)
            return list(self.blocks)
        return list(blocks("blocks", [filled(options)]))

    def learned_blocks(self) -> dict[str, Any] | None:
        """What these options say of learned blocks, as in a module's config; None for the other patterns."""
        self.given()
        if self.pattern != "learned":
            return None
        if self.sparsity_ratio is not None and self.density is not None:
            refuse("density", "cannot be given together with sparsity_ratio", "both", "give one of them")
        ratio = 0.9 if self.sparsity_ratio is None else self.sparsity_ratio
        if self.density is not None:
            ratio = 1 - self.density
        low, high = self.min_sparsity_ratio, self.max_sparsity_ratio
        least, most = ratio if low is None else low, ratio if high is None else high
        if low is not None and high is not None and least >= most:
            refuse("min_sparsity_ratio", f"must be below max_sparsity_ratio {number(most)}", number(least))
        if not least <= ratio <= most:
            wanted = f"must be from min_sparsity_ratio {number(least)} to max_sparsity_ratio {number(most)}"
            refuse("sparsity_ratio", wanted, number(ratio))
        density = 1 - ratio if self.density is None else self.density
        learned = {
            "block_size": self.block_size or USUAL_BLOCK_SIZE,
            "density": density,
            "min_density": None if high is None else min(1 - most, density),
            "max_density": None if low is None else max(1 - least, density),
        }
        for name in ("hidden", "temperature"):
            if getattr(self, name) is not None:
                learned[name] = getattr(self, name)
        filled = _learned.filled(learned)
        _learned.validate(filled)
        return filled
