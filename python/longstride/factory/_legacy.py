"""The legacy constructors: arguments are bound to the parameters of a table, and those become options here."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from .._read import integer, shown, word
from .._refusal import refuse
from ..nn import (
    DilatedAttention,
    DilatedTransformerDecoderLayer,
    DilatedTransformerEncoderLayer,
    LongNet,
    MultiheadDilatedAttention,
)
from ..nn._config import refuse_unknown
from ._builtin import dtype_of, place_of
from ._create import create_dilated_attention, create_multihead_dilated_attention
from ._legacy_tables import CLASSES, LegacyClass, Parameter

# What the known library computes, where that is right: one group a head, by its number, and the mean over the groups.
MIXING = {"head_offset": "group", "mixing": "head_partition", "average": True}
SPARSE_KEYS = ("pattern_type", "sparsity_ratio", "block_size", "local_window_size", "global_tokens")
LOWER = "lower the scorer's temperature itself"
# AdaptiveConfig's fields. Those without an option have no counterpart.
SCORER = (
    Parameter("base_sparsity", ("sparsity_ratio",), 0.9),
    Parameter("temperature", ("temperature",), 1.0),
    Parameter("hidden_dim", ("hidden",), 128),
    Parameter("learnable_temperature", (), True, False, LOWER),
    Parameter("min_temperature", (), 0.1, False, LOWER),
    Parameter("num_layers", (), 2, False, "a scorer has two layers"),
    Parameter("share_across_heads", (), False, False, "every KV head has a scorer"),
    Parameter("sparsity_reg_weight", (), 0.01, False, "weight the density loss where you add it to the loss"),
    Parameter("hard_sparsity", (), False, False, "a block is computed or not; leave it out"),
)
ACTIVATIONS = {
    nn.functional.relu: "relu",
    nn.functional.gelu: "gelu",
    nn.functional.silu: "silu",
    torch.relu: "relu",
    torch.tanh: "tanh",
}


def legacy_class_names() -> list[str]:
    """The classes that the functions below know, sorted."""
    return sorted(CLASSES)


def class_named(name: str, kind: str) -> LegacyClass:
    names = [known for known in legacy_class_names() if CLASSES[known].kind == kind]
    if name not in names:
        refuse_unknown("class", name, names)
    return CLASSES[name]


def bound(
    name: str, of: LegacyClass, arguments: tuple[Any, ...], keywords: Mapping[str, Any], also: Iterable[str] = ()
) -> dict[str, Any]:
    """What was given to each parameter of a class, and to the keywords in `also`."""
    if len(arguments) > len(of.positional):
        refuse(name, f"takes at most {len(of.positional)} positional arguments", len(arguments))
    given = {parameter.name: value for parameter, value in zip(of.positional, arguments)}
    names = [*(parameter.name for parameter in (*of.positional, *of.keywords)), *also]
    for keyword, value in keywords.items():
        if keyword not in names:
            refuse_unknown(f"argument of {name}", keyword, names)
        if keyword in given:
            refuse(keyword, "must be given once", "by position and by name", "leave one of them out")
        given[keyword] = value
    return given


def refuse_unless_default(parameter: Parameter, value: Any) -> None:
    same = value == parameter.default and isinstance(value, bool) == isinstance(parameter.default, bool)
    if value is not None and not same:
        wanted = f"must be its default {shown(parameter.default)}, for it has no counterpart"
        refuse(parameter.name, wanted, shown(value), parameter.instead)


def translated(name: str, of: LegacyClass, arguments: tuple[Any, ...], keywords: Mapping[str, Any]) -> dict[str, Any]:
    """Options here."""
    given = bound(name, of, arguments, keywords)
    options: dict[str, Any] = {}
    for parameter in (*of.positional, *of.keywords):
        value = given.get(parameter.name)
        if parameter.required and value is None:
            refuse(name, f"needs {parameter.name}", "none")
        if not parameter.options:
            refuse_unless_default(parameter, value)
        value = parameter.default if value is None else value
        for option in parameter.options if value is not None else ():
            if option in options:
                refuse(parameter.name, "must be given once", "under two names")
            options[option] = value
    if callable(options.get("activation")):
        options["activation"] = activation_name(options["activation"])
    return options


def activation_name(activation: Any) -> str:
    if activation not in ACTIVATIONS:
        known = ", ".join(sorted(set(ACTIVATIONS.values())))
        refuse("activation", f"must be a name, or torch's function for one of {known}", activation)
    return ACTIVATIONS[activation]


def taken_object(options: dict[str, Any], key: str, known: Iterable[str]) -> dict[str, Any]:
    """The fields of a config object or mapping under a key, which is taken out; {} if there is none."""
    given = options.pop(key, None)
    if given is None:
        return {}
    if dataclasses.is_dataclass(given) and not isinstance(given, type):
        # A config object has every field; those at their defaults are not asked for.
        fields = [field for field in dataclasses.fields(given) if getattr(given, field.name) != field.default]
        given = {field.name: getattr(given, field.name) for field in fields}
    if not isinstance(given, Mapping):
        refuse(key, "must be an object", shown(given))
    for name in given:
        if name not in known:
            refuse_unknown(f"key of {key}", name, known)
    return {name: value for name, value in given.items() if value is not None}


def add_pattern(options: dict[str, Any]) -> None:
    """SparsePatternConfig's words for ours. There sparsity_ratio is the share of blocks that is computed, segment_lengths
    have no part in the result, and the distances of dilated_sparse are dilation_rates."""
    options.pop("segment_lengths")
    rates = options.pop("dilation_rates")
    config = taken_object(options, "sparse_config", SPARSE_KEYS)
    ratio = options.pop("sparsity_ratio", None)
    if ratio is not None:
        if "sparsity_ratio" in config:
            refuse("sparsity_ratio", "must be given once", "twice")
        config["sparsity_ratio"] = ratio
    pattern = word("pattern_type", config.get("pattern_type", "dilated_sparse"))
    words = {"density": "sparsity_ratio", "window": "local_window_size", "global_tokens": "global_tokens"}
    options.update({name: config[key] for name, key in words.items() if key in config})
    options["pattern"], options["block_size"] = pattern, config.get("block_size", 128)
    if pattern == "dilated_sparse":
        options["rates"] = rates
        options.setdefault("density", 0.1)
    if pattern == "local_window" and "density" not in options:
        options.setdefault("window", 512)


def add_levels(options: dict[str, Any]) -> None:
    """HierarchicalConfig's levels. There a stride or a window is rounded down to whole blocks of the one block_size, at
    least one, and window_size -1 is everything; a level's own block_size has no part in the result."""
    config = taken_object(options, "hierarchical_config", ("level_configs",))
    sparse = taken_object(options, "sparse_config", SPARSE_KEYS)
    kind = sparse.get("pattern_type", "hierarchical")
    if kind != "hierarchical":
        refuse("pattern_type", "must be hierarchical in BlockSparseHierarchical", shown(kind))
    for key in sparse:
        if key not in ("pattern_type", "block_size"):
            refuse_unknown("key of sparse_config", key, ("pattern_type", "block_size"))
    del options["segment_lengths"], options["dilation_rates"]
    block = integer("block_size", sparse.get("block_size", 64))
    if block <= 0:
        refuse("block_size", "must be positive", block)
    options["pattern"], options["block_size"] = "hierarchical", block
    if "level_configs" not in config:
        return
    if not isinstance(config["level_configs"], (list, tuple)):
        refuse("level_configs", "must be a list", shown(config["level_configs"]))
    options["levels"] = [level_of(level, block) for level in config["level_configs"]]


