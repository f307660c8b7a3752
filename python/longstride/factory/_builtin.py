"""The types that come with the package: options to modules. All of them are one engine; what differs is the pattern,
and over how many ranks it runs."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from .._refusal import refuse
from ..nn import DilatedAttention, MultiheadDilatedAttention, _learned
from ..nn._config import refuse_unknown
from ..parallel import place
from ._configs import (
    DilatedAttentionConfig,
    DistributedConfig,
    MultiheadConfig,
    RingAttentionConfig,
    name_of,
    ranks_of,
    ring_of,
)
from ._meanings import MEANINGS
from ._registry import AttentionBuilder, OptionInfo, Registry, joined
from ._sparse import TAKES, SparseAttentionConfig
from ._value import listed, read

DTYPES = {name: getattr(torch, name) for name in ("float32", "float64", "bfloat16", "float16")}
DILATED = {"segment_lengths": (2048, 4096, 8192), "dilation_rates": (1, 2, 4)}
WIDTH = {"embed_dim": 768, "num_heads": 12}
# Of a module without projections that chooses its own blocks: what a multihead one knows.
OF_SCORER = (("head_dim", "int | None", None), ("kv_heads", "int | None", None))
PLACE = (("device", "str", "cpu"), ("dtype", "str", "float32"))

Field = tuple[str, str, Any]  # name, type, default


def fields_of(config: type, *without: str) -> Iterator[Field]:
    for field in dataclasses.fields(config):
        if field.name not in without:
            yield field.name, field.type, field.default


def device_of(given: Any) -> torch.device:
    try:
        return torch.device(given)
    except (RuntimeError, TypeError, ValueError):
        refuse("device", "must be a device such as cpu or cuda:0", f"'{given}'")


def place_of(given: Any) -> torch.device:
    """A device that this torch and machine have, so that weights can be there."""
    device = device_of(given)
    count = 1 if device.type == "cpu" else 0
    if device.type not in ("cpu", "meta"):
        try:
            count = torch.get_device_module(device.type).device_count()
        except (AttributeError, RuntimeError):
            pass
    if (device.index or 0) >= count:
        wanted = "must be one that this torch and machine have, to hold weights"
        refuse("device", wanted, f"'{given}'", 'build the module on "cpu"')
    return device


def dtype_of(given: Any) -> torch.dtype:
    if given in DTYPES.values():
        return given
    name = str(given).removeprefix("torch.")
    if name not in DTYPES:
        refuse_unknown("dtype", name, DTYPES)
    return DTYPES[name]


@dataclass(frozen=True)
class Fields:
    """Which options one function of a type takes.

    Attributes:
        multihead: whether it has projections.
        blocks: "none", "by name", "learned".
        placement: the config that says where it runs; None: this process.
    """

    multihead: bool
    blocks: str
    placement: type[RingAttentionConfig] | None

    def module(self) -> list[Field]:
        config = MultiheadConfig if self.multihead else DilatedAttentionConfig
        own = {**(WIDTH if self.multihead else {}), **(DILATED if self.blocks == "none" else {})}
        # Block patterns are said by the options of the sparse types.
        return [(name, kind, own.get(name, default)) for name, kind, default in fields_of(config, "blocks", "learned")]

    def sparse(self) -> list[Field]:
        if self.blocks == "none":
            return []
        fields = list(fields_of(SparseAttentionConfig))
        if self.blocks == "learned":
            return [field for field in fields if field[0] in ("block_size", *TAKES["learned"])]
        return fields

    def where(self) -> list[Field]:
        return list(fields_of(self.placement)) if self.placement else []

    def all(self) -> list[Field]:
        own = [] if self.multihead or self.blocks == "none" else list(OF_SCORER)
        return [*self.module(), *self.sparse(), *own, *self.where(), *(PLACE if self.multihead else ())]

    def described(self) -> tuple[OptionInfo, ...]:
        return tuple(OptionInfo(name, listed(default), MEANINGS[name]) for name, _, default in self.all())

    def filled(self, options: Mapping[str, Any]) -> tuple[dict[str, Any], RingAttentionConfig | None]:
        """The module's arguments, and where it runs. Raises ValueError."""
        given = {name: value for name, value in options.items() if value is not None}
        if ("segment_lengths" in given) != ("dilation_rates" in given):
            alone = "segment_lengths" if "segment_lengths" in given else "dilation_rates"
            refuse("segment_lengths and dilation_rates", "must be given together", f"{alone} alone")
        if "group" in given:
            given["group"] = name_of(given["group"])
        kinds = {name: kind for name, kind, _ in self.all()}
        given = {
            name: value if name in ("device", "dtype") else read(name, value, kinds[name])
            for name, value in given.items()
        }
        arguments = {name: given.get(name, default) for name, _, default in self.module()}
        if self.blocks != "none":
            arguments.update(self.chosen_blocks(given))
        where = None
        if self.placement is not None:
            where = self.placement(**{name: given[name] for name, _, _ in self.where() if name in given})
            ranks_of(where)
        return arguments, where

    def chosen_blocks(self, given: Mapping[str, Any]) -> dict[str, Any]:
        said = {name: given[name] for name, _, _ in self.sparse() if name in given}
        if self.blocks == "learned":
            said["pattern"] = "learned"
        config = SparseAttentionConfig(**said)
        learned = config.learned_blocks()
        if not self.multihead:
            if learned is not None:
                sizes = {"head_dim": given.get("head_dim", 64), "kv_heads": given.get("kv_heads", 12)}
                learned = _learned.filled({**learned, **sizes})
            elif "head_dim" in given or "kv_heads" in given:
                remedy = 'tensors bring their own; or set pattern to "learned"'
                refuse("head_dim and kv_heads", "must be unset without learned blocks", "a number", remedy)
        return {"blocks": config.block_patterns(), "learned": learned}

    def build(self, options: Mapping[str, Any]) -> nn.Module:
        arguments, where = self.filled(options)
        if not self.multihead:
            return placed(DilatedAttention(**arguments), where)
        device, dtype = place_of(options.get("device") or "cpu"), dtype_of(options.get("dtype") or "float32")
        # Checked where it costs nothing, before memory is taken.
        MultiheadDilatedAttention(**arguments, device="meta")
        return placed(MultiheadDilatedAttention(**arguments).to(device, dtype), where)


