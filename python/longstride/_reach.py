"""How far a pattern carries a token in a stack of layers."""

from typing import NamedTuple

import torch
from torch import Tensor

# The square of a matrix this wide takes seconds a layer.
MOST_TOKENS = 8192


class Reach(NamedTuple):
    """What `Pattern.reach` found.

    Attributes:
        density: the share of the pairs (causal: of those with key <= query) that a KV head shows, mean over the KV heads.
        reached: reached[n - 1] is the share of those pairs whose key has a path of at most n layers to the query. The last
            one is 1, or no further layer would add to it.
    """

    density: float
    reached: tuple[float, ...]

    @property
    def all(self) -> bool:
        """Whether every token reaches every other one (causal: every later one), after len(reached) layers."""
        return self.reached[-1] == 1


def reach_of(seen: Tensor, causal: bool) -> Reach:
    """seen bool [heads, n, n], n >= 1: True where query (row) sees key (column)."""
    heads, n, _ = seen.shape
    pairs = n * (n + 1) // 2 if causal else n * n
    density = int(seen.sum()) / (pairs * heads)
    # Counts of paths are sums of ones: exact where it matters, that is at 0.
    step = (seen.any(0) | torch.eye(n, dtype=torch.bool)).float()
    reached, counts = step, [int(step.sum(dtype=torch.float64))]
    while counts[-1] < pairs:
        reached = (step @ reached > 0).float()
        count = int(reached.sum(dtype=torch.float64))
        if count == counts[-1]:
            break
        counts.append(count)
    return Reach(density, tuple(count / pairs for count in counts))
