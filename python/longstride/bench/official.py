"""LongNet's published algorithm in plain torch, in the steps of its official implementation, torchscale.

Group by group the sampled rows of each segment are gathered by a diagonal, attend densely, and are scattered into dense
tensors, which are mixed by their lse. The mixing weights are constants to the gradient, as they are there.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

# Torch's flash attention, which returns lse too, by device.
CPU_ATTENTION = "_scaled_dot_product_flash_attention_for_cpu"
# lse of rows that a group does not sample.
NOTHING = -1e8


def refusal(segment_lengths: Sequence[int], dilation_rates: Sequence[int], n: int, padding: str) -> str:
    """Why the algorithm would compute another sum than the pattern says, or "": it pads with zeros and attends to them."""
    if padding == "zero_keys":
        return ""
    for segment, rate in zip(segment_lengths, dilation_rates):
        segment = min(segment, n)
        if n % segment:
            return f"segment {segment} does not divide {n} tokens: it attends to its padding (--padding zero_keys does too)"
        if segment % rate:
            return f"segment {segment} is no multiple of rate {rate}: it attends to its padding (--padding zero_keys does too)"
    return ""


def dense(q: Tensor, k: Tensor, v: Tensor, causal: bool) -> tuple[Tensor, Tensor]:
    """q, k, v [rows, heads, samples, dim] -> (out, lse [rows, heads, samples])."""
    if q.device.type == "cpu":
        return getattr(torch.ops.aten, CPU_ATTENTION)(q, k, v, 0.0, causal)
    if q.dtype in (torch.float16, torch.bfloat16):
        out, lse, *_ = torch.ops.aten._scaled_dot_product_flash_attention(q, k, v, 0.0, causal)
        return out, lse
    out, lse, *_ = torch.ops.aten._scaled_dot_product_efficient_attention(q, k, v, None, True, 0.0, causal)
    return out, lse[..., : q.size(2)]


class Split:
    """How the heads of a group fall into residues: padded to `share` heads for each of `rate` residues. Head h samples
    residue h mod rate ("modulo") or h // share ("block")."""

    def __init__(self, shape: torch.Size, segment: int, rate: int, rule: str):
        self.batch, self.n, self.heads, self.dim = shape
        self.segment, self.rate, self.modulo = segment, rate, rule == "modulo"
        self.share = math.ceil(self.heads / rate)
        self.segments = math.ceil(self.n / segment)
        self.samples = math.ceil(segment / rate)
        self.missing = self.share * rate - self.heads

    def gathered(self, x: Tensor) -> Tensor:
        """[batch, len, heads, dim] -> [batch * segments, heads, samples, dim]."""
        x = F.pad(x, (0, 0, 0, self.missing, 0, self.segments * self.segment - self.n))
        x = x.reshape(self.batch * self.segments, self.segment, -1, self.dim)
        x = F.pad(x, (0, 0, 0, 0, 0, self.samples * self.rate - self.segment))
        heads = (self.share, self.rate) if self.modulo else (self.rate, self.share)
        x = x.reshape(-1, self.samples, self.rate, *heads, self.dim)
        own = x.diagonal(0, 2, 4 if self.modulo else 3)  # [rows, samples, share, dim, rate]
        own = own.permute((0, 1, 2, 4, 3) if self.modulo else (0, 1, 4, 2, 3))
        own = own.reshape(-1, self.samples, self.share * self.rate, self.dim)
        return own[:, :, : self.heads].transpose(1, 2)

    def scattered(self, x: Tensor) -> Tensor:
        """[batch * segments, heads, samples, width] -> [batch, heads, len, width], zero where a head has no sample."""
        width = x.size(3)
        x = F.pad(x.transpose(1, 2), (0, 0, 0, self.missing))
        if self.modulo:
            x = x.reshape(-1, self.samples, self.share, self.rate, width).transpose(3, 4)
        else:
            x = x.reshape(-1, self.samples, self.rate, self.share, width).permute(0, 1, 3, 4, 2)
        x = torch.diag_embed(x)  # [rows, samples, share, width, rate (row), rate (residue)]
        x = x.permute((0, 2, 5, 1, 4, 3) if self.modulo else (0, 5, 2, 1, 4, 3))
        x = x.reshape(-1, self.share * self.rate, self.samples * self.rate, width)[:, : self.heads, : self.segment]
        x = x.reshape(self.batch, self.segments, self.heads, self.segment, width).transpose(1, 2)
        return x.reshape(self.batch, self.heads, -1, width)[:, :, : self.n]


def official(
    q: Tensor, k: Tensor, v: Tensor, segment_lengths: Sequence[int], dilation_rates: Sequence[int], causal: bool, rule: str
) -> Tensor:
    """q, k, v [batch, len, heads, dim] -> out; every row is sampled by some group of its head, or its out is 0."""
    outs, lses = [], []
    for segment, rate in zip(segment_lengths, dilation_rates):
        split = Split(q.shape, min(segment, q.size(1)), rate, rule)
        out, lse = dense(split.gathered(q), split.gathered(k), split.gathered(v), causal)
        outs.append(split.scattered(out))
        with torch.no_grad():
            lse = split.scattered(lse[..., None])
            lses.append(lse.masked_fill(lse == 0, NOTHING))
    with torch.no_grad():
        top = torch.stack(lses).amax(0)
        weights = [(lse - top).exp() for lse in lses]
        total = torch.stack(weights).sum(0)
        weights = [weight / total for weight in weights]
    mixed, *others = [out * weight.to(out.dtype) for out, weight in zip(outs, weights)]
    for other in others:
        mixed = mixed + other
    return mixed.transpose(1, 2)
