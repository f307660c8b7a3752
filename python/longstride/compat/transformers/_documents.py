"""Packed rows: the bounds of their documents, from cu_seq_lens or from positions that start again."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..._refusal import refuse
from ._masks import bounds

NAMES = ("cu_seq_lens_q", "cu_seq_lens_k")


def kept(tensor: Tensor, name: str, make: Callable[[Tensor], Any]) -> Any:
    """make(tensor), once while the tensor does not change: all layers of a forward are given the same one."""
    if torch.compiler.is_compiling() or tensor.is_inference():  # changes of the latter are not counted
        return make(tensor)
    version, made = getattr(tensor, name, (None, None))
    if version != tensor._version:
        version, made = tensor._version, make(tensor)
        setattr(tensor, name, (version, made))
    return made


def on_host(tensor: Tensor) -> Tensor:
    return tensor.cpu()


def given(options: dict[str, Tensor | None]) -> Tensor | None:
    """The bounds that the caller has given, on the host."""
    of_queries, of_keys = (options[name] for name in NAMES)
    if of_queries is None:
        if of_keys is not None:
            refuse("cu_seq_lens_q", "must be given with cu_seq_lens_k", "None")
        return None
    queries = kept(of_queries, "_longstride_host", on_host)
    if of_keys is not None and of_keys is not of_queries and not torch.compiler.is_compiling():
        if not torch.equal(queries, kept(of_keys, "_longstride_host", on_host)):
            refuse("cu_seq_lens_k", "must be equal to cu_seq_lens_q", "others")
    return queries


def read_positions(position_ids: Tensor) -> Tensor | None:
    steps = position_ids.diff(dim=1)
    restarts = position_ids[:, 1:] == 0
    begins = torch.nn.functional.pad(restarts, (1, 0))
    if torch.compiler.is_compiling():
        return bounds(begins)
    backwards, any_restart = torch.stack([((steps < 1) & ~restarts).any(), restarts.any()]).tolist()
    if backwards:
        remedy = "give cu_seq_lens_q for other packed rows, or an attention_mask for padding"
        refuse("position_ids", "must grow in a row, or start again at 0", "positions that do neither", remedy)
    return bounds(begins) if any_restart else None


def of_positions(position_ids: Tensor | None, batch: int, length: int) -> Tensor | None:
    """The bounds where positions [1 or batch, len] start again; None where they do not. Models that count in several
    dimensions say nothing by their positions."""
    if position_ids is None or position_ids.dim() != 2 or position_ids.size(1) != length or length < 2:
        return None
    if position_ids.size(0) == batch:
        return kept(position_ids, "_longstride_documents", read_positions)
    return kept(position_ids, "_longstride_documents", lambda one: read_positions(one.expand(batch, -1)))
