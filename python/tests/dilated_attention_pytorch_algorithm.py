"""dilated-attention-pytorch's modules as they say what they are, step by step in plain torch, from their state_dict.

Attention without the faults that docs/coming_from_dilated_attention_pytorch.md lists: each head is in one group, whose
rows offset, offset + rate, ... of every segment attend to each other; the rest is 0; divided by the number of groups.
"""

import math

import torch
import torch.nn.functional as F


def attention(q, k, v, segments, rates, causal=False, scale=None):
    """q, k, v [batch, len, heads, dim]; any length."""
    groups, heads, first = len(segments), q.size(2), 0
    out = torch.zeros_like(q)
    for i, (w, r) in enumerate(zip(segments, rates)):
        count = heads // groups + (i < heads % groups)
        for begin in range(0, q.size(1), w):
            rows = torch.arange(begin + i % r, min(begin + w, q.size(1)), r)
            mine, keys, values = (t[:, rows, first : first + count].transpose(1, 2) for t in (q, k, v))
            scores = mine @ keys.transpose(2, 3) * (1 / math.sqrt(q.size(3)) if scale is None else scale)
            if causal:
                scores = scores.masked_fill(torch.ones(len(rows), len(rows), dtype=torch.bool).triu(1), -math.inf)
            out[:, rows, first : first + count] = (scores.softmax(-1) @ values).transpose(1, 2)
        first += count
    return out / groups


class Weights:
    """A state_dict, and a prefix of it."""

    def __init__(self, state, prefix=""):
        self.state, self.prefix = state, prefix

    def __getitem__(self, name):
        return Weights(self.state, f"{self.prefix}{name}.")

    def __contains__(self, name):
        return f"{self.prefix}{name}.weight" in self.state

    def parameter(self, name):
        return self.state.get(f"{self.prefix}{name}")

    def linear(self, x):
        return F.linear(x, self.parameter("weight"), self.parameter("bias"))

    def norm(self, x):
        return F.layer_norm(x, x.shape[-1:], self.parameter("weight"), self.parameter("bias"))


def multihead(w, x, memory, heads, groups, causal=False, norms_of_qk=True, norm_of_out=True):
    """Any form: one q/k/v projection or three; `norm`, or `q_ln` and `k_ln`, or none."""
    if "qkv_proj" in w:
        q, k, v = w["qkv_proj"].linear(x), *w["qkv_proj"].linear(memory).chunk(3, -1)[1:]
        q = q.chunk(3, -1)[0]
    else:
        q, k, v = w["q_proj"].linear(x), w["k_proj"].linear(memory), w["v_proj"].linear(memory)
    if "q_ln" in w and norms_of_qk:
        q, k = w["q_ln"].norm(q), w["k_ln"].norm(k)
    out = attention(*(t.unflatten(2, (heads, -1)) for t in (q, k, v)), *groups, causal).flatten(2)
    for name in ("norm", "q_ln"):
        if name in w and norm_of_out:
            out = w[name].norm(out)
    return w["out_proj"].linear(out)


def feed_forward(w, x, before, between, activation):
    return w["linear2"].linear(w[between].norm(activation(w["linear1"].linear(w[before].norm(x)))))


def encoder_layer(w, x, heads, groups, causal=False, activation=F.relu):
    y = w["norm1"].norm(x)
    x = x + multihead(w["self_attn"], y, y, heads, groups, causal)
    return x + feed_forward(w, x, "norm2", "norm3", activation)


def decoder_layer(w, x, memory, heads, groups, causal=False, memory_causal=False, activation=F.relu):
    y = w["norm1"].norm(x)
    x = x + multihead(w["self_attn"], y, y, heads, groups, causal)
    x = x + multihead(w["multihead_attn"], w["norm2"].norm(x), memory, heads, groups, memory_causal)
    return x + feed_forward(w, x, "norm3", "norm4", activation)


def long_net(w, x, heads, groups, layers, causal=True):
    memory = x
    for i in range(layers):
        memory = encoder_layer(w[f"encoder.layers.{i}"], memory, heads, groups, causal)
    for i in range(layers):
        x = decoder_layer(w[f"decoder.layers.{i}"], x, memory, heads, groups, causal, causal)
    return x


def positions(x, origin):
    """torchscale's xPos over embeddings [batch, len, width], its scale counted from `origin`."""
    n, width = torch.arange(x.size(1), dtype=x.dtype)[:, None], x.size(2)
    pair = torch.arange(0, width, 2, dtype=x.dtype)
    scale = ((pair + 0.4 * width) / (1.4 * width)) ** ((n - origin) / 512)
    angle = n * 10000.0 ** (-pair / width)
    cos, sin = angle.cos() * scale, angle.sin() * scale
    even, odd = x[..., ::2], x[..., 1::2]
    return torch.stack((even * cos - odd * sin, odd * cos + even * sin), -1).flatten(-2)


def long_net_lm(w, tokens, heads, groups, layers, origin, causal=True):
    x = F.embedding(tokens, w["token_embedding"].parameter("weight"))
    x = long_net(w["long_net"], x + positions(x, origin), heads, groups, layers, causal)
    return w["out"].linear(w["norm"].norm(x))
