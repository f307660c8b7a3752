"""Options by name: the fields of a class's config.json, their defaults and types, read off its constructor."""

import difflib
import inspect
import json
from collections.abc import Iterable, Mapping
from typing import Any, NoReturn

from .._pattern import DILATED_DEFAULTS, Pattern, plain
from .._refusal import refuse

# What a constructor takes and a config does not say: where a model is, not what it is; and a pattern, whose options it has.
BESIDE = ("self", "device", "dtype", "pattern")
TYPES = {"int": "an integer", "float": "a number", "bool": "true or false", "str": "a string"}


def own_fields(made: type) -> dict[str, inspect.Parameter]:
    """The named parameters of a class's own constructor, in their order."""
    parameters = inspect.signature(made.__init__).parameters
    return {
        name: parameter
        for name, parameter in parameters.items()
        if name not in BESIDE and parameter.kind is not inspect.Parameter.VAR_KEYWORD
    }


def has_type(value: Any, annotation: str) -> bool:
    if isinstance(value, bool):
        return annotation == "bool"
    kinds: dict[str, Any] = {"int": int, "float": (int, float), "bool": bool, "str": str}
    return isinstance(value, kinds[annotation])


def require_types(made: type, values: Mapping[str, Any]) -> None:
    """Refuses a value of a wrong type among a constructor's arguments. Lists and blocks are the pattern's to check."""
    for name, parameter in own_fields(made).items():
        annotation = getattr(parameter.annotation, "__name__", str(parameter.annotation))
        if annotation in TYPES and not has_type(values[name], annotation):
            refuse(name, f"must be {TYPES[annotation]}", repr(values[name]))


def refuse_unknown(kind: str, given: Any, known: Iterable[str]) -> NoReturn:
    known = list(known)
    near = difflib.get_close_matches(str(given), known, 1)
    remedy = f"; did you mean '{near[0]}'?" if near else ""
    raise ValueError(f"unknown {kind} '{given}'; one of [{', '.join(known)}]{remedy}")


def require_alone(pattern: Any, made: type, given: Mapping[str, Any]) -> None:
    """Refuses a pattern that is none, or that comes with options that it has itself."""
    if not isinstance(pattern, Pattern):
        refuse("pattern", "must be a Pattern", type(pattern).__name__, "give its JSON to Pattern.from_json()")
    for name in flat(pattern):
        default = own_fields(made)[name].default if name in own_fields(made) else None
        if name in given and plain(given[name], name) != plain(default, name):
            refuse(name, "must be unset beside a pattern, which says it", given[name], "give one of them")


def flat(pattern: Pattern) -> dict[str, Any]:
    """A pattern as the flat fields of a config (include/longstride/pattern/flat.h)."""
    data = json.loads(pattern.json())
    groups = data.get("dilated", {})
    return {
        "segment_lengths": groups.get("segment_lengths", []),
        "dilation_rates": groups.get("dilation_rates", []),
        "causal": data["causal"],
        **{name: groups.get(name, default) for name, default in DILATED_DEFAULTS.items()},
        "blocks": data.get("blocks", []),
    }
