"""Which pattern a layer has: its config's, else that of register(), else dense; and how a window goes with it."""

import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from ..._attention import constant
from ..._pattern import Pattern, plain, text_of
from ..._refusal import refuse

# One segment of every sequence.
EVERYTHING = 2**31 - 1
DENSE = {"segment_lengths": [EVERYTHING], "dilation_rates": [1]}
WHOLE_KEYS = {"causal", "dilated", "blocks"}


@dataclass(frozen=True)
class Choice:
    """A pattern's text, None for dense attention, and whether layers with a sliding window are left theirs."""

    text: str | None
    full_attention_only: bool = False

    @functools.cached_property
    def segment(self) -> int:
        """The length up to which this is dense attention: that of the only segment, at rate 1; else 0."""
        if self.text is None:
            return EVERYTHING
        data = json.loads(self.text)
        fields = data.get("dilated", {})
        alone = not data.get("blocks") and fields.keys() == DENSE.keys() and len(fields["segment_lengths"]) == 1
        return fields["segment_lengths"][0] if alone and fields["dilation_rates"] == [1] else 0


def choice_of(name: str, given: Any, full_attention_only: bool = False) -> Choice:
    """What a pattern in any form says; `name` is what it is called in a refusal."""
    if given is None:
        return Choice(None, full_attention_only)
    if isinstance(given, Pattern):
        return Choice(given.json(), full_attention_only)
    if isinstance(given, str):
        return Choice(Pattern.from_json(given).json(), full_attention_only)
    if not isinstance(given, Mapping):
        wanted = 'must be a dict such as {"segment_lengths": [2048], "dilation_rates": [1]}, or a pattern\'s JSON text'
        refuse(name, wanted, type(given).__name__)
    fields = plain(given, name)
    only = fields.pop("full_attention_only", full_attention_only)
    if not isinstance(only, bool):
        refuse(f"{name}.full_attention_only", "must be True or False", repr(only))
    if not fields:
        return Choice(None, only)
    if not fields.keys() & (WHOLE_KEYS - {"causal"}):  # the fields of Pattern.dilated by themselves
        fields = {"causal": fields.pop("causal", False), "dilated": fields}
    return Choice(Pattern(text_of(fields)).json(), only)


@functools.lru_cache(maxsize=64)
def kept_choice(text: str) -> Choice:
    return choice_of("config.longstride", json.loads(text))


def chosen(given: Any, bound: Choice) -> Choice:
    """What config.longstride says, and if it says nothing what register() was given."""
    if given is None:
        return bound
    if isinstance(given, Pattern):
        refuse(
            "config.longstride",
            "must be a dict or a text, which transformers can save with the config",
            "a Pattern",
            "give json.loads(pattern.json())",
        )
    if isinstance(given, str):
        return choice_of("config.longstride", given)
    return kept_choice(text_of(plain(given, "config.longstride")))


@functools.lru_cache(maxsize=256)
def with_causal(text: str, causal: bool) -> str:
    data = json.loads(text)
    if data["causal"] and not causal:
        remedy = "leave causal out: it is the model's"
        refuse("causal of the pattern", "must not be True in a model that is not causal", "True", remedy)
    return text_of({**data, "causal": causal})


@functools.lru_cache(maxsize=64)
def dense_text(causal: bool) -> str:
    return Pattern.dilated(**DENSE, causal=causal).json()


@functools.lru_cache(maxsize=64)
def window_text(window: int, causal: bool) -> str:
    """A model's sliding window: a token and window - 1 before it, and as many behind it where it looks there."""
    if window < 1:
        refuse("sliding_window", "must be at least 1", window)
    return Pattern.sliding_window(window - 1, None if causal else window - 1, causal=causal).json()


def layer_text(given: Any, bound: Choice, longest: int | None, causal: bool, window: int | None, within: bool) -> str:
    """`longest`: the tokens that the model takes at most; `within`: whether all keys lie in the window."""
    choice = chosen(given, bound)
    if window is None:
        return dense_text(causal) if choice.text is None else with_causal(choice.text, causal)
    # Of no length that the model takes does such a pattern hide anything.
    dense = choice.text is None or (longest is not None and choice.segment >= longest)
    if not dense and not choice.full_attention_only:
        refuse(
            "pattern",
            "must be dense in a layer with a sliding window: what both show is no pattern",
            f"{choice.text} beside sliding_window {window}",
            "set config.sliding_window = None to have the pattern alone, or full_attention_only to leave such layers "
            "their window",
        )
    return dense_text(causal) if within else window_text(window, causal)


@torch.compiler.assume_constant_result
def traced_layer_text(given, text, full_attention_only, *rest) -> str:
    return layer_text(given, Choice(text, full_attention_only), *rest)


def text_for(config: Any, bound: Choice, causal: bool, window: int | None, keys: int) -> str:
    """The text of a layer's pattern over so many keys."""
    given, longest = getattr(config, "longstride", None), getattr(config, "max_position_embeddings", None)
    # Not the comparison itself, which in a graph is no bool.
    within = True if window is not None and keys <= window else False
    if not torch.compiler.is_compiling():
        return layer_text(given, bound, longest, causal, window, within)
    rest = (constant(longest), causal, constant(window), within)
    return traced_layer_text(constant(given), bound.text, bound.full_attention_only, *rest)
