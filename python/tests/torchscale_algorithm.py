"""LongNet as torchscale computes it, step by step in plain torch, written from the description: per group the sampled
rows of each zero-padded segment are gathered, attend densely, are scattered, and the groups are mixed by their lse.

autograd differentiates all of it, the mixing too, which torchscale takes for constant (`mixing_is_constant`).
"""

import math

import torch
import torch.nn.functional as F


def one_group(q, k, v, segment, rate, causal):
    """(out [batch, len, heads, dim], lse [batch, len, heads]): zeros and -inf where the group does not sample."""
    batch, n, heads, dim = q.shape
    segment = min(segment, n)
    starts = torch.arange(0, n, segment)[:, None]
    samples = math.ceil(segment / rate)
    share = math.ceil(heads / rate)  # heads with one offset
    outs, lses = [], []
    for head in range(heads):
        place = head // share + rate * torch.arange(samples)
        at = starts + place  # [segments, samples]
        real = (place < segment) & (at < n)
        at = at.clamp(max=n - 1)
        sampled = [torch.where(real[..., None], x[:, at, head], x.new_zeros(())) for x in (q, k, v)]
        scores = sampled[0] @ sampled[1].transpose(-1, -2) / math.sqrt(dim)
        if causal:
            scores = scores.masked_fill(torch.ones(samples, samples, dtype=torch.bool).triu(1), -math.inf)
        rows = at[real]
        out = (scores.softmax(-1) @ sampled[2])[:, real]
        outs.append(q.new_zeros(batch, n, dim).index_copy(1, rows, out))
        lses.append(q.new_full((batch, n), -math.inf).index_copy(1, rows, scores.logsumexp(-1)[:, real]))
    return torch.stack(outs, 2), torch.stack(lses, 2)


def dilated(q, k, v, segments, rates, causal=False, mixing_is_constant=False):
    """q, k, v [batch, len, heads, dim] -> out. Every row is sampled by some group of its head, or its out is 0."""
    groups = [one_group(q, k, v, *group, causal) for group in zip(segments, rates)]
    lse = torch.stack([lse for _, lse in groups])
    seen = lse > -math.inf
    lse = torch.where(seen, lse, -1e8)
    weights = torch.where(seen, lse.softmax(0), 0)
    if mixing_is_constant:
        weights = weights.detach()
    return sum(weight[..., None] * out for weight, (out, _) in zip(weights, groups))


def xpos(x, scale_base, down):
    """x [batch, len, heads, dim] rotated by its position n and scaled by xPos, n counted from the middle."""
    n, dim = x.size(1), x.size(3)
    pair = torch.arange(0, dim, 2, dtype=x.dtype)
    angle = torch.arange(n, dtype=x.dtype)[:, None] * 10000.0 ** (-pair / dim)
    power = (torch.arange(n, dtype=x.dtype) - n // 2)[:, None] / scale_base
    scale = ((pair + 0.4 * dim) / (1.4 * dim)) ** (-power if down else power)
    cos, sin = (f(angle)[:, None] * scale[:, None] for f in (torch.cos, torch.sin))
    even, odd = x[..., ::2], x[..., 1::2]
    return torch.stack((even * cos - odd * sin, odd * cos + even * sin), -1).flatten(-2)


def attend(state, x, heads, segments, rates, causal=False, xpos_base=None, split=-1, mixing_is_constant=False):
    """The whole module over x [batch, len, width], from its state_dict; multiway ones split at `split`."""

    def ways(name):
        plain = f"{name}.weight" in state
        names = [name] if plain else [f"{name}.A", f"{name}.B"]
        return [(state[f"{one}.weight"], state[f"{one}.bias"]) for one in names]

    def parted(apply, name, t):
        of = ways(name)
        if len(of) == 1 or split == -1:
            return apply(t, *of[0])
        return torch.cat([apply(t[:, :split], *of[0]), apply(t[:, split:], *of[1])], 1)

    q, k, v = (parted(F.linear, f"{name}_proj", x).unflatten(2, (heads, -1)) for name in "qkv")
    if xpos_base is not None:
        q, k = xpos(q, xpos_base, False), xpos(k, xpos_base, True)
    out = dilated(q, k, v, segments, rates, causal, mixing_is_constant).flatten(2)
    if any(name.startswith("inner_attn_ln") for name in state):
        out = parted(lambda t, w, b: F.layer_norm(t, t.shape[-1:], w, b, 1e-5), "inner_attn_ln", out)
    return parted(F.linear, "out_proj", out)
