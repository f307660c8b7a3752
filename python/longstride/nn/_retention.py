"""Which keys decoding is done with: those that no later query sees, as include/longstride/pattern/retention.h has it."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass

from .._pattern import Pattern
from .._rules import RULES, Lookback


@dataclass(frozen=True)
class Retention:
    """What a cache may drop: the pattern is the same without it, since windows and segments move. All heads together.

    Attributes:
        sinks: keys [0, sinks) stay.
        step: what is dropped comes in so many at a time.
        parts: how far back each group and each rule looks.
    """

    sinks: int
    step: int
    parts: tuple[Lookback, ...]

    @staticmethod
    def of(pattern: Pattern) -> Retention | None:
        """None if there is nothing to drop however long a sequence becomes: a rule looks back without end, or depends on
        the length, as padding by zero_keys does."""
        text = json.loads(pattern.json())
        groups = text.get("dilated") or {}
        if groups.get("padding") == "zero_keys" and not text["causal"]:
            return None
        parts = [Lookback(0, 0, length) for length in groups.get("segment_lengths", [])]
        for block in text.get("blocks") or []:
            part = RULES[block["pattern"]].lookback(block)
            if part is None:
                return None
            parts.append(part)
        return Retention(max(part.sinks for part in parts), math.lcm(*(part.grain for part in parts)), tuple(parts))

    def outlived(self, query: int) -> int:
        """How many keys from `sinks` on are seen by no query at or behind `query`. Without them, what stands behind them
        moved as many places to the front, those queries see the same keys as often."""
        oldest = min(query // part.grain * part.grain - part.back for part in self.parts)
        return max(0, oldest - self.sinks) // self.step * self.step

    @property
    def most_kept(self) -> int:
        """The most keys that stay, whatever the query: it and those before it without the outlived ones."""
        return max(part.back + part.grain - 1 for part in self.parts) + self.sinks + self.step
