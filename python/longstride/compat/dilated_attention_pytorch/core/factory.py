"""The factory functions and their registries."""

from longstride.compat.dilated_attention_pytorch._factory import (
    _ATTENTION_REGISTRY,
    _MULTIHEAD_REGISTRY,
    _ensure_implementations_registered,
    create_adaptive_sparse_attention,
    create_block_sparse_attention,
    create_dilated_attention,
    create_multihead_dilated_attention,
    register_attention,
    register_multihead_attention,
)

__all__ = [
    "create_adaptive_sparse_attention",
    "create_block_sparse_attention",
    "create_dilated_attention",
    "create_multihead_dilated_attention",
    "register_attention",
    "register_multihead_attention",
]
