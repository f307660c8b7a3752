"""KeyValueCache: what attention keeps of the positions so far while it decodes."""

from dataclasses import dataclass

import torch
from torch import Tensor

from .._refusal import dtype as dtype_name
from .._refusal import refuse, shape
from ._retention import Retention

# Rows beyond those that stay: so many tokens pass before the rows are copied again, at 1/32 of what reading them in every
# step costs.
SPARE_ROWS = 64


@dataclass
class KeyValueCache:
    """Keys and values of the positions so far, for decoding: preallocated, so that a step copies only its own rows.

    Keys that no later query sees are dropped now and then, so that under windows or segments the rows stay few however
    long a sequence becomes.

    Attributes:
        k, v: [batch, rows, kv_heads, dim], positions already applied.
        length: positions so far; rows [0, length - dropped) are filled.
        dropped: of these, behind the sinks.
        capacity: positions that fit; None: as many as rows.
        retention: what may be dropped; None: nothing.
    """

    k: Tensor
    v: Tensor
    length: int = 0
    dropped: int = 0
    capacity: int | None = None
    retention: Retention | None = None

    def __post_init__(self) -> None:
        if self.capacity is None:
            self.capacity = self.k.size(1)

    @staticmethod
    def empty(
        batch: int,
        capacity: int,
        kv_heads: int,
        dim: int,
        retention: Retention | None,
        dtype: torch.dtype,
        device: torch.device,
    ) -> "KeyValueCache":
        rows = (batch, usual_rows(retention, capacity), kv_heads, dim)
        k, v = (torch.empty(rows, dtype=dtype, device=device) for _ in range(2))
        return KeyValueCache(k, v, capacity=capacity, retention=retention)

    def __reduce__(self) -> tuple:
        """A copied or pickled cache is empty."""
        batch, _, kv_heads, dim = self.k.shape
        parts = (batch, self.capacity, kv_heads, dim, self.retention, self.k.dtype, self.k.device)
        return KeyValueCache.empty, parts

    def outlived(self) -> int:
        """How many positions behind the sinks what follows does not see."""
        return self.retention.outlived(self.length) if self.retention else 0

    def check_room(self, length: int) -> None:
        if not 0 <= self.length <= self.capacity - length:
            got = f"{self.length} of {self.capacity} filled"
            refuse("cache", f"must have room for {length} more rows", got, "make it with a larger capacity")
        if not 0 <= self.dropped <= self.outlived() or self.length - self.dropped > self.k.size(1):
            wanted = f"must hold what positions from its length {self.length} on see"
            got = f"one in {self.k.size(1)} rows without {self.dropped} positions"
            refuse("cache", wanted, got, "go on from where it was, or begin again")

    def append(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Writes the rows behind those that are filled; all keys and values that they see. `length` stays, so that a step
        that fails behind this can be run again."""
        for held in (self.k, self.v):
            kind = (held.shape[:1], held.shape[2:], held.dtype, held.device)
            if kind != (k.shape[:1], k.shape[2:], k.dtype, k.device):
                wanted = f"must be [{k.size(0)}, rows, {k.size(2)}, {k.size(3)}] {dtype_name(k.dtype)}"
                got = f"{shape(held)} {dtype_name(held.dtype)}"
                refuse("cache", wanted, got, "make it with make_cache() of this module")
        gone = self.outlived()
        rows = max(usual_rows(self.retention, self.capacity), self.length - gone + k.size(1))
        if self.length - self.dropped + k.size(1) > self.k.size(1) or rows < self.k.size(1):
            self.k, self.v = self.moved(self.k, gone, rows), self.moved(self.v, gone, rows)
            self.dropped = gone
        begin = self.length - self.dropped
        end = begin + k.size(1)
        self.k[:, begin:end] = k
        self.v[:, begin:end] = v
        return self.k[:, :end], self.v[:, :end]

    def moved(self, old: Tensor, gone: int, rows: int) -> Tensor:
        """What is held without the first `gone` positions behind the sinks, in so many rows of its own."""
        fresh = old.new_empty(old.size(0), rows, *old.shape[2:])
        sinks = self.retention.sinks if self.retention and gone else 0
        kept = old[:, sinks + gone - self.dropped : self.length - self.dropped]
        fresh[:, :sinks] = old[:, :sinks]
        fresh[:, sinks : sinks + kept.size(1)] = kept
        return fresh


def usual_rows(retention: Retention | None, capacity: int) -> int:
    """Rows of a cache between the calls, which may bring more at once."""
    return capacity if retention is None else min(capacity, retention.most_kept + SPARE_ROWS)
