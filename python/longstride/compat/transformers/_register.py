"""register() and unregister(): the names under which transformers finds longstride."""

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import transformers
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import flash_attention_mask

from ..._pattern import Pattern
from ..._refusal import refuse
from ._attention import attention
from ._masks import mask
from ._patterns import choice_of

# transformers takes names with these words for implementations of its own, or of its hub.
TAKEN_WORDS = ("flash", "sdpa", "eager", "flex_attention", "/", "|")
# What the arguments of a mask function were called before: other versions call it with others.
WANTED_ARGUMENTS = {"batch_size", "q_length", "kv_length", "q_offset", "kv_offset", "mask_function", "attention_mask"}
# The functions that stand registered, by name.
registered: dict[str, Callable] = {}


def check_name(name: Any) -> None:
    if not isinstance(name, str) or not name:
        refuse("name", "must be a text", repr(name))
    for word in TAKEN_WORDS:
        if word in name:
            refuse("name", f"must not contain {word!r}, which transformers reads for itself", repr(name))
    standing = AttentionInterface._global_mapping.get(name)
    if standing is not None and standing is not registered.get(name):
        refuse("name", "must not be another implementation's", repr(name))


def register(
    name: str = "longstride", pattern: Pattern | Mapping | str | None = None, *, full_attention_only: bool = False
) -> None:
    """Registers longstride's attention, and the mask function that it needs, with transformers.

    A model then takes it by `model.set_attn_implementation(name)` or `attn_implementation=name`. Called again with the
    same name it sets another pattern.

    Args:
        name: what it is called in transformers.
        pattern: what attends to what in models whose config has no `longstride`: a Pattern, its JSON text, or a dict as
            config.longstride is; None: dense attention. `causal` comes from the model; a pattern that is causal is
            refused in a model that is not.
        full_attention_only: whether the pattern is that of layers without a sliding window alone, and those with one
            keep the window. Otherwise a pattern beside a sliding window is refused.
    Raises:
        ValueError: a name that is transformers' own, a pattern that the library refuses, a version of transformers
            whose mask functions have other arguments.
    """
    check_name(name)
    if not WANTED_ARGUMENTS <= inspect.signature(flash_attention_mask).parameters.keys():
        refuse(
            "transformers",
            "must be a version whose mask functions take q_length and q_offset",
            transformers.__version__,
            'pip install "transformers>=5.24"',
        )
    function = functools.partial(attention, choice_of("pattern", pattern, full_attention_only))
    registered[name] = function
    AttentionInterface.register(name, function)
    AttentionMaskInterface.register(name, mask)


def unregister(name: str = "longstride") -> None:
    """Takes the name away again; models that use it must be given another implementation before.

    Raises:
        ValueError: a name that register() has not registered.
    """
    if name not in registered:
        refuse("name", "must be one that register() has registered", repr(name), f"registered: {sorted(registered)}")
    del registered[name]
    # transformers registers, but has no word for the contrary.
    AttentionInterface._global_mapping.pop(name, None)
    AttentionMaskInterface._global_mapping.pop(name, None)
