"""KeyValueCache: what attention keeps of the positions so far while it decodes."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .._refusal import dtype as dtype_name
from .._refusal import refuse, shape


def empty_cache(rows: Sequence[int], dtype: torch.dtype, device: torch.device) -> "KeyValueCache":
    """A cache of `rows`: [batch, capacity, kv_heads, dim]."""
    return KeyValueCache(*(torch.empty(rows, dtype=dtype, device=device) for _ in range(2)))


@dataclass
class KeyValueCache:
    """Keys and values of the positions so far, for decoding: preallocated, so that a step copies only its own rows.

    Attributes:
        k, v: [batch, capacity, kv_heads, dim], positions already applied.
        length: positions [0, length) are filled.
    """

    k: Tensor
    v: Tensor
    length: int = 0

    @property
    def capacity(self) -> int:
        return self.k.size(1)

    def __reduce__(self) -> tuple:
        """A copied or pickled cache is empty."""
        return empty_cache, (self.k.shape, self.k.dtype, self.k.device)

    def check_room(self, length: int) -> None:
        if not 0 <= self.length <= self.capacity - length:
            got = f"{self.length} of {self.capacity} filled"
            refuse("cache", f"must have room for {length} more rows", got, "make it with a larger capacity")

    def append(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Writes the rows behind those that are filled; all keys and values up to them. `length` stays."""
        for held in (self.k, self.v):
            kind = (held.shape[:1], held.shape[2:], held.dtype, held.device)
            if kind != (k.shape[:1], k.shape[2:], k.dtype, k.device):
                wanted = f"must be [{k.size(0)}, capacity, {k.size(2)}, {k.size(3)}] {dtype_name(k.dtype)}"
                got = f"{shape(held)} {dtype_name(held.dtype)}"
                refuse("cache", wanted, got, "make it with make_cache() of this module")
        end = self.length + k.size(1)
        self.k[:, self.length : end] = k
        self.v[:, self.length : end] = v
        return self.k[:, :end], self.v[:, :end]
