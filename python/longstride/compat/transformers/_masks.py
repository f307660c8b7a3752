"""The mask function: what a model's masks say, read once a forward and handed to its layers with the mask.

A layer gets one of three things as its attention_mask:

    None                        nothing is hidden beyond the pattern
    bool [batch, keys]          True where a key is a token; static caches hold more keys, which are no tokens yet
    int32 [documents + 1]       bounds of packed rows, of all rows one after the other, on the CPU
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers.masking_utils import bidirectional_mask_function, causal_mask_function

from ..._refusal import refuse, shape

CUSTOM = "must hide nothing but padding, other documents and what lies beyond a sliding window"
AT_ENDS = "must mark padding at the ends of rows alone"
OTHER = "use another attn_implementation"


class Rows(NamedTuple):
    """Where each row of a padding mask has its tokens."""

    starts: tuple[int, ...]
    lengths: tuple[int, ...]
    keys: int

    @property
    def whole(self) -> bool:
        """Whether no row has padding."""
        return all(length == self.keys for length in self.lengths)


def read(mask: Tensor) -> Rows:
    """Reads the mask to the host, which waits for a device."""
    keys = mask.size(1)
    if mask.numel() == 0:
        return Rows((0,) * mask.size(0), (0,) * mask.size(0), keys)
    number = mask.to(torch.int8)
    first, last = number.argmax(1), keys - 1 - number.flip(1).argmax(1)
    starts, ends, lengths = torch.stack([first, last + 1, mask.sum(1)]).tolist()
    for row, (start, end, length) in enumerate(zip(starts, ends, lengths)):
        if length not in (0, end - start):
            got = f"{end - start - length} of it between tokens of row {row}"
            remedy = "pad prompts on the left, and rows that have padding within on their own"
            refuse("attention_mask", AT_ENDS, got, remedy)
    starts = [start if length else 0 for start, length in zip(starts, lengths)]
    return Rows(tuple(starts), tuple(lengths), keys)


def attach(mask: Tensor, rows: Rows | None, window: int | None) -> Tensor:
    """What was read goes with the tensor, so that it is read once a forward and not in each layer."""
    mask._longstride = (rows, window)
    return mask


def rows_of(mask: Tensor) -> Rows:
    """What mask() has read; read again where the tensor is another one, on another device for one."""
    rows, _ = getattr(mask, "_longstride", (None, None))
    return read(mask) if rows is None else rows


def split_window(mask: Tensor | None) -> tuple[Tensor | None, int | None]:
    """A layer's mask and the sliding window that it was made for: not all models tell their layers of it."""
    if mask is None:
        return None, None
    if mask.dim() == (3 if mask.dtype == torch.bool else 2):  # by sized_by()
        return mask[..., 0], mask.size(-1)
    return mask, None if torch.compiler.is_compiling() else getattr(mask, "_longstride", (None, None))[1]


def sized_by(mask: Tensor, window: int | None) -> Tensor:
    """In a graph a tensor carries no attribute: the window is the size of a further dimension."""
    return mask if window is None else mask.unsqueeze(-1).expand(*mask.shape, window)


def bounds(begins: Tensor) -> Tensor:
    """cu_seqlens of documents that begin where begins [batch, len] is True; every row begins one."""
    begins = torch.cat([torch.ones_like(begins[:, :1]), begins[:, 1:]], 1).flatten()
    place = torch.arange(begins.size(0) + 1, dtype=torch.int32, device=begins.device)
    if torch.compiler.is_compiling():
        # Of a size that does not depend on values: every token has an entry, most documents are empty.
        first = torch.where(begins, place[:-1], 0).cummax(0).values
    else:
        first = place[:-1][begins]
    return torch.cat([first, place[-1:]]).to(torch.int32).cpu()


def beginnings(mask_function: Callable, batch: int, length: int, first: Any, device: Any) -> Tensor:
    """Where documents of packed rows begin, [batch, length], from what the model's own mask shows of neighbours.

    transformers composes a mask of functions of (row, head, query, key). Asked of the pairs (i + 1, i) and (i, i + 1)
    they say where documents begin, and whether tokens see later ones.
    """
    position = (torch.arange(length, device=device) + first).view(1, 1, -1, 1)
    row = torch.arange(batch, device=device).view(-1, 1, 1, 1)
    earlier, later = position[:, :, :-1], position[:, :, 1:]
    back, ahead = (
        mask_function(row, torch.zeros_like(row[:1]), *pair).expand(batch, 1, -1, 1).flatten(1)
        for pair in ((later, earlier), (earlier, later))
    )
    mixed = ahead.any() & ~ahead.all()
    if torch.compiler.is_compiling():
        torch._assert_async(~mixed, f"the model's mask {CUSTOM}")
    elif mixed:
        refuse("the model's mask", CUSTOM, "blocks of tokens that see later ones", OTHER)
    return torch.nn.functional.pad(~back, (1, 0))


