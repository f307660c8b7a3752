"""Refusals that the modules share, in the words of src/nn/require.h."""

import math
from typing import Any

from .._refusal import refuse


def require_positive(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        refuse(name, "must be an integer", value)
    if value <= 0:
        refuse(name, "must be positive", value)


def require_positive_finite(name: str, value: float) -> None:
    if not (value > 0 and math.isfinite(value)):
        refuse(name, "must be positive and finite", value)


def require_dropout(name: str, value: float) -> None:
    if not 0 <= value < 1:
        refuse(name, "must be in [0, 1)", value)
