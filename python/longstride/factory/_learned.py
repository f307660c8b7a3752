"""Learned blocks as a value: what LearnedBlocks of C++ is in a config's JSON, with its checks. Python builds none."""

import math
from collections.abc import Mapping
from typing import Any

from .._refusal import refuse
from ..nn._checks import require_positive
from ..nn._config import refuse_unknown
from ._value import number, read

# Name: (type, default), in the order of C++.
FIELDS: dict[str, tuple[str, Any]] = {
    "block_size": ("int", 64),
    "density": ("float", 0.1),
    "min_density": ("float | None", None),
    "max_density": ("float | None", None),
    "hidden": ("int", 32),
    "temperature": ("float", 1.0),
    "head_dim": ("int", 0),
    "kv_heads": ("int", 0),
}


def filled(given: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """With every field, of the types of C++. Raises ValueError."""
    if given is None:
        return None
    given = read("learned", given, "dict")
    for key in given:
        if key not in FIELDS:
            refuse_unknown("key of learned", key, FIELDS)
    return {key: read(key, given.get(key, default), kind) for key, (kind, default) in FIELDS.items()}


def validate(learned: Mapping[str, Any]) -> None:
    """Raises ValueError for numbers out of range. head_dim and kv_heads are a module's to know."""
    require_positive("block_size", learned["block_size"])
    require_positive("hidden", learned["hidden"])
    temperature, density = learned["temperature"], learned["density"]
    if not (temperature >= 0 and math.isfinite(temperature)):
        refuse("temperature", "must be finite and not negative", number(temperature))
    for name in ("density", "min_density", "max_density"):
        if learned[name] is not None and not 0 < learned[name] < 1:
            refuse(name, "must be in (0, 1)", number(learned[name]))
    least, most = learned["min_density"], learned["max_density"]
    if least is not None and most is not None and least >= most:
        refuse("min_density", f"must be below max_density {number(most)}", number(least))
    least, most = density if least is None else least, density if most is None else most
    if not least <= density <= most:
        got = f"{number(density)} outside [{number(least)}, {number(most)}]"
        refuse("density", "must be from min_density to max_density", got)
