"""attention_weights: the probabilities themselves, for a look at short sequences."""

import json
import math

import torch
from torch import Tensor

from ._attention import ListOptions, Unpack, call_of
from ._pattern import Pattern, text_of
from ._refusal import refuse
from ._registration import refuse_gradients

MOST_WEIGHTS = 2**26  # as in C++: 256 MiB in float32
LEAST_COLUMNS = 128  # keys a call: fewer would be more calls, and the engines' tiles are made for that many


def alone(pattern: Pattern | str) -> Pattern:
    """The pattern without `average`, which divides results and is no part of the weights."""
    given = pattern if isinstance(pattern, Pattern) else Pattern.from_json(pattern)
    data = json.loads(given.json())
    dilated = data.get("dilated", {})
    if dilated.get("padding") == "zero_keys" and not data["causal"]:
        refuse("padding", "must be 'masked' for weights: phantom keys have no column", "'zero_keys'")
    if dilated.pop("average", False):
        return Pattern(text_of(data))
    return given


def attention_weights(
    q: Tensor,
    k: Tensor,
    pattern: Pattern | str,
    **options: "Unpack[ListOptions]",
) -> Tensor:
    """P(q, k) = m e^(score - lse) of every pair, 0 where nothing is seen. The C++ function of this name; no gradient.

    The operator itself is asked, as by `Pattern.mask`: a query's result over values that are rows of the identity is its
    row of weights, which adds up to 1, or the query sees nothing.

    Args:
        q, k, pattern, **options: as in `attention`, without dropout and gates. bfloat16 and float16 are computed in
            float32.
    Returns:
        [batch, heads, len_q, len_k], dtype of lse: float32, float64 for float64. At most 2^26 weights.
    Raises:
        ValueError: what `attention` raises; more than 2^26 weights; zero_keys padding (unless causal), whose phantom keys
            have no column.
    """
    pattern = alone(pattern)
    text, tensors, settings = call_of(pattern, **options)
    if "dropout_p" in settings:
        remedy = "leave it out: weights are those that dropout has not touched"
        refuse("dropout_p", "must be 0 for weights", settings["dropout_p"], remedy)
    if options.get("gates") is not None:
        refuse("gates", "must be None for weights", "gates", "leave them out: they are all 1")
    refuse_gradients(tensors)
    call = torch.ops.longstride.attention
    with torch.no_grad(), torch.autocast("cpu", enabled=False), torch.autocast("cuda", enabled=False):
        # What is wrong with these arguments is said of them, and not of those below.
        _, lse = call(q, k, k, text, *tensors, **settings)
        batch, len_k, kv_heads, dim = k.shape
        if lse.numel() * len_k > MOST_WEIGHTS:
            count = " x ".join(map(str, (*lse.shape, len_k)))
            refuse("len", f"must give at most {MOST_WEIGHTS} weights", count, "take fewer heads or tokens")
        columns = max(dim, LEAST_COLUMNS)
        # Zeros beside a row leave its products as they are.
        q, k = (torch.nn.functional.pad(t.to(lse.dtype), (0, columns - dim)) for t in (q, k))
        settings.setdefault("scale", 1 / math.sqrt(dim))
        weights = lse.new_empty(*lse.shape, len_k)
        for first in range(0, len_k, columns):
            last = min(first + columns, len_k)
            v = lse.new_zeros(len_k, columns)
            v[first:last, : last - first].fill_diagonal_(1)
            v = v.view(1, len_k, 1, columns).expand(batch, len_k, kv_heads, columns)
            out, _ = call(q, k, v, text, *tensors, **settings)
            weights[..., first:last] = out[..., : last - first].transpose(1, 2)
    return weights
