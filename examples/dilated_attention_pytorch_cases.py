"""Where dilated-attention-pytorch (fkodom's, and the larger fork of its name) computes something else than it says.

    python examples/dilated_attention_pytorch_cases.py

For each case: a number of its algorithm, written here from its description in plain torch; the right number; and that of
longstride.compat.dilated_attention_pytorch. The cases are explained in docs/coming_from_dilated_attention_pytorch.md.
"""

import torch
import torch.nn.functional as F

from longstride.compat import dilated_attention_pytorch as here
from longstride.compat.dilated_attention_pytorch.dilated_attention import DilatedAttention
from longstride.compat.dilated_attention_pytorch.long_net import XPOS, LongNet


def tensors(length, heads, dim=8, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(1, length, heads, dim, generator=generator, dtype=torch.float64) for _ in range(3)]


def original(q, k, v, segments, rates, causal=False, divides=True, takes_ranges=False):
    """The original line's DilatedAttention: softmax_scale and attention_dropout do not reach it.

    divides: by the sum over the sequence. takes_ranges: heads in ranges that follow each other; there range i begins at
    i times its own size.
    """
    groups, heads = len(segments), q.size(2)
    sizes = [heads // groups + (i < heads % groups) for i in range(groups)]
    out = torch.zeros_like(q)
    for i, (w, r) in enumerate(zip(segments, rates)):
        first = sum(sizes[:i]) if takes_ranges else i * sizes[i]
        rows = slice(i % r, None, r)
        part = [t.unflatten(1, (-1, w))[:, :, rows, first : first + sizes[i]].transpose(2, 3) for t in (q, k, v)]
        x = F.scaled_dot_product_attention(*part, is_causal=causal).transpose(2, 3)
        if divides:
            x = x / x.sum((1, 2), keepdim=True)
        out.unflatten(1, (-1, w))[:, :, rows, first : first + sizes[i]] += x
    return out / groups


def right(q, k, v, segments, rates, causal=False):
    return original(q, k, v, segments, rates, causal, divides=False, takes_ranges=True)


def over_heads(q, k, v):
    """The fork's ImprovedDilatedAttention, one group at rate 1: [batch, len, heads, dim] goes to a function that attends
    over its last dimension but one."""
    return F.scaled_dot_product_attention(q, k, v)


def block_by_block(q, k, v, b, pairs):
    """The fork's block-sparse classes: each active pair of blocks has a softmax of its own, and they are added up."""
    out = torch.zeros_like(q)
    for i, j in pairs:
        mine, other = slice(i * b, (i + 1) * b), slice(j * b, (j + 1) * b)
        part = [t.transpose(1, 2) for t in (q[:, mine], k[:, other], v[:, other])]
        out[:, mine] += F.scaled_dot_product_attention(*part).transpose(1, 2)
    return out


def their_dilated_sparse(nb, rates):
    """The fork's pairs of "dilated_sparse": the diagonal, and one block at each rate to both sides."""
    distances = {0, *rates[:3], *(-r for r in rates[:3])}
    return [(i, i + d) for i in range(nb) for d in distances if 0 <= i + d < nb]


def their_positions(x):
    """torchscale's xPos over embeddings [batch, len, width], the scale counted from the middle, in the dtype of x."""
    n, width = x.size(1), x.size(2)
    pair = torch.arange(0, width, 2)
    scale = (((pair + 0.4 * width) / (1.4 * width)) ** ((torch.arange(n) - (n + 1) // 2) / 512)[:, None]).to(x.dtype)
    angle = torch.arange(n)[:, None] * 10000.0 ** (-pair / width)
    cos, sin = angle.cos().to(x.dtype) * scale, angle.sin().to(x.dtype) * scale
    even, odd = x[..., ::2], x[..., 1::2]
    return torch.stack((even * cos - odd * sin, odd * cos + even * sin), -1).flatten(-2)


def far(a, b):
    return (a - b).abs().max().item()


def cases():
    """(case, number there, right number, number here)."""
    q, k, v = tensors(64, 2)
    ones, one_group = torch.ones_like(v), ([64], [1])
    ours = DilatedAttention(*one_group)
    yield "mean of values that are all 1", original(q, k, ones, *one_group).max(), 1, ours(q, k, ones).max()
    wide = tensors(64, 8, 32)
    there, true = original(*wide, *one_group).abs().max(), right(*wide, *one_group).abs().max()
    yield f"largest |out| of values up to {wide[2].abs().max():.3g}", there, true, ours(*wide).abs().max()
    later = v.clone()
    later[:, -1] += 1
    there = far(*(original(q, k, values, *one_group, causal=True)[:, 0] for values in (v, later)))
    moved = far(*(ours(q, k, values, is_causal=True)[:, 0] for values in (v, later)))
    yield "causal: change of out[0] by the last value", there, 0, moved

    many, groups = tensors(64, 12), ([64] * 5, [1] * 5)

    def unwritten(out):
        return (out.abs().amax((0, 1, 3)) == 0).sum()

    there = unwritten(original(*many, *groups, divides=False))
    yield "12 heads, 5 groups: heads that stay 0", there, unwritten(right(*many, *groups)), unwritten(
        DilatedAttention(*groups)(*many)
    )
    scaled = DilatedAttention(*one_group, softmax_scale=0.01)
    true = far(F.scaled_dot_product_attention(*(t.transpose(1, 2) for t in (q, k, v)), scale=0.01),
               right(q, k, v, *one_group).transpose(1, 2))  # fmt: skip
    yield "softmax_scale 0.01: change of out", 0, true, far(scaled(q, k, v), ours(q, k, v))
    torch.manual_seed(0)
    dropped = DilatedAttention(*one_group, attention_dropout=0.5)
    kept = (dropped(q, k, ones).mean() - 1).abs() > 1e-3  # of the kept probabilities' sum, by the draw
    yield "attention_dropout 0.5 in training: 1 if it drops", 0, 1, kept.int()

    single = tensors(64, 1)
    there = far(over_heads(*single), single[2])
    true, mine = far(right(*single, *one_group), single[2]), here.ImprovedDilatedAttention(*one_group)(*single)
    yield "Improved, one head: distance of out from v", there, true, far(mine, single[2])
    b, nb = 8, 8
    window = [(i, j) for i in range(nb) for j in range(nb) if abs(i - j) <= 1]
    sparse = here.BlockSparseRingDilatedAttention(
        *one_group, {"pattern_type": "local_window", "block_size": b, "local_window_size": 2 * b}
    )
    yield "block-sparse: values that are all 1", block_by_block(q, k, ones, b, window).max(), 1, sparse(q, k, ones).max()
    for ratio in (0.1, 0.2):
        share = len(their_dilated_sparse(64, [1, 2, 4])) / 64**2
        config = {"sparsity_ratio": ratio, "block_size": 1}
        mask = here.BlockSparseRingDilatedAttention([64] * 3, [1, 2, 4], config).pattern.mask(64, 3).double()
        yield f"dilated_sparse, sparsity_ratio {ratio}: share computed", share, ratio, mask.mean()

    x = torch.randn(1, 4096, 64, generator=torch.Generator().manual_seed(1))
    positions = XPOS(64)
    there = far(their_positions(x[:, :8]), their_positions(x)[:, :8])
    moved = far(positions(x[:, :8]), positions(x)[:, :8])
    yield "LongNetLM: change of tokens 0-7 by what follows", there, 0, moved
    half = torch.randn(1, 16384, 64, generator=torch.Generator().manual_seed(1)).half()
    endless = [(~values.isfinite()).sum() for values in (their_positions(half), positions(half))]
    yield "LongNetLM, float16, 16,384 tokens: not finite", endless[0], 0, endless[1]
    layers = LongNet(16, 2, 2, 2, 16, [16], [1]).encoder.layers
    drawn = (layers[0].linear1.weight != layers[1].linear1.weight).double().mean()
    yield "LongNet: share of weights drawn anew in layer 1", 0, 1, drawn


def main():
    print(f"{'case':51} {'there':>10} {'right':>10} {'here':>10}")
    for case, *numbers in cases():
        print(f"{case:51} " + " ".join(f"{float(number):>10.3g}" for number in numbers))


if __name__ == "__main__":
    main()
