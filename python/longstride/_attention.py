"""The functions that users call: they write the pattern's text and call the operator."""

import functools
import operator
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypedDict, overload

import torch
from torch import Tensor
from typing_extensions import Unpack

from . import _direct
from ._pattern import Pattern
from ._refusal import refuse

Lengths = Tensor | Sequence[int] | None
# A default of dropout_p that is an integer: torch.compile makes an input of its graph of a float one.
NO_DROPOUT: float = 0


class CallOptions(TypedDict, total=False):
    """What all functions here take, for type checkers: whether return_lse is given decides what they return."""

    cu_seqlens: Lengths
    lengths: Lengths
    scale: float | None
    alibi_slopes: Tensor | None
    query_start: int | None
    dropout_p: float
    dropout_seed: Tensor | None
    deterministic: bool


class ListOptions(CallOptions, total=False):
    """Those of patterns with a list of blocks too."""

    blocks: Tensor | None
    gates: Tensor | None


LIST_OPTIONS = tuple(sorted(ListOptions.__optional_keys__))


class GroupOptions(CallOptions, total=False):
    """Those of dilated_attention too."""

    causal: bool
    head_offset: str
    offsets: Sequence[int] | None
    mixing: str
    average: bool
    padding: str


class WindowOptions(CallOptions, total=False):
    """Those of sliding_window_attention too."""

    sink_tokens: int
    causal: bool


def numbers(given: Lengths) -> Tensor | None:
    """A list of lengths as the operator takes it; a tensor as it is. What holds no integers the operator refuses."""
    if given is None or isinstance(given, Tensor):
        return given
    return torch.tensor(given, dtype=None if len(given) else torch.int64, device="cpu")


@overload
def attention(
    q: Tensor, k: Tensor, v: Tensor, pattern: Pattern | str, *,
    return_lse: Literal[False] = False, **options: "Unpack[ListOptions]",
) -> Tensor: ...
@overload
def attention(
    q: Tensor, k: Tensor, v: Tensor, pattern: Pattern | str, *,
    return_lse: Literal[True], **options: "Unpack[ListOptions]",
) -> tuple[Tensor, Tensor]: ...
@overload
def attention(
    q: Tensor, k: Tensor, v: Tensor, pattern: Pattern | str, *, return_lse: bool, **options: "Unpack[ListOptions]"
) -> Tensor | tuple[Tensor, Tensor]: ...
def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    pattern: Pattern | str,
    *,
    cu_seqlens: Lengths = None,
    lengths: Lengths = None,
    scale: float | None = None,
    alibi_slopes: Tensor | None = None,
    query_start: int | None = None,
    dropout_p: float = NO_DROPOUT,
    dropout_seed: Tensor | None = None,
    deterministic: bool = False,
    blocks: Tensor | None = None,
    gates: Tensor | None = None,
    return_lse: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """Attention of q over the keys that `pattern` shows it: exact, differentiable once in q, k, v, through out and lse.

    out(q) = sum_k m e^(scale q.k) v_k / sum_k m e^(scale q.k), lse(q) = ln sum_k m e^(scale q.k), m being how often the
    pattern shows the pair (docs/semantics.md, after LongNet, arXiv 2307.02486, eq. 10). A query that sees nothing has
    out = 0, lse = -inf and no gradient.

    Args:
        q: [batch, len_q, heads, dim]. float32, bfloat16, float16 or float64; any strides with dim contiguous. Under
            autocast q, k and v are cast as those of scaled_dot_product_attention.
        k, v: [batch, len_k, kv_heads, dim], dtype and device of q; kv_heads divides heads: query head h reads KV head
            h // (heads // kv_heads).
        pattern: a `Pattern`, or its JSON text.
        cu_seqlens: packed documents, 0 = c0 <= c1 <= ... = len_k in tokens, the same in every batch row: int32 or int64
            [documents + 1], or a list. A tensor on a device is read to the host in each call, which waits for it.
        lengths: tokens of each batch row, int32 or int64 [batch], or a list: positions beyond see and are seen by
            nothing. Not together with cu_seqlens.
        scale: of q.k; None: 1 / sqrt(dim). A given 0.0 stays 0.0.
        alibi_slopes: ALiBi (arXiv 2108.12409): float32 [heads], finite (checked on the CPU), of any sign;
            slope_h * |q - k| is taken off the scores of query head h, q and k the positions of query and key. No gradient: slopes that
            require one are refused. `longstride.nn.alibi_slopes(heads)` gives the usual ones.
        query_start: position of query 0 among the keys, in [0, len_k - len_q]; None: len_q must equal len_k.
        dropout_p: of the attention probabilities, in [0, 1).
        dropout_seed: one int64 on q's device, which the dropped pairs follow from; needed iff dropout_p > 0.
            `draw_dropout_seed(q.device)` draws one.
        deterministic: the same bits in every repeat, as under `torch.use_deterministic_algorithms(True)`; on the CPU
            they always are.
        blocks: int32 [rows, 4] (batch row or -1, KV head or -1, query block, key block), on any device: the blocks of a
            pattern's "list" that has none of its own. On q's GPU they are planned there, and nothing waits.
        gates: [rows of blocks], dtype of lse, all 1: multiplies e^score of a block's pairs, and is there for its
            gradient (1 + score - score.detach()).
        return_lse: whether to return (out, lse) in place of out.
    Returns:
        out [batch, len_q, heads, dim], dtype of q; lse [batch, heads, len_q], float32 (float64 for float64 inputs).
    Raises:
        ValueError: before any work, with the argument, what it must be, what it was and what to do.
    """
    call = call_of(
        pattern, cu_seqlens=cu_seqlens, lengths=lengths, scale=scale, alibi_slopes=alibi_slopes, query_start=query_start,
        dropout_p=dropout_p, dropout_seed=dropout_seed, deterministic=deterministic, blocks=blocks, gates=gates,
    )  # fmt: skip
    out, lse = _direct.attention(q, k, v, *call)
    return (out, lse) if return_lse else out


