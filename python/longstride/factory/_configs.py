"""Configs of the modules, of where attention runs, and of memory. SparseAttentionConfig is in _sparse.py."""

from __future__ import annotations

import dataclasses
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from .._refusal import refuse
from ..nn import DilatedAttention, LongNet, MultiheadDilatedAttention, TransformerLayer, _learned
from ..nn._checks import require_positive
from ..nn._config import own_fields, refuse_unknown
from ._value import Config, Rule

BACKENDS = ("gloo", "nccl", "mpi")


def buildable(options: dict[str, Any]) -> dict[str, Any]:
    """Options of a module without its learned blocks, whose sizes a config need not say; the rest is checked by it."""
    if options["learned"] is None:
        return options
    _learned.validate(options["learned"])
    options = {**options, "learned": None}
    if not (options["segment_lengths"] or options["dilation_rates"] or options["blocks"]):
        options |= {"segment_lengths": [1], "dilation_rates": [1]}
    return options


class WithLearned(Config):
    """A config with a field for learned blocks, which is filled with their defaults."""

    learned: dict[str, Any] | None  # a field of those that are made of this

    def __post_init__(self):
        object.__setattr__(self, "learned", _learned.filled(self.learned))
        super().__post_init__()


@dataclass(frozen=True)
class DilatedAttentionConfig(WithLearned):
    """The options of `longstride.nn.DilatedAttention`, under its names and with its defaults."""

    segment_lengths: tuple[int, ...] = ()
    dilation_rates: tuple[int, ...] = ()
    causal: bool = False
    head_offset: str = "modulo"
    offsets: tuple[int, ...] | None = None
    mixing: str = "joint"
    average: bool = False
    padding: str = "masked"
    blocks: tuple[Rule, ...] = ()
    softmax_scale: float | None = None
    attention_dropout: float = 0.0
    learned: dict | None = None

    def validate(self) -> None:
        """Raises ValueError for what the module refuses."""
        DilatedAttention(**buildable(self.to_dict()))


@dataclass(frozen=True)
class MultiheadConfig(WithLearned):
    """The options of `longstride.nn.MultiheadDilatedAttention`, under its names and with its defaults."""

    embed_dim: int = 0
    num_heads: int = 0
    kv_heads: int = 0
    segment_lengths: tuple[int, ...] = ()
    dilation_rates: tuple[int, ...] = ()
    causal: bool = False
    head_offset: str = "modulo"
    offsets: tuple[int, ...] | None = None
    mixing: str = "joint"
    average: bool = False
    padding: str = "masked"
    blocks: tuple[Rule, ...] = ()
    softmax_scale: float | None = None
    attention_dropout: float = 0.0
    learned: dict | None = None
    fused_qkv: bool = True
    bias: bool = True
    sub_layer_norm: bool = False
    qk_norm: bool = False
    sinks: bool = False
    layer_norm_eps: float = 1e-5
    gamma_init: float = 1.0
    positions: str = "none"
    rope_base: float = 10000.0
    xpos_scale_base: float = 0.0
    max_len: int = 1 << 20
    alibi_slopes: tuple[float, ...] = ()

    def validate(self) -> None:
        """Raises ValueError for what the module refuses; nothing of its size is allocated."""
        MultiheadDilatedAttention(**buildable(self.to_dict()), device="meta")


def longnet_fields() -> Iterator[tuple[str, str, Any]]:
    """(name, type, default) of a LongNet's options in the order of C++: its layers' stand behind its sizes."""
    own, of_layer = own_fields(LongNet), own_fields(TransformerLayer)
    of_attention = {field.name: field for field in dataclasses.fields(MultiheadConfig)}
    sizes = ("form", "num_encoder_layers", "num_decoder_layers", "d_model", "nhead")
    for name in dict.fromkeys((*sizes, *of_attention, *of_layer, *own)):
        if name in ("embed_dim", "num_heads", "causal", "gamma_init", "learned"):
            continue  # by another name, or each stack's own
        parameter = own.get(name) or of_layer.get(name)
        kind = of_attention[name].type if name in of_attention else parameter.annotation.__name__
        yield name, kind, parameter.default if parameter else of_attention[name].default


LongNetOptions = dataclasses.make_dataclass("LongNetOptions", longnet_fields(), bases=(Config,), frozen=True)
LongNetOptions.__module__ = __name__  # where its hints are found


@dataclass(frozen=True)
class LongNetConfig(LongNetOptions):
    """The options of `longstride.nn.LongNet`, under its names and with its defaults."""

    def validate(self) -> None:
        """Raises ValueError for what the model refuses; nothing of its size is allocated."""
        one = {name: min(getattr(self, name), 1) for name in ("num_encoder_layers", "num_decoder_layers")}
        LongNet(**{**self.to_dict(), **one}, device="meta")


@dataclass(frozen=True)
class RingAttentionConfig(Config):
    """Where attention runs: over how many ranks a sequence lies, each of which has a shard of it (docs/parallel.md).

    Args:
        group: a process group by its name (`group.group_name`), or the group; "none": this process by itself. None: the
            default group if one is initialised, else this process by itself.
        ring_size: ranks that share a sequence, >= 1, dividing the group's; None: all of them. The group is cut into rings
            of so many consecutive ranks, each with sequences of its own.
    """

    group: str | None = None
    ring_size: int | None = None

    def __post_init__(self):
        object.__setattr__(self, "group", name_of(self.group))
        super().__post_init__()

    def validate(self) -> None:
        """Raises ValueError; what needs the group is checked by `ranks_of`."""
        if self.ring_size is not None:
            require_positive("ring_size", self.ring_size)


