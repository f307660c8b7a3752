"""From a type's name to a module: what auto is, and the check of options that every type shares."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from .._refusal import refuse
from ..nn import DilatedAttention, MultiheadDilatedAttention
from ..nn._config import refuse_unknown
from ._builtin import builtin_registry, device_of
from ._configs import RingAttentionConfig, name_of, ranks_of
from ._registry import OptionInfo, Registry
from ._sparse import SparseAttentionConfig
from ._value import Config, read

AUTO = "auto"
JOB = ("world_size", "rank", "backend")


@dataclass(frozen=True)
class Choice:
    """Which type was built or is to be, and why."""

    type: str
    reason: str


def available(registry: Registry | None = None) -> list[str]:
    """The names that the functions below take: "auto" and the registered types."""
    return [AUTO, *(registry or builtin_registry()).names()]


def engine_for(device: torch.device) -> str:
    """What this library has for a device."""
    if device.type == "cuda" and torch.cuda.is_available():
        q = torch.empty(0, 0, 1, 8, dtype=torch.bfloat16, device=device)
        try:
            torch.ops.longstride.attention(
                q, q, q, '{"causal":false,"dilated":{"segment_lengths":[1],"dilation_rates":[1]}}'
            )
            return "engine cuda"
        except (ValueError, RuntimeError):
            pass
    return "engine cpu" if device.type == "cpu" else "no engine of this build"


def choose_attention(*configs: Config, **options: Any) -> Choice:
    """What "auto" is for these options.

    Block-sparse if one of them describes a block pattern, dilated if not; sharded if the group that they name has more
    than one rank, or a placement is asked for. The reason names the ranks, the device and the engine.

    Raises:
        ValueError: the group cannot be found; an option that is given twice.
    """
    given = {name: value for name, value in merged(configs, options).items() if value is not None}
    keys = [field.name for field in dataclasses.fields(SparseAttentionConfig) if field.name in given]
    group = read("group", name_of(given.get("group")), "str | None")
    ranks = ranks_of(RingAttentionConfig(group))
    job = any(name in given for name in JOB)
    sharded = ranks > 1 or job or "group" in given or "ring_size" in given
    if keys:
        kind = "block_sparse_ring_distributed" if job else "block_sparse_ring" if sharded else "block_sparse"
    else:
        kind = "distributed" if job else "ring" if sharded else "standard"
    device = given.get("device", "cpu")
    what = f"a block pattern is asked for ({keys[0]})" if keys else "dilated groups"
    where = f"{ranks} ranks share the sequence" if ranks > 1 else "one rank holds the whole sequence"
    return Choice(kind, f"{what}; {where}; device {device}: {engine_for(device_of(device))}")


def said_by(config: Config) -> dict[str, Any]:
    """What a config says: the fields that differ from their defaults, and those without which it says nothing."""
    said = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    defaults = {field.name: field.default for field in dataclasses.fields(config)}
    kept = {name: value for name, value in said.items() if value != defaults[name]}
    if kept.pop("learned", None) is not None:
        remedy = 'say it as SparseAttentionConfig("learned", ...), or build the module itself'
        refuse("learned", "must be None in a config that a type is built of", "learned blocks", remedy)
    if isinstance(config, SparseAttentionConfig):
        kept["pattern"] = config.pattern
    elif "blocks" in kept:
        kept["pattern"] = "hybrid"  # a module's rules, as the factory's types say them
    return kept


def merged(configs: tuple[Config, ...], options: Mapping[str, Any]) -> dict[str, Any]:
    """The options that configs and keywords say together."""
    every: dict[str, Any] = {}
    for config in configs:
        if not isinstance(config, Config):
            wanted = "must be a config of longstride.factory"
            refuse("config", wanted, type(config).__name__, "give options by their names")
        for name, value in said_by(config).items():
            if every.get(name, value) != value:
                refuse(name, "must be given once", "two values in configs", "leave one of them out")
            every[name] = value
    for name, value in options.items():
        if name in every and value is not None:
            refuse(name, "must be given once", "in a config and by name", "leave one of them out")
        every.setdefault(name, value)
    return every


def require_listed(kind: str, options: Mapping[str, Any], listed: tuple[OptionInfo, ...]) -> None:
    known = [option.name for option in listed]
    for name in options:
        if name not in known:
            refuse_unknown(f"option of type {kind}", name, known)


def create(asked: str, configs: tuple[Config, ...], options: Mapping[str, Any], registry: Registry | None, which: str):
    registry = builtin_registry() if registry is None else registry
    options = merged(configs, options)
    if not isinstance(asked, str):
        refuse("type", "must be a name", type(asked).__name__, f"one of {', '.join(available(registry))}")
    if asked != AUTO and asked not in registry:
        refuse_unknown("attention type", asked, available(registry))
    choice = choose_attention(**options) if asked == AUTO else Choice(asked, "asked for by name")
    builder = registry[choice.type]
    require_listed(choice.type, options, getattr(builder, f"{which}options"))
    module = getattr(builder, f"build{'_multihead' if which else ''}")(options)
    module.choice = choice
    return module


def create_dilated_attention(
    type: str = AUTO, *configs: Config, registry: Registry | None = None, **options: Any
) -> DilatedAttention:
    """A module over q, k and v, of a type by its name.

    Args:
        type: one of `available()`. "auto" chooses, as `choose_attention` says.
        *configs: `DilatedAttentionConfig`, `SparseAttentionConfig`, `RingAttentionConfig`, `DistributedConfig`: what they
            say besides their defaults are options.
        registry: where types are looked up; None: `builtin_registry()`.
        **options: of the type, by name; None: its default. `registry[type].options` lists them, and so does
            docs/factory.md.
    Returns:
        The module; its `choice` says which type it is and why.
    Raises:
        ValueError: an unknown type or option (with the nearest name), an option given twice, a value of the wrong kind,
            and all that the module refuses, before anything is built. Learned blocks, which C++ alone builds yet.
    """
    return create(type, configs, options, registry, "")


def create_multihead_dilated_attention(
    type: str = AUTO, *configs: Config, registry: Registry | None = None, **options: Any
) -> MultiheadDilatedAttention:
    """The same around projections: embed_dim, num_heads and the other options of `MultiheadDilatedAttention` besides.

    Args:
        type, registry: as in `create_dilated_attention`.
        *configs: `MultiheadConfig` too.
        **options: of the type; also device and dtype of the weights, by name or as torch has them.
    Raises:
        ValueError: as in `create_dilated_attention`.
    """
    return create(type, configs, options, registry, "multihead_")


def create_block_sparse_attention(
    *configs: Config, registry: Registry | None = None, **options: Any
) -> MultiheadDilatedAttention:
    """`create_multihead_dilated_attention` of type block_sparse, or of its sharded kind where a placement is asked for.

    The pattern is dilated_sparse unless another is named.
    """
    if options.get("pattern") is None and not any(isinstance(config, SparseAttentionConfig) for config in configs):
        options["pattern"] = SparseAttentionConfig().pattern
    return create_multihead_dilated_attention(AUTO, *configs, registry=registry, **options)


def create_adaptive_sparse_attention(
    *configs: Config, registry: Registry | None = None, **options: Any
) -> MultiheadDilatedAttention:
    """`create_multihead_dilated_attention` of type block_sparse_adaptive: learned blocks.

    A call's `choices` receives what was chosen, with the density_loss to train with.
    """
    return create_multihead_dilated_attention("block_sparse_adaptive", *configs, registry=registry, **options)
