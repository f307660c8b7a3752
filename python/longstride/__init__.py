"""Exact attention over very long sequences: dilated (LongNet) and block-sparse patterns, on the CPU and CUDA.

    import longstride as ls

    out = ls.dilated_attention(q, k, v, [2048, 4096], [1, 2], causal=True)
    out, lse = ls.attention(q, k, v, ls.Pattern.block_sparse("local_window", 64, window=512), return_lse=True)

q is [batch, len, heads, dim], k and v [batch, len, kv_heads, dim]. Bad input is a ValueError that says what to do.
"""

from . import _library, _registration

_library.load()
_registration.register()

from ._attention import attention, block_sparse_attention, dilated_attention, sliding_window_attention  # noqa: E402
from ._describe import describe  # noqa: E402
from ._doctor import doctor  # noqa: E402
from ._engine import use_engine  # noqa: E402
from ._merge import draw_dropout_seed, merge, with_sink  # noqa: E402
from ._pattern import Pattern  # noqa: E402
from ._weights import attention_weights  # noqa: E402
from ._version import __version__  # noqa: E402
from . import parallel  # noqa: E402
from . import nn  # noqa: E402
from . import factory  # noqa: E402

__all__ = [
    "Pattern",
    "__version__",
    "attention",
    "attention_weights",
    "block_sparse_attention",
    "describe",
    "dilated_attention",
    "doctor",
    "draw_dropout_seed",
    "factory",
    "merge",
    "nn",
    "parallel",
    "sliding_window_attention",
    "use_engine",
    "with_sink",
]