def window_of(local_size: int | None, keys: int, config: Any, both_ways: bool) -> int | None:
    """The sliding window of a mask, a token itself included; None for chunks that are longer than the text."""
    chunk = getattr(config, "attention_chunk_size", None)
    if local_size is None or local_size != chunk or local_size == getattr(config, "sliding_window", None):
        return local_size + 1 if both_ways and local_size is not None else local_size
    if keys > chunk:
        refuse("the model's mask", CUSTOM, f"chunks of {chunk} tokens and {keys} keys", OTHER)
    return None


def trimmed(given: Tensor, total: int, kv_length: int) -> Tensor:
    """The columns of a padding mask that are of a layer's keys; total: tokens so far, with those of this forward."""
    if given.size(1) < min(total, kv_length):
        wanted = f"must have a column for each of {total} tokens, those in the cache too"
        refuse("attention_mask", wanted, shape(given))
    if given.size(1) > total and not given[:, total:].any():  # as wide as a static cache
        given = given[:, :total]
    # Sliding caches keep the last keys alone. A tensor of our own, which does not change after this forward.
    return given[:, -kv_length:].contiguous()


def traced_mask(given: Tensor | None, batch: int, total: Any, kv: tuple, window: int | None, device: Any) -> Any:
    """In a graph no value is read: the mask as it is. `total` may be a tensor, and is asked where no shape says it."""
    kv_length, kv_offset = kv
    if given is not None:
        if given.size(1) >= kv_length and given.size(1) > int(total):
            refuse("attention_mask", f"must have a column for each of {int(total)} tokens in a graph", shape(given))
        return sized_by(given[:, -kv_length:], window)
    keys = int(total) - kv_offset
    if window is None and keys == kv_length:
        return None
    return sized_by(torch.ones(batch, keys, dtype=torch.bool, device=device), window)


def mask(
    batch_size: int,
    q_length: int,
    kv_length: int,
    q_offset: Any = 0,
    kv_offset: int = 0,
    mask_function: Callable = causal_mask_function,
    attention_mask: Tensor | None = None,
    local_size: int | None = None,
    use_vmap: bool = False,
    config: Any = None,
    device: Any = "cpu",
    allow_is_bidirectional_skip: bool | None = None,
    **of_other_masks: Any,
) -> Tensor | None:
    """transformers' mask function for longstride, called as transformers.masking_utils.sdpa_mask is.

    Raises:
        ValueError: a mask that hides more than padding at the ends of rows, other documents and what a window hides.
    """
    if use_vmap:
        refuse("the model's mask", CUSTOM, "an or_mask_function or and_mask_function", OTHER)
    both_ways = allow_is_bidirectional_skip is not None  # given by transformers with masks that are not causal alone
    window = window_of(local_size, kv_length + kv_offset, config, both_ways)
    if attention_mask is not None and attention_mask.dim() != 2:
        refuse("attention_mask", "must be [batch, keys]", shape(attention_mask))
    tracing = torch.compiler.is_compiling()
    if q_length > 1 and mask_function is not causal_mask_function and mask_function is not bidirectional_mask_function:
        begins = beginnings(mask_function, batch_size, q_length, q_offset, device)
        if attention_mask is None and tracing and kv_length == q_length:
            return sized_by(bounds(begins), window)
        if attention_mask is None and begins.any():
            return attach(bounds(begins), None, window)
    if tracing:
        return traced_mask(attention_mask, batch_size, q_offset + q_length, (kv_length, kv_offset), window, device)
    total = int(q_offset) + q_length
    if attention_mask is None:
        keys = total - kv_offset
        if keys != kv_length and both_ways:
            refuse("keys", f"must be those of the queries' own sequence, {keys}", kv_length, OTHER)
        if keys == kv_length and window is None:
            return None
        made = torch.ones(batch_size, keys, dtype=torch.bool, device=device)
        return attach(made, Rows((0,) * batch_size, (keys,) * batch_size, keys), window)
    made = trimmed(attention_mask, total, kv_length)
    rows = read(made)
    return None if rows.whole and rows.keys == kv_length and window is None else attach(made, rows, window)