def call_of(
    pattern: Pattern | str,
    *,
    blocks: Tensor | None = None,
    gates: Tensor | None = None,
    alibi_slopes: Tensor | None = None,
    cu_seqlens: Lengths = None,
    lengths: Lengths = None,
    dropout_seed: Tensor | None = None,
    scale: float | None = None,
    query_start: int | None = None,
    dropout_p: float = NO_DROPOUT,
    deterministic: bool = False,
) -> tuple[str, tuple[Tensor | None, ...], dict[str, Any]]:
    """The operator's arguments after q, k and v: the pattern's text, the tensors, the settings that are set."""
    if isinstance(pattern, Pattern):
        text, blocks = pattern.call_arguments(blocks)
    elif isinstance(pattern, str):
        text = pattern
    else:
        refuse("pattern", "must be a Pattern or its JSON text", type(pattern).__name__)
    # What is at its default is not passed: each argument costs on the way to the kernel.
    settings: dict[str, Any] = {}
    if scale is not None:
        settings["scale"] = scale
    if query_start is not None:
        settings["query_start"] = query_start
    if dropout_p != 0:
        settings["dropout_p"] = dropout_p
    if deterministic or torch.are_deterministic_algorithms_enabled():
        settings["deterministic"] = True
    return text, (blocks, gates, alibi_slopes, numbers(cu_seqlens), numbers(lengths), dropout_seed), settings


def constant(value: Any) -> Any:
    """Lists as tuples, which a cache can look up. While a graph is traced, integers that are symbols in it become
    numbers, which it is compiled for."""
    if isinstance(value, (list, tuple)):
        return tuple([constant(one) for one in value])
    if not torch.compiler.is_compiling() or value is None or isinstance(value, (bool, str, float)):
        return value
    if isinstance(value, Mapping):
        return {key: constant(one) for key, one in value.items()}
    return operator.index(value)


def dilated(segment_lengths, dilation_rates, causal, head_offset, offsets, mixing, average, padding) -> Pattern:
    return Pattern.dilated(
        segment_lengths,
        dilation_rates,
        causal=causal,
        head_offset=head_offset,
        offsets=offsets,
        mixing=mixing,
        average=average,
        padding=padding,
    )


# Typed, so that True is not taken for 1: the library refuses it where it wants a number.
kept_dilated = functools.lru_cache(maxsize=256, typed=True)(dilated)


def made_dilated(segment_lengths, dilation_rates, *options) -> Pattern:
    """Patterns of plain integers are kept by them: making one costs as much as the attention of 256 tokens."""
    for given in (segment_lengths, dilation_rates, *options):
        of_integers = type(given) is tuple and all([type(n) is int for n in given])
        if not of_integers and given is not None and type(given) not in (bool, str):
            return dilated(segment_lengths, dilation_rates, *options)
    return kept_dilated(segment_lengths, dilation_rates, *options)


@torch.compiler.assume_constant_result
def traced_dilated(*arguments) -> str:
    return dilated(*arguments).json()


@torch.compiler.assume_constant_result
def traced_block_sparse(rule, block_size, **fields) -> str:
    return Pattern.block_sparse(rule, block_size, **fields).json()


