"""What torchscale's config and calls say, and the refusal of what cannot be honoured."""

import functools
import json
import operator
import re
import warnings
from typing import Any

import torch
from torch import Tensor

from ..._refusal import refuse, shape
from ...nn._multihead import lengths_of

# torchscale's own, for configs that do not have every field.
DEFAULTS = {
    "layernorm_eps": 1e-5,
    "multiway": False,
    "seq_parallel": False,
    "xpos_rel_pos": False,
    "xpos_scale_base": 512,
}
LISTS = "must be a list of positive integers or its text, such as [2048, 4096]"
# How NumPy 2 writes an integer of a list.
NUMPY_INTEGER = re.compile(r"\b(?:np|numpy)\.u?int\d*\((\d+)\)")


def setting(args: Any, name: str) -> Any:
    return getattr(args, name, DEFAULTS[name])


def positive(name: str, given: Any, values: Any) -> tuple[int, ...]:
    try:
        integers = tuple([operator.index(n) for n in values])
    except TypeError:
        integers = ()
    if not integers or min(integers) < 1 or any([isinstance(n, bool) for n in values]):
        refuse(f"args.{name}", LISTS, repr(given))
    return integers


@functools.lru_cache(maxsize=64)
def read(name: str, text: str) -> tuple[int, ...]:
    """The integers of a config's text, which torchscale itself hands to eval()."""
    inner = NUMPY_INTEGER.sub(r"\1", text).strip()
    if inner[:1] + inner[-1:] in ("[]", "()"):
        inner = inner[1:-1]
    try:
        values = json.loads(f"[{inner.strip().removesuffix(',')}]")
    except (ValueError, RecursionError):
        values = None
    return positive(name, text, values)


@torch.compiler.assume_constant_result
def traced_read(name: str, text: str) -> tuple[int, ...]:
    return read(name, text)


def integers(args: Any, name: str) -> tuple[int, ...]:
    given = getattr(args, name, None)
    if isinstance(given, str):
        return traced_read(name, given) if torch.compiler.is_compiling() else read(name, given)
    return positive(name, given, given)


def groups_of(args: Any) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The config's segment lengths and rates. torchscale reads them in each call, so that they may change."""
    segments, rates = integers(args, "segment_length"), integers(args, "dilated_ratio")
    if len(segments) != len(rates):
        refuse(
            "args.dilated_ratio",
            f"must have one rate a segment length, {len(segments)}",
            f"{len(rates)}: {list(rates)}",
        )
    return segments, rates


def check_inputs(embed_dim: int, query: Tensor, key: Tensor, value: Tensor, cached: bool) -> None:
    for name, x in (("query", query), ("key", key), ("value", value)):
        if x.dim() != 3 or x.size(2) != embed_dim:
            refuse(name, f"must be [batch, len, {embed_dim}]", shape(x))
    if key.shape != value.shape or key.size(0) != query.size(0):
        refuse(
            "key and value",
            "must have one shape and the batch of query",
            f"{shape(query)}, {shape(key)} and {shape(value)}",
        )
    if key.size(1) != query.size(1):
        remedy = "give the tokens of this step alone" if cached else "attention to another sequence is not dilated"
        refuse("key", f"must have the length of query, {query.size(1)}", key.size(1), remedy)


def check_options(attn_mask: Any, rel_pos: Any) -> None:
    if attn_mask is not None:
        remedy = "is_causal=True is causal attention; torchscale's decoder gives no mask with flash_attention=True"
        refuse("attn_mask", "must be None", type(attn_mask).__name__, remedy)
    if rel_pos is not None:
        remedy = "set rel_pos_buckets and max_rel_pos to 0; xpos_rel_pos=True gives relative positions"
        refuse("rel_pos", "must be None", type(rel_pos).__name__, remedy)


def check_ranks(args: Any, segments: tuple[int, ...], length: int) -> None:
    """torchscale gathers keys from all ranks where a segment is longer than a rank's part of the sequence."""
    if not setting(args, "seq_parallel") or max(segments) <= length:
        return
    ranks = torch.distributed
    if ranks.is_available() and ranks.is_initialized() and ranks.get_world_size() > 1:
        refuse(
            "args.seq_parallel",
            f"must be False where segments are longer than a rank's {length} tokens",
            f"True on {ranks.get_world_size()} ranks with segments of {max(segments)}",
            "give each rank whole sequences",
        )


def lengths_to_honour(mask: Tensor | None, honour: bool, batch: int, length: int) -> Tensor | None:
    """The lengths that the mask says, where it is to be honoured. Where it is not, a mask on a device is not read."""
    if mask is None:
        return None
    if honour:
        return lengths_of(mask.to(torch.bool), batch, length)
    if not torch.compiler.is_compiling() and mask.device.type == "cpu" and bool(mask.any()):
        warnings.warn(
            "longstride: key_padding_mask marks padding, which dilated attention of torchscale attends to, and so does "
            "this; honour_key_padding=True leaves it out",
            stacklevel=4,
        )
    return None
