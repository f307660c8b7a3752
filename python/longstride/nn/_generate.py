"""Text generation with LongNetLM: sampling, and the loop around LongNetLM.decode(). As src/nn/generate.cc."""

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .._refusal import dtype as dtype_name
from .._refusal import refuse, shape
from ._checks import require_positive

if TYPE_CHECKING:
    from ._longnet_lm import LongNetLM


def check_sampling(temperature: float, top_k: int, top_p: float) -> None:
    if not (temperature >= 0 and math.isfinite(temperature)):
        refuse("temperature", "must be finite and not negative", temperature)
    if top_k < 0:
        refuse("top_k", "must be positive, or 0 for all", top_k)
    if not 0 < top_p <= 1:
        refuse("top_p", "must be in (0, 1]", top_p)


def sample_token(
    logits: Tensor, uniform: float, *, temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0
) -> int:
    """One token, given a uniform number in [0, 1): what `generate` does at every step.

    Args:
        logits: [vocab], of any dtype and device.
        uniform: in [0, 1).
        temperature, top_k, top_p: as in `generate`.
    Raises:
        ValueError: options out of range; logits of another shape, that are NaN, or without a finite maximum.
    """
    check_sampling(temperature, top_k, top_p)
    if logits.dim() != 1 or logits.numel() == 0:
        refuse("logits", "must be [vocab]", shape(logits))
    if not 0 <= uniform < 1:
        refuse("uniform", "must be in [0, 1)", uniform)
    row = logits.detach().to("cpu", torch.float64)
    if row.isnan().any():
        refuse("logits", "must not be NaN", "NaN", "the model's weights or input are broken")
    top = row.max()
    if temperature == 0:
        return int((row == top).nonzero()[0])
    if not top.isfinite():
        refuse("logits", "must have a finite maximum", float(top))
    weights = ((row - top) / temperature).exp()
    if 0 < top_k < row.numel() or top_p < 1:
        order = weights.sort(descending=True, stable=True).indices[: top_k or None]  # among equals the smaller first
        if top_p < 1:
            mass = weights[order].cumsum(0)
            order = order[: int((mass < top_p * mass[-1]).sum()) + 1]
        # The draw below goes by token and not by weight: two nearly equal weights that change places would exchange
        # their intervals, and the token would hang on the last bit of a logit.
        kept = torch.zeros_like(weights)
        kept[order] = weights[order]
        weights = kept
    ends = weights.cumsum(0)
    beyond = ((ends > uniform * ends[-1]) & (weights > 0)).nonzero()
    return int(beyond[0] if len(beyond) else weights.nonzero()[-1])


def generate(
    model: "LongNetLM",
    prompt: Tensor,
    *,
    max_tokens: int = 256,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    seed: int | None = None,
    stop_token: int | None = None,
    prefill_tokens: int = 8192,
    on_tokens: Callable[[list[int]], bool | None] | None = None,
) -> Tensor:
    """Tokens that continue a prompt, with a cache of keys and values: a step costs the work of one token.

    Args:
        model: in eval mode.
        prompt: int64 [batch >= 1, len >= 1]; len + max_tokens may not exceed the model's max_len.
        max_tokens: tokens to generate, >= 1.
        temperature: of the softmax; 0: greedy (the largest logit; the smallest token among equals).
        top_k: sample among the k likeliest; 0: all.
        top_p: sample among the likeliest that reach this mass, in (0, 1].
        seed: of sampling, in [0, 2^64); None: drawn from torch's generator. The same seed gives the same tokens, and the
            same that recomputing every step from scratch gives.
        stop_token: a row ends behind it, and is filled with it.
        prefill_tokens: the prompt is read in chunks of this many tokens, which bounds memory.
        on_tokens: called with one token per batch row behind every step; False ends generation.
    Returns:
        int64 [batch, n <= max_tokens], on the CPU.
    Raises:
        ValueError: options out of range, training mode, a prompt that does not fit.
    """
    require_positive("max_tokens", max_tokens)
    check_sampling(temperature, top_k, top_p)
    require_positive("prefill_tokens", prefill_tokens)
    if model.training:
        refuse("model", "must be in eval mode", "training mode", "call eval()")
    if prompt.dim() != 2 or prompt.dtype != torch.int64 or prompt.numel() == 0:
        refuse("prompt", "must be int64 [batch >= 1, len >= 1]", f"{dtype_name(prompt.dtype)} {shape(prompt)}")
    if stop_token is not None and not 0 <= stop_token < model.vocab:
        refuse("stop_token", f"must be in [0, {model.vocab})", stop_token)
    batch, length = prompt.shape
    if length + max_tokens > model.max_len:
        remedy = "ask for fewer tokens or shorten the prompt"
        refuse("len + max_tokens", f"must not exceed max_len {model.max_len}", f"{length} + {max_tokens}", remedy)
    generator = None
    if temperature > 0:
        seed = int(torch.empty((), dtype=torch.int64, device="cpu").random_()) if seed is None else seed
        generator = torch.Generator().manual_seed(seed)
    # The last token is drawn but never read.
    state = model.start_decoding(batch, length + max_tokens - 1)
    for part in prompt.split(prefill_tokens, 1):
        logits = model.decode(part, state)
    steps: list[Tensor] = []
    stopped = [False] * batch
    while True:
        uniform = [0.0] * batch
        if generator is not None:
            uniform = torch.rand(batch, generator=generator, dtype=torch.float64).tolist()
        tokens: list[int] = []
        for b, row in enumerate(logits.cpu()):
            if stopped[b]:
                tokens.append(stop_token)
                continue
            tokens.append(sample_token(row, uniform[b], temperature=temperature, top_k=top_k, top_p=top_p))
            stopped[b] = tokens[-1] == stop_token
        steps.append(torch.tensor(tokens, device="cpu")[:, None])
        going_on = on_tokens is None or on_tokens(tokens) is not False
        if not going_on or all(stopped) or len(steps) == max_tokens:
            return torch.cat(steps, 1)
        logits = model.decode(steps[-1].to(prompt.device), state)
