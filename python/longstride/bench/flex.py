"""A pattern for torch's FlexAttention: the mask as a formula of positions, and multiplicities as a term of the scores."""

import json
import math
import os
import shutil
import time
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .._pattern import Pattern, text_of

# What the mask of all pairs, and scores that are not compiled away, may take.
MOST_BYTES = 2**31


class LeftOut(Exception):
    """A peer that cannot take part, and why."""


def dilated_terms(dilated: dict[str, Any], kv_heads: int, share: int) -> list[Callable]:
    """One function (h, q, k) -> bool for each group."""
    if dilated.get("mixing", "joint") != "joint" or dilated.get("padding", "masked") != "masked" or dilated.get("offsets"):
        raise LeftOut("only joint mixing, masked padding and named offsets are written as its masks here")
    rule = dilated.get("head_offset", "modulo")

    def term(g: int, w: int, r: int) -> Callable:
        def shows(h, q, k):
            kv_head = h // share
            offset = {"modulo": kv_head, "block": kv_head // math.ceil(kv_heads / r), "group": g}[rule] % r
            return (q // w == k // w) & (q % w % r == offset) & (k % w % r == offset)

        return shows

    return [term(g, *group) for g, group in enumerate(zip(dilated["segment_lengths"], dilated["dilation_rates"]))]


def rules_differ(blocks: list[dict[str, Any]]) -> bool:
    """Whether a rule may show one KV head other blocks than another."""
    return any(block["pattern"] in ("dilated_sparse", "random", "list") for block in blocks)


def block_terms(blocks: list[dict[str, Any]], n: int, kv_heads: int, share: int, device: str) -> list[Callable]:
    """Functions (h, q, k) -> bool, of which any shows a pair: windows as a formula, other rules as a table of blocks."""
    terms: list[Callable] = []

    def window(block: dict[str, Any]) -> Callable:
        left, right, sinks = block.get("left", n), block.get("right", n), block["sink_tokens"]
        return lambda h, q, k: ((q - k <= left) & (k - q <= right)) | (k < sinks)

    terms += [window(block) for block in blocks if block["pattern"] == "sliding_window"]
    others = [block for block in blocks if block["pattern"] != "sliding_window"]
    if others:
        side = math.gcd(*(block["block_size"] for block in others))
        tables = kv_heads if rules_differ(others) else 1
        if tables * n * n > MOST_BYTES:
            raise LeftOut(f"the table of blocks would be read off {tables} x {n} x {n} pairs")
        mask = Pattern(text_of({"causal": False, "blocks": others})).mask(n, tables)
        table = mask[:, ::side, ::side].contiguous().to(device)
        terms.append(lambda h, q, k: table[h // share % tables, q // side, k // side])
    return terms


def formulas(pattern: Pattern, n: int, heads: int, kv_heads: int, device: str) -> tuple[Callable, Callable | None, bool]:
    """(mask_mod, score_mod, whether heads differ) of FlexAttention. score_mod is None where no pair counts twice."""
    data, share = json.loads(pattern.json()), heads // kv_heads
    groups = dilated_terms(data["dilated"], kv_heads, share) if "dilated" in data else []
    blocks = block_terms(data.get("blocks", []), n, kv_heads, share, device)

    def any_block(h, q, k):
        shown = blocks[0](h, q, k)
        for term in blocks[1:]:
            shown = shown | term(h, q, k)
        return shown

    counted = groups + ([any_block] if blocks else [])

    def mask_mod(b, h, q, k):
        shown = counted[0](h, q, k)
        for term in counted[1:]:
            shown = shown | term(h, q, k)
        return shown & (k <= q) if data["causal"] else shown

    def score_mod(score, b, h, q, k):
        times = sum(term(h, q, k).to(torch.float32) for term in counted)
        return score + times.log().to(score.dtype)

    rates = (data.get("dilated") or {}).get("dilation_rates", ())
    differ = any(rate > 1 for rate in rates) or rules_differ(data.get("blocks", []))
    return mask_mod, score_mod if len(counted) > 1 else None, differ


def compiler_missing(device: str) -> str:
    """Why nothing can be compiled, or "": torch.compile would try, and fail after a while."""
    if device != "cpu":
        return ""
    named = os.environ.get("CXX")
    wanted = [named] if named else ["g++", "clang++"]
    return "" if any(shutil.which(name) for name in wanted) else f"no C++ compiler ({' or '.join(wanted)})"


def torch_module() -> Any:
    try:
        from torch.nn.attention import flex_attention
    except ImportError as error:
        raise LeftOut(f"torch {torch.__version__} has no torch.nn.attention.flex_attention: {error}") from None
    return flex_attention


def check_backward(backward: bool, device: str) -> None:
    """Raises what FlexAttention raises where it has no gradients (torch 2.13: on the CPU), before anything is compiled."""
    if backward:
        x = torch.zeros(1, 1, 16, 16, device=device, requires_grad=True)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that a call without torch.compile is slow
            torch_module().flex_attention(x, x, x)


class Flex:
    """FlexAttention over a pattern: call it with q, k, v. `mask_seconds` is what building its mask took, beside the calls."""

    def __init__(self, pattern: Pattern, q: Tensor, k: Tensor, compiled: bool):
        module = torch_module()
        batch, n, heads, _ = q.shape
        device = q.device.type
        self.mask_mod, self.score_mod, differ = formulas(pattern, n, heads, k.size(2), device)
        mask_heads = heads if differ else 1
        element = max(q.element_size(), 4)
        if mask_heads * n * n > MOST_BYTES or (not compiled and batch * heads * n * n * element > MOST_BYTES):
            held = "its mask" if compiled else "scores, which are not compiled away,"
            raise LeftOut(f"{held} would hold {heads} x {n} x {n} numbers")
        self.attend, create = module.flex_attention, module.create_block_mask
        if compiled:
            self.attend, create = torch.compile(self.attend, dynamic=False), torch.compile(create, dynamic=False)

        def build() -> Any:
            return create(self.mask_mod, None, heads if differ else None, n, n, device=device)

        if compiled:
            build()  # compiles
        wait(device)
        begin = time.perf_counter()
        self.block_mask = build()
        wait(device)
        self.mask_seconds = time.perf_counter() - begin

    def __call__(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))
        out = self.attend(q, k, v, score_mod=self.score_mod, block_mask=self.block_mask, enable_gqa=q.size(1) != k.size(1))
        return out.transpose(1, 2)


def wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()