def placed(module: nn.Module, where: RingAttentionConfig | None) -> nn.Module:
    ring = None if where is None else ring_of(where)
    return module if ring is None else place(module, ring)


def builder(summary: str, blocks: str, placement: type[RingAttentionConfig] | None) -> AttentionBuilder:
    plain, multihead = Fields(False, blocks, placement), Fields(True, blocks, placement)
    return AttentionBuilder(summary, plain.described(), plain.build, multihead.described(), multihead.build)


def register_builtin(registry: Registry) -> None:
    """Registers standard, improved, ring, distributed, block_sparse, block_sparse_ring, block_sparse_ring_distributed
    and block_sparse_adaptive.

    Raises:
        ValueError: one of the names is taken; then none is registered.
    """
    ring, distributed = RingAttentionConfig, DistributedConfig
    types = {
        "standard": builder("dilated (LongNet) attention", "none", None),
        "improved": builder("another name of standard: the same engine", "none", None),
        "ring": builder("standard, the sequence shared by a ring of ranks", "none", ring),
        "distributed": builder("ring, checked against the job that it is started in", "none", distributed),
        "block_sparse": builder("block-sparse patterns, alone or with dilated groups", "by name", None),
        "block_sparse_ring": builder("block_sparse, the sequence shared by a ring of ranks", "by name", ring),
        "block_sparse_ring_distributed": builder(
            "block_sparse_ring, checked against the job that it is started in", "by name", distributed
        ),
        "block_sparse_adaptive": builder("blocks that a scorer learns to choose", "learned", None),
    }
    joined(registry, types)


def builtin_registry() -> Registry:
    """A registry of these types."""
    registry = Registry()
    register_builtin(registry)
    return registry
