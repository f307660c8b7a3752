"""Configs as frozen dataclasses: types of their fields read as the C++ reader does, JSON in and out as it writes it."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from typing import Any, TypeVar

from .. import _read
from .._pattern import Pattern, plain, text_of
from .._read import number, shown
from .._refusal import refuse
from .._rules import in_order
from ..nn._config import refuse_unknown

Self = TypeVar("Self", bound="Config")
Rule = dict[str, Any]  # of blocks, as a pattern's JSON has it
Level = dict[str, Any]  # of the rule "hierarchical"


def blocks(key: str, value: Any) -> tuple[Rule, ...]:
    """Rules of blocks as a pattern's JSON has them."""
    if isinstance(value, (str, Mapping)) or not hasattr(value, "__iter__"):
        refuse(key, "must be a list of block patterns", shown(value))
    rules = plain(value, key)
    if not rules:
        return ()
    return tuple(in_order(rule) for rule in json.loads(Pattern(text_of({"blocks": rules})).json())["blocks"])


def levels(key: str, value: Any) -> tuple[Level, ...]:
    if isinstance(value, (str, Mapping)) or not hasattr(value, "__iter__"):
        refuse(key, "must be a list of {stride, window} or {stride, global: true}", shown(value))
    return blocks("blocks", [{"pattern": "hierarchical", "block_size": 1, "levels": plain(value, key)}])[0]["levels"]


READERS = {**_read.READERS, "tuple[Rule, ...]": blocks, "tuple[Level, ...]": levels}


def read(key: str, value: Any, annotation: str) -> Any:
    """`value` as a field of this type has it. Raises ValueError."""
    return _read.read(key, value, annotation, READERS)


def listed(value: Any) -> Any:
    """`value` in JSON's types."""
    if isinstance(value, (tuple, list)):
        return [listed(one) for one in value]
    return {key: listed(one) for key, one in value.items()} if isinstance(value, dict) else value


@dataclasses.dataclass(frozen=True)
class Config:
    """What the configs share. They are frozen: what one is passed to cannot change it, and equal ones are ==."""

    def __post_init__(self):
        for field in dataclasses.fields(self):
            object.__setattr__(self, field.name, read(field.name, getattr(self, field.name), str(field.type)))
        self.validate()

    def validate(self) -> None:
        """Raises ValueError for values that do not fit; the constructor calls it."""

    def to_dict(self) -> dict[str, Any]:
        """Every field, in JSON's types."""
        return {field.name: listed(getattr(self, field.name)) for field in dataclasses.fields(self)}

    def to_json(self) -> str:
        """Every field, as the C++ config of this name writes it and both read it."""
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, float) and not math.isfinite(value):
                refuse(field.name, "must be finite to be written", number(value))
        return json.dumps(self.to_dict(), indent=2, ensure_ascii=False)

    @classmethod
    def from_json(cls: type[Self], text: str) -> Self:
        """The config of a JSON object; keys that are missing have their defaults.

        Raises:
            ValueError: no JSON object, an unknown key (with the nearest one), a value of a wrong type or out of range.
        """
        try:
            data = json.loads(text)
        except (ValueError, RecursionError, TypeError) as error:
            refuse("config", "must be JSON", str(error))
        if not isinstance(data, dict):
            refuse("config", "must be a JSON object", type(data).__name__)
        known = [field.name for field in dataclasses.fields(cls)]
        for key in data:
            if key not in known:
                refuse_unknown("config key", key, known)
        return cls(**data)
