"""What patch() takes for torchscale: modules with a class DilatedAttention, which by itself cannot run here."""

import types

import torch
from torch import nn

SOURCE = """
class DilatedAttention(nn.Module):
    def __init__(self, args, embed_dim, num_heads, xpos=None):
        super().__init__()
        self.args, self.embed_dim, self.num_heads = args, embed_dim, num_heads
        self.head_dim, self.dropout, self.xpos = embed_dim // num_heads, 0.0, xpos
        for name in ("k_proj", "v_proj", "q_proj", "out_proj"):
            setattr(self, name, nn.Linear(embed_dim, embed_dim))
        self.inner_attn_ln = nn.LayerNorm(embed_dim)

    def dense_to_sparse(self, x, ratio): ...

    def sparse_to_dense(self, out, lse, ratio): ...

    def forward(self, query, key, value, **others):
        assert self.args.flash_attention
        raise AssertionError  # as without flash-attn
"""


class XPOS(nn.Module):
    """As much of torchscale's as its buffer and its settings."""

    def __init__(self, head_dim, scale_base):
        super().__init__()
        self.head_dim, self.scale_base = head_dim, scale_base
        self.register_buffer("scale", (torch.arange(0, head_dim, 2) + 0.4 * head_dim) / (1.4 * head_dim))


def module_like(name, file):
    """A module `name`, as if it had been read from `file`."""
    module = types.ModuleType(name)
    module.__file__ = file
    module.nn = nn
    exec(compile(SOURCE, file, "exec"), module.__dict__)
    return module
