"""The patterns of the block cases, the pairs that they show, and the same as masks of FlexAttention."""

from collections.abc import Callable

import longstride as ls

BLOCK = 128


def of_blocks(bench, rule: str, causal: bool) -> ls.Pattern:
    """Blocks of 128. global_local: a window of 1,024 and 256 global tokens; strided: every 16th block."""
    return ls.Pattern.block_sparse(rule, bench.part(BLOCK), causal=causal, **fields(bench, rule, bench.part(BLOCK)))


def fields(bench, rule: str, block: int) -> dict[str, int]:
    """Of a rule, in tokens of blocks of `block`."""
    if rule == "strided":
        return {"stride_blocks": 16}
    return {"window": 8 * block, "global_tokens": 2 * block}


def grid(bench, rule: str, n: int):
    """bool [blocks, blocks] of a rule, not causal: the rule on a grid of single tokens."""
    blocks = max(1, n // bench.part(BLOCK))
    return ls.Pattern.block_sparse(rule, 1, **fields(bench, rule, 1)).mask(blocks)[0]


def pairs_shown(bench, rule: str, n: int, causal: bool) -> int:
    """Of one head; n is a multiple of the block, or what is over is not counted."""
    size, seen = bench.part(BLOCK), grid(bench, rule, n)
    if not causal:
        return int(seen.sum()) * size * size
    below = int(seen.tril(-1).sum())
    return below * size * size + int(seen.diagonal().sum()) * size * (size + 1) // 2


def mask_of(bench, rule: str, n: int, causal: bool) -> Callable:
    """A mask_mod of FlexAttention: a table of blocks, and the diagonal."""
    size, table = bench.part(BLOCK), grid(bench, rule, n).to(bench.device)

    def shown(b, h, q, k):
        seen = table[q // size, k // size]
        return seen & (k <= q) if causal else seen

    return shown


def mask_of_window(half: int) -> Callable:
    def shown(b, h, q, k):
        return (q - k <= half) & (k - q <= half)

    return shown
