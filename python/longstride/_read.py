"""Values of options, read as the C++ reader of JSON does, with its words for those of a wrong type."""

import json
import operator
from collections.abc import Callable, Mapping
from typing import Any

from ._pattern import plain
from ._refusal import refuse


def number(value: float) -> str:
    """A number in a message, as the library has it: 1.0 is 1."""
    return repr(value).removesuffix(".0")


def shown(value: Any) -> str:
    """A value in a message, as its JSON."""
    try:
        return json.dumps(value, separators=(",", ":"), ensure_ascii=False)
    except (TypeError, ValueError):
        return repr(value)


def integer(key: str, value: Any) -> int:
    if isinstance(value, bool):
        refuse(key, "must be an integer", shown(value))
    try:
        whole = operator.index(value)
    except TypeError:
        refuse(key, "must be an integer", shown(value))
    if not -(2**63) <= whole < 2**63:
        refuse(key, "must be an integer below 2^63", whole)
    return whole


def real(key: str, value: Any) -> float:
    if isinstance(value, (bool, str)):
        refuse(key, "must be a number", shown(value))
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        refuse(key, "must be a number", shown(value))


def truth(key: str, value: Any) -> bool:
    if not isinstance(value, bool):
        refuse(key, "must be true or false", shown(value))
    return value


def word(key: str, value: Any) -> str:
    if not isinstance(value, str):
        refuse(key, "must be a string", shown(value))
    return value


def listed(key: str, value: Any, what: str, entry: Callable[[str, Any], Any]) -> tuple[Any, ...]:
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, (str, Mapping)) or not hasattr(value, "__iter__"):
        refuse(key, f"must be a list of {what}", shown(value))
    return tuple(entry(f"{key}[{i}]", one) for i, one in enumerate(value))


def integers(key: str, value: Any) -> tuple[int, ...]:
    return listed(key, value, "integers", integer)


def reals(key: str, value: Any) -> tuple[float, ...]:
    return listed(key, value, "numbers", real)


def mapping(key: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        refuse(key, "must be an object", shown(value))
    return plain(value, key)

READERS: dict[str, Callable[[str, Any], Any]] = {
    "int": integer,
    "float": real,
    "bool": truth,
    "str": word,
    "tuple[int, ...]": integers,
    "tuple[float, ...]": reals,
    "dict": mapping,
}


def read(key: str, value: Any, annotation: str, readers: Mapping[str, Callable[[str, Any], Any]] = READERS) -> Any:
    """`value` as a field of this type has it. Raises ValueError."""
    kind = annotation.removesuffix(" | None")
    if value is None and kind != annotation:
        return None
    return readers[kind](key, value)