def level_of(level: Mapping[str, Any], block: int) -> dict[str, Any]:
    for key in level:
        if key not in ("stride", "window_size", "block_size"):
            refuse_unknown("key of level_configs", key, ("stride", "window_size", "block_size"))
    read = {}
    for key in ("stride", "window_size"):
        if key not in level:
            refuse("level_configs", f"needs {key} in every level", "none")
        read[key] = integer(key, level[key])
        if read[key] <= 0 and (key, read[key]) != ("window_size", -1):
            refuse(key, "must be positive", read[key])
    made: dict[str, Any] = {"stride": max(1, read["stride"] // block) * block}
    if read["window_size"] == -1:
        return {**made, "global": True}
    return {**made, "window": max(1, read["window_size"] // block) * block}


def add_scorer(options: dict[str, Any]) -> None:
    """AdaptiveConfig's words for the pattern "learned"; there sparsity is what is left out."""
    config = taken_object(options, "adaptive_config", [parameter.name for parameter in SCORER])
    del options["segment_lengths"], options["dilation_rates"]
    for parameter in SCORER:
        value = config.get(parameter.name, parameter.default)
        if not parameter.options:
            refuse_unless_default(parameter, value)
        for option in parameter.options:
            options[option] = value


def factory_options(
    name: str, of: LegacyClass, arguments: tuple[Any, ...], keywords: Mapping[str, Any]
) -> dict[str, Any]:
    """The options of a class that the factory builds."""
    options = translated(name, of, arguments, keywords)
    if name == "BlockSparseHierarchical":
        add_levels(options)
    elif name == "BlockSparseAdaptive":
        add_scorer(options)
    elif of.type.startswith("block_sparse"):
        add_pattern(options)
    else:
        options.update(MIXING)
    return options


def from_legacy_attention(class_name: str, *arguments: Any, **keywords: Any) -> DilatedAttention:
    """A module over q, k and v, by a class of dilated-attention-pytorch and that class's own arguments.

    What is built computes what that library says: heads shared out among the groups, offsets by group, the mean over the
    groups. There causal is an argument of forward; here it is fixed: `is_causal` (or `causal`) is one keyword more.

    Args:
        class_name: "DilatedAttention", "ImprovedDilatedAttention", "RingDilatedAttentionV2", ...; `legacy_class_names()`
            has all.
        *arguments, **keywords: in the order and under the names of that class; docs/factory.md has the tables.
    Raises:
        ValueError: a class that is unknown or of another kind, too many arguments, one given twice, one that is missing,
            unknown, or has no counterpart and is not at its default.
    """
    of = class_named(class_name, "attention")
    return create_dilated_attention(of.type, **factory_options(class_name, of, arguments, keywords))


def from_legacy_multihead(class_name: str, *arguments: Any, **keywords: Any) -> MultiheadDilatedAttention:
    """The same for a class that takes embed_dim and num_heads. Mind that MultiheadDilatedAttention has dilation_rates
    before segment_lengths."""
    of = class_named(class_name, "multihead")
    options = factory_options(class_name, of, arguments, keywords)
    options["fused_qkv"] = class_name != "MultiheadDilatedAttention"
    return create_multihead_dilated_attention(of.type, **options)


def built(name: str, kind: str, made: type[nn.Module], arguments: tuple[Any, ...], keywords: Mapping[str, Any]):
    options = translated(name, class_named(name, kind), arguments, keywords)
    device, dtype = place_of(options.pop("device", "cpu")), dtype_of(options.pop("dtype", "float32"))
    # Three projections, as there.
    return made(**options, **MIXING, fused_qkv=False).to(device, dtype)


def from_legacy_encoder_layer(*arguments: Any, **keywords: Any) -> DilatedTransformerEncoderLayer:
    """DilatedTransformerEncoderLayer. One keyword more: is_causal."""
    made = DilatedTransformerEncoderLayer
    return built("DilatedTransformerEncoderLayer", "encoder layer", made, arguments, keywords)


def from_legacy_decoder_layer(*arguments: Any, **keywords: Any) -> DilatedTransformerDecoderLayer:
    """DilatedTransformerDecoderLayer. Keywords more: tgt_is_causal, memory_is_causal."""
    made = DilatedTransformerDecoderLayer
    return built("DilatedTransformerDecoderLayer", "decoder layer", made, arguments, keywords)


def from_legacy_longnet(*arguments: Any, **keywords: Any) -> LongNet:
    """LongNet, an encoder and a decoder. One keyword more: is_causal, of all attention, True as there."""
    return built("LongNet", "LongNet", LongNet, arguments, keywords)
