"""ValidationMixin of the larger fork: its methods, and the conditions that they check."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import torch
from torch import Tensor

from ..._refusal import dtype as dtype_name
from ..._refusal import refuse, shape

MASK_TYPES = (torch.bool, torch.float32, torch.float16, torch.bfloat16)


class ValidationMixin:
    """Checks of arguments. Each raises ValueError, with the argument, what it must be and what it was."""

    @staticmethod
    def validate_segment_dilation_match(segment_lengths: Sequence[int], dilation_rates: Sequence[int]) -> None:
        """That neither list is empty, and both have one length."""
        for name, given in (("segment_lengths", segment_lengths), ("dilation_rates", dilation_rates)):
            if len(given) == 0:
                refuse(name, "cannot be empty", "[]")
        if len(segment_lengths) != len(dilation_rates):
            raise ValueError(
                "segment_lengths and dilation_rates must have the same length: "
                f"{len(segment_lengths)} != {len(dilation_rates)}"
            )

    @staticmethod
    def validate_positive_values(values: Sequence[float], name: str) -> None:
        for i, value in enumerate(values):
            if not value > 0:
                refuse(f"{name}[{i}]", "must be positive", value)

    @staticmethod
    def validate_tensor_shape(tensor: Tensor, expected_dims: int, name: str) -> None:
        if tensor.dim() != expected_dims:
            refuse(name, f"expected {expected_dims}D tensor", f"{tensor.dim()}D, {shape(tensor)}")

    @staticmethod
    def validate_tensor_shapes_match(
        tensors: list[Tensor], names: list[str], dims_to_check: list[int] | None = None
    ) -> None:
        """That all have the first one's sizes: in these dimensions; None: in all."""
        for tensor, name in zip(tensors[1:], names[1:]):
            first = tensors[0]
            if dims_to_check is None and tensor.shape != first.shape:
                raise ValueError(f"Shape mismatch: {names[0]} has {shape(first)}, {name} has {shape(tensor)}")
            for dim in dims_to_check or ():
                if tensor.size(dim) != first.size(dim):
                    raise ValueError(
                        f"Shape mismatch at dimension {dim}: {names[0]} has size {first.size(dim)}, {name} has size "
                        f"{tensor.size(dim)}"
                    )

    @staticmethod
    def validate_sequence_length(seq_len: int, segment_lengths: Sequence[int]) -> None:
        """That the longest segment divides the sequence. Attention of this package takes any length and never asks."""
        if len(segment_lengths) == 0:
            refuse("segment_lengths", "cannot be empty", "[]")
        longest = max(segment_lengths)
        if seq_len % longest:
            remedy = f"pad it to {(seq_len // longest + 1) * longest}"
            refuse("Sequence length", f"must be divisible by the largest segment length {longest}", seq_len, remedy)

    @staticmethod
    def validate_device_dtype_consistency(tensors: Sequence[Tensor], names: Sequence[str]) -> None:
        for tensor, name in zip(tensors, names):
            first = tensors[0]
            if tensor.device != first.device:
                raise ValueError(f"Device mismatch: {names[0]} on {first.device}, {name} on {tensor.device}")
            if tensor.dtype != first.dtype:
                raise ValueError(
                    f"Dtype mismatch: {names[0]} has {dtype_name(first.dtype)}, {name} has {dtype_name(tensor.dtype)}"
                )

    @staticmethod
    def validate_batch_first_format(tensor: Tensor, name: str, expected_dims: int = 4) -> None:
        if tensor.dim() != expected_dims:
            refuse(name, f"must be {expected_dims}D tensor in batch-first format", f"{tensor.dim()}D, {shape(tensor)}")

    @staticmethod
    def validate_attention_mask(
        mask: Tensor | None, batch_size: int, seq_len: int, name: str = "attention_mask"
    ) -> None:
        """That a mask is [seq_len, seq_len] or [batch_size, 1, seq_len, seq_len]. Attention here takes none."""
        if mask is None:
            return
        square = (seq_len, seq_len)
        if mask.dim() not in (2, 4):
            refuse(name, "must be either 2D or 4D", f"{mask.dim()}D")
        wanted = square if mask.dim() == 2 else (batch_size, 1, *square)
        if mask.shape != wanted:
            refuse(name, f"must be {list(wanted)}", shape(mask))
        if mask.dtype not in MASK_TYPES:
            refuse(name, "must have boolean or float dtype", dtype_name(mask.dtype))

    @staticmethod
    def validate_dropout_prob(dropout: float, name: str = "dropout") -> None:
        """In [0, 1], as there. Modules refuse 1, which drops everything."""
        if not 0 <= dropout <= 1:
            refuse(name, "must be between 0.0 and 1.0", dropout)

    @staticmethod
    def validate_head_dim(embed_dim: int, num_heads: int) -> int:
        """embed_dim / num_heads; warns where it is not a multiple of 8 or above 128."""
        if embed_dim % num_heads:
            refuse("embed_dim", f"must be divisible by num_heads ({num_heads})", embed_dim)
        dim = embed_dim // num_heads
        if dim % 8 or dim > 128:
            warnings.warn(
                f"longstride: head_dim should be divisible by 8 and at most 128, got {dim}: it takes a slower path",
                stacklevel=2,
            )
        return dim

    @staticmethod
    def validate_num_heads(num_heads: int, num_groups: int) -> None:
        if num_heads < num_groups:
            refuse("num_heads", f"must be >= num_groups ({num_groups})", num_heads)