@overload
def dilated_attention(
    q: Tensor, k: Tensor, v: Tensor, segment_lengths: Sequence[int], dilation_rates: Sequence[int], *,
    return_lse: Literal[False] = False, **options: "Unpack[GroupOptions]",
) -> Tensor: ...
@overload
def dilated_attention(
    q: Tensor, k: Tensor, v: Tensor, segment_lengths: Sequence[int], dilation_rates: Sequence[int], *,
    return_lse: Literal[True], **options: "Unpack[GroupOptions]",
) -> tuple[Tensor, Tensor]: ...
@overload
def dilated_attention(
    q: Tensor, k: Tensor, v: Tensor, segment_lengths: Sequence[int], dilation_rates: Sequence[int], *,
    return_lse: bool, **options: "Unpack[GroupOptions]",
) -> Tensor | tuple[Tensor, Tensor]: ...
def dilated_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    segment_lengths: Sequence[int],
    dilation_rates: Sequence[int],
    *,
    causal: bool = False,
    head_offset: str = "modulo",
    offsets: Sequence[int] | None = None,
    mixing: str = "joint",
    average: bool = False,
    padding: str = "masked",
    return_lse: bool = False,
    **options: "Unpack[CallOptions]",
) -> Tensor | tuple[Tensor, Tensor]:
    """LongNet's dilated attention by its own arguments: `attention` with `Pattern.dilated` of these lists.

    Args:
        segment_lengths, dilation_rates, causal, head_offset, offsets, mixing, average, padding: as in
            `Pattern.dilated`.
        q, k, v, **options: as in `attention`.
    Returns:
        What `attention` returns.
    Raises:
        ValueError: what both raise.
    """
    make = traced_dilated if torch.compiler.is_compiling() else made_dilated
    pattern = make(
        constant(segment_lengths),
        constant(dilation_rates),
        causal,
        head_offset,
        None if offsets is None else constant(offsets),
        mixing,
        average,
        padding,
    )
    return attention(q, k, v, pattern, return_lse=return_lse, **options)


@overload
def block_sparse_attention(
    q: Tensor, k: Tensor, v: Tensor, rule: str, block_size: int, *, return_lse: Literal[False] = False, **options: Any
) -> Tensor: ...
@overload
def block_sparse_attention(
    q: Tensor, k: Tensor, v: Tensor, rule: str, block_size: int, *, return_lse: Literal[True], **options: Any
) -> tuple[Tensor, Tensor]: ...
@overload
def block_sparse_attention(
    q: Tensor, k: Tensor, v: Tensor, rule: str, block_size: int, *, return_lse: bool, **options: Any
) -> Tensor | tuple[Tensor, Tensor]: ...
def block_sparse_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    rule: str,
    block_size: int,
    *,
    causal: bool = False,
    return_lse: bool = False,
    **fields: Any,
) -> Tensor | tuple[Tensor, Tensor]:
    """Block-sparse attention by one rule of blocks: `attention` with `Pattern.block_sparse`.

    Args:
        rule, block_size, causal, and the rule's fields: as in `Pattern.block_sparse`; a union of rules is a `Pattern`,
            for `attention`.
        q, k, v, and `attention`'s options among the fields: as there; `blocks` are those of the rule "list".
    Returns:
        What `attention` returns.
    Raises:
        ValueError: what both raise.
    """
    options = {name: fields.pop(name) for name in LIST_OPTIONS if name in fields}
    make = traced_block_sparse if torch.compiler.is_compiling() else Pattern.block_sparse
    pattern = make(rule, constant(block_size), causal=causal, **{name: constant(v) for name, v in fields.items()})
    return attention(q, k, v, pattern, return_lse=return_lse, **options)


@overload
def sliding_window_attention(
    q: Tensor, k: Tensor, v: Tensor, left: int | None = None, right: int | None = None, *,
    return_lse: Literal[False] = False, **options: "Unpack[WindowOptions]",
) -> Tensor: ...
@overload
def sliding_window_attention(
    q: Tensor, k: Tensor, v: Tensor, left: int | None = None, right: int | None = None, *,
    return_lse: Literal[True], **options: "Unpack[WindowOptions]",
) -> tuple[Tensor, Tensor]: ...
@overload
def sliding_window_attention(
    q: Tensor, k: Tensor, v: Tensor, left: int | None = None, right: int | None = None, *,
    return_lse: bool, **options: "Unpack[WindowOptions]",
) -> Tensor | tuple[Tensor, Tensor]: ...
def sliding_window_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    left: int | None = None,
    right: int | None = None,
    *,
    sink_tokens: int = 0,
    causal: bool = False,
    return_lse: bool = False,
    **options: "Unpack[CallOptions]",
) -> Tensor | tuple[Tensor, Tensor]:
    """Attention within a window by token: `attention` with `Pattern.sliding_window`.

    Args:
        left, right, sink_tokens, causal: as in `Pattern.sliding_window`.
        q, k, v, **options: as in `attention`.
    Returns:
        What `attention` returns.
    Raises:
        ValueError: what both raise.
    """
    sides = {name: constant(side) for name, side in (("left", left), ("right", right)) if side is not None}
    return block_sparse_attention(
        q,
        k,
        v,
        "sliding_window",
        1,
        causal=causal,
        **sides,
        sink_tokens=constant(sink_tokens),
        return_lse=return_lse,
        **options,
    )
