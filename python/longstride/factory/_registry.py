"""Types of attention by name. A registry is a value: nothing registers itself, and two know nothing of each other."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from .._refusal import refuse
from ..nn._config import refuse_unknown

Build = Callable[[Mapping[str, Any]], nn.Module]


@dataclass(frozen=True)
class OptionInfo:
    """One option as documentation.

    Attributes:
        name: its keyword.
        default: in JSON's types; None: unset.
        meaning: one line, with its unit and values.
    """

    name: str
    default: Any
    meaning: str


@dataclass(frozen=True)
class AttentionBuilder:
    """How a type is built, and which options it takes: one that is not listed is refused before `build` is called.

    Attributes:
        summary: one line.
        options, build: of a module that takes q, k and v.
        multihead_options, build_multihead: of one with projections.
    """

    summary: str
    options: tuple[OptionInfo, ...]
    build: Build
    multihead_options: tuple[OptionInfo, ...]
    build_multihead: Build


class Registry:
    """Types by name. `copy.copy` of one is another one."""

    def __init__(self) -> None:
        self.builders: dict[str, AttentionBuilder] = {}

    def __copy__(self) -> Registry:
        other = Registry()
        other.builders = dict(self.builders)
        return other

    def register_attention(self, name: str, builder: AttentionBuilder, *, replace: bool = False) -> None:
        """Adds a type.

        Raises:
            ValueError: a name that is empty, is "auto", or is taken and `replace` is False; something that is no
                builder. The registry is as it was.
        """
        if not isinstance(name, str) or name in ("", "auto"):
            refuse("name", 'must be a word other than "auto"', f"'{name}'", "auto chooses among the registered")
        if not (isinstance(builder, AttentionBuilder) and callable(builder.build) and callable(builder.build_multihead)):
            refuse("builder", "must have build and build_multihead", type(builder).__name__)
        if not replace and name in self.builders:
            refuse("name", "must not be registered twice", f"'{name}'", "pass replace to take its place")
        self.builders[name] = builder

    def names(self) -> list[str]:
        """Sorted."""
        return sorted(self.builders)

    def __contains__(self, name: str) -> bool:
        return name in self.builders

    def __getitem__(self, name: str) -> AttentionBuilder:
        """Raises ValueError for an unknown name, with the nearest."""
        if name not in self.builders:
            refuse_unknown("attention type", name, self.names())
        return self.builders[name]


def joined(registry: Registry, more: Mapping[str, AttentionBuilder]) -> None:
    """Registers all of `more`, or none if one of the names is taken."""
    trial = copy.copy(registry)
    for name, builder in more.items():
        trial.register_attention(name, builder)
    registry.builders = trial.builders
