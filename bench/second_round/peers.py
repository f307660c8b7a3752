"""What our calls stand beside: torch's dense attention, FlexAttention, and LongNet's official pipeline, group by group.

Each is a Side: tensors in the layout that suits it best, and how it computes out from them. A peer that cannot take part
raises Missing with the reason."""

import dataclasses
import functools
from collections.abc import Callable, Sequence

import cuda_peers
import torch
import torch.nn.functional as F
from longstride.bench.official import official
from torch import Tensor

from .timing import IDLES

class Missing(Exception):
    """Why a peer cannot take part."""


@dataclasses.dataclass
class Side:
    forward: Callable[..., Tensor]
    tensors: list[Tensor]
    engine: str = ""  # of ours, as use_engine() takes it


def needs_gpu(bench, name: str) -> None:
    if bench.device != "cuda":
        raise Missing(f"{name} needs a GPU")


def dense(bench, kernel: str, batch: int, n: int, heads: int, dim: int, dtype: torch.dtype, causal: bool) -> Side:
    """kernel: "cudnn", "flash" or "efficient" by name, or "sdpa", torch's own choice."""
    tensors = bench.tensors(batch, heads, n, dim, dtype)
    if kernel == "sdpa":
        return Side(lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=causal), tensors)
    needs_gpu(bench, f"the {kernel} kernel")
    return Side(lambda q, k, v: cuda_peers.attend(kernel, q, k, v, causal)[0], tensors)


def flash_dropped(bench, batch: int, n: int, heads: int, dim: int, dropout_p: float) -> Side:
    """flash-attention 2, with or without dropout."""
    needs_gpu(bench, "flash-attention 2")
    flash = torch.ops.aten._scaled_dot_product_flash_attention
    return Side(lambda q, k, v: flash(q, k, v, dropout_p)[0], bench.tensors(batch, heads, n, dim, torch.bfloat16))


def per_group(bench, kernel: str, n: int, heads: int, dim: int, dtype: torch.dtype, causal: bool) -> Side:
    """The pipeline with heads of one offset sampled together: bench/cuda_peers.py."""
    needs_gpu(bench, f"the {kernel} kernel")
    segments = bench.segments()
    one = functools.partial(cuda_peers.per_group, kernel, causal=causal, segments=segments)
    return Side(lambda q, k, v: one(q, k, v), [x[0] for x in bench.tensors(1, heads, n, dim, dtype)])


def pipeline(bench, n: int, heads: int, dim: int, dtype: torch.dtype, causal: bool, segments: Sequence[int],
             rates: Sequence[int], rule: str) -> Side:
    """The pipeline in torchscale's own steps, flash-attention 2 inside, or the efficient kernel in float32."""
    tensors = bench.tensors(1, n, heads, dim, dtype)
    return Side(lambda q, k, v: official(q, k, v, segments, rates, causal, rule), tensors)


@functools.lru_cache(maxsize=1)
def compiled_flex() -> tuple[Callable, Callable]:
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    # A kernel is compiled for each mask; beyond the usual limit of 8 torch would run without compiling.
    for name in ("recompile_limit", "cache_size_limit"):
        if hasattr(torch._dynamo.config, name):
            setattr(torch._dynamo.config, name, 64)
    return torch.compile(flex_attention, dynamic=False), torch.compile(create_block_mask)


def flex(bench, n: int, heads: int, dim: int, mask_mod: Callable, extra: dict) -> Side:
    """FlexAttention, compiled, with the mask of our pattern; what building the mask takes goes to `extra`."""
    needs_gpu(bench, "compiled FlexAttention")
    attend, create = compiled_flex()

    def build():
        return create(mask_mod, None, None, n, n, device=bench.device)

    build()  # compiles
    extra["flex_mask_ms"] = round(bench.clock.once_ms(build, IDLES), 3)
    blocks = build()
    return Side(lambda q, k, v: attend(q, k, v, block_mask=blocks), bench.tensors(1, heads, n, dim, torch.bfloat16))


def nested(bench, starts: Sequence[int], heads: int, dim: int) -> Side:
    """Causal attention of packed documents as a nested tensor; [tokens, heads, dim]."""
    needs_gpu(bench, "attention of nested tensors")
    offsets = torch.tensor(starts, device="cuda")
    longest = max(b - a for a, b in zip(starts, starts[1:]))

    def forward(q, k, v):
        q, k, v = (
            torch.nested.nested_tensor_from_jagged(x, offsets, min_seqlen=1, max_seqlen=longest).transpose(1, 2) for x in (q, k, v)
        )
        return F.scaled_dot_product_attention(q, k, v, is_causal=True)

    return Side(forward, [x[0] for x in bench.tensors(1, starts[-1], heads, dim, torch.bfloat16)])