@dataclass(frozen=True)
class DistributedConfig(RingAttentionConfig):
    """RingAttentionConfig, and what the group must be: what a job is started with, checked where it runs.

    Args:
        world_size: ranks that the group must have, >= 1; None: any.
        rank: that this process must have in it, in [0, world_size); None: any.
        backend: of the group: "gloo", "nccl" or "mpi"; must be None without a group.
    """

    world_size: int | None = None
    rank: int | None = None
    backend: str | None = None

    def validate(self) -> None:
        """Raises ValueError, for a ring_size above world_size or not dividing it too."""
        super().validate()
        if self.world_size is not None:
            require_positive("world_size", self.world_size)
        if self.rank is not None and self.rank < 0:
            refuse("rank", "must not be negative", self.rank)
        if self.rank is not None and self.world_size is not None and self.rank >= self.world_size:
            refuse("rank", f"must be below world_size {self.world_size}", self.rank)
        if self.ring_size is not None and self.world_size is not None and self.world_size % self.ring_size:
            refuse("ring_size", f"must divide world_size {self.world_size}", self.ring_size)
        if self.backend is not None and self.backend not in BACKENDS:
            refuse_unknown("backend", self.backend, BACKENDS)


@dataclass(frozen=True)
class MemoryPoolConfig(Config):
    """Bounds of a memory pool, of C++'s UnifiedMemoryPool. Results of Python are torch's own memory.

    Args:
        most_cached_bytes: idle memory that is kept, > 0.
        most_live_bytes: that may be leased at a time, > 0.
    """

    most_cached_bytes: int = 256 << 20
    most_live_bytes: int = 2**63 - 1

    def validate(self) -> None:
        """Raises ValueError."""
        for field in dataclasses.fields(self):
            require_positive(field.name, getattr(self, field.name))


def name_of(group: Any) -> Any:
    """A process group by its name, whether it is given so or as the group itself."""
    return group if group is None or isinstance(group, str) else getattr(group, "group_name", group)


def find_group(name: str | None) -> Any:
    """The process group of a name; None: this process by itself. Raises ValueError if there is none of that name."""
    if name == "none" or (name is None and not initialised()):
        return None
    if name is None:
        return torch.distributed.group.WORLD
    try:
        return torch.distributed.distributed_c10d._resolve_process_group(name)
    except (AttributeError, RuntimeError, ValueError):
        remedy = "initialise it first, or leave group unset for the default one"
        refuse("group", 'must be "none" or the name of a process group of this process', f"'{name}'", remedy)


def initialised() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def ranks_of(config: RingAttentionConfig) -> int:
    """The ranks of the group that a config names: 1 without a group.

    Raises:
        ValueError: the group cannot be found, has other ranks, another rank or backend than the config says, or
            ring_size does not divide its ranks (both numbers are named).
    """
    group = find_group(config.group)
    ranks = 1 if group is None else group.size()
    size = config.ring_size
    if size is not None and (size > ranks or ranks % size):
        remedy = "there is no process group; leave it unset"
        if group is not None:
            remedy = "leave it unset for one ring of all ranks"
        refuse("ring_size", f"must divide the {ranks} ranks of the group", size, remedy)
    if not isinstance(config, DistributedConfig):
        return ranks
    for name, said, found in (
        ("world_size", config.world_size, ranks),
        ("rank", config.rank, 0 if group is None else group.rank()),
    ):
        if said is not None and said != found:
            refuse(name, f"must be that of the group, {found}", said, "leave it unset to take the group's")
    if config.backend is not None:
        if group is None:
            remedy = "initialise a group, or leave it unset"
            refuse("backend", "must be unset without a process group", f"'{config.backend}'", remedy)
        backend = torch.distributed.get_backend(group)
        if backend != config.backend:
            refuse("backend", f"must be that of the group, '{backend}'", f"'{config.backend}'")
    return ranks


# Of each group its rings by their size, made once: a model has many modules.
rings: weakref.WeakKeyDictionary[Any, dict[int, Any]] = weakref.WeakKeyDictionary()


def ring_of(config: RingAttentionConfig) -> Any:
    """The group of ranks that share this process's sequences; None: this process by itself. All ranks of the group that
    the config names must ask for it, since rings that are parts of it are made then.

    Raises:
        ValueError: what `ranks_of` raises; rings within a group of some of the job's ranks, since torch makes groups with
            all of them.
    """
    ranks, group = ranks_of(config), find_group(config.group)
    size = config.ring_size or ranks
    if size == 1:
        return None
    if size == ranks:
        return group
    if ranks != torch.distributed.get_world_size():
        remedy = "make the ring with torch.distributed.new_group and pass it as the group"
        refuse("ring_size", f"must be unset or {ranks} in a group of some of the job's ranks", size, remedy)
    of_group = rings.setdefault(group, {})
    if size not in of_group:
        made = [torch.distributed.new_group(range(first, first + size)) for first in range(0, ranks, size)]
        of_group[size] = made[group.rank() // size]
    return of_group[size]
